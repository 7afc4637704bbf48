"""Kinds: by hand. Which checkpoints may work together, and what is wrong with those that may not."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medcontrast import checkpoint
from medcontrast.checkpoint import checkpoint_hash, load_weights, save_resume, save_weights
from medcontrast.errors import CheckpointError, InputError
from medcontrast.inference import members
from medcontrast.inference.members import load_member, load_members
from medcontrast.inference.predict import Predictor

CPU = torch.device("cpu")


def test_a_member_knows_its_checkpoint(tmp_path: Path, tools: SimpleNamespace) -> None:
    path = tools.write_checkpoint(tmp_path / "run" / "last.safetensors", channels=("t1", "t2"))
    for given in (path, path.parent):
        member = load_member(given, CPU)
        assert member.path == path and member.channels == ("t1", "t2") and member.labels.values == (0, 3, 7)
        assert not member.network.training
        tensors, _ = load_weights(path)
        assert all(torch.equal(value, tensors[name]) for name, value in member.network.state_dict().items())


def test_the_hash_of_a_member_is_that_of_its_weights_where_training_replaces_them(
    tmp_path: Path, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tools.write_checkpoint(tmp_path / "run" / "last.safetensors")
    tensors, header = load_weights(path)
    later = {name: value + 1 for name, value in tensors.items()}
    loaded: list[Path] = []

    def load(file: Path) -> Any:
        found = load_weights(file)
        if not loaded:
            save_weights(file, later, {**header, "step": header["step"] + 1})
        loaded.append(file)
        return found

    monkeypatch.setattr(checkpoint, "load_weights", load)
    member = load_member(path.parent, CPU)
    assert len(loaded) == 2 and member.sha256 == checkpoint_hash(path)
    assert member.header["step"] == header["step"] + 1
    assert all(torch.equal(value, later[name]) for name, value in member.network.state_dict().items())


def test_a_resume_file_predicts_with_its_inference_network(tmp_path: Path, tools: SimpleNamespace) -> None:
    tensors, header = load_weights(tools.write_checkpoint(tmp_path / "x" / "last.safetensors"))
    path = tmp_path / "run" / "last.pt"
    path.parent.mkdir()
    method = {f"teacher.{name}": value for name, value in tensors.items()}
    method |= {f"student.{name}": value + 1 for name, value in tensors.items()}
    save_resume(path, {"method": method, "header": header, "inference_prefix": "teacher."})
    found = load_member(path.parent, CPU).network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_the_record_of_a_member_names_no_folder_of_the_training_machine(tmp_path: Path, tools: SimpleNamespace) -> None:
    tensors, header = load_weights(tools.write_checkpoint(tmp_path / "a.safetensors"))
    header["recipe"]["data"] |= {"root": "/home/someone/data", "manifest": "/home/someone/m.json"}
    header["recipe"]["train"]["init_from"] = "/home/someone/old/last.safetensors"
    save_weights(tmp_path / "run" / "last.safetensors", tensors, header)
    member = load_member(tmp_path / "run", CPU)
    assert member.to_json()["checkpoint"] == "run/last.safetensors"
    assert member.to_json()["recipe"]["train"]["init_from"] == "last.safetensors"
    assert member.to_json()["recipe"]["data"]["manifest"] == "m.json"
    assert "someone" not in str(member.to_json())
    assert member.recipe.train.init_from == "/home/someone/old/last.safetensors"


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"spacing_mm": [1.0, 1.0, 1.0]}, r"its spacing_mm are \(1\.0, 1\.0, 1\.0\), not None"),
        ({"channels": ("ct",)}, r"its channels are \['ct'\], not \['image'\]"),
        ({"intensity": {"kind": "as_stored"}}, r"its intensity are \{'kind': 'as_stored'\}, not \{'kind': 'zscore'\}"),
        (
            {"labels": {"labels": {"0": "background", "3": "wall", "8": "left atrium"}}},
            r"its labels are \(0, 3, 8\), not",
        ),
        (
            {"labels": {"labels": {"0": "background", "3": "wall", "7": "aorta"}}},
            r"its label names are \['wall', 'aorta'\]",
        ),
    ],
)
def test_members_that_differ_are_not_averaged(
    tmp_path: Path, tools: SimpleNamespace, other: dict[str, object], sentence: str
) -> None:
    paths = [
        tools.write_checkpoint(tmp_path / "a" / "last.safetensors"),
        tools.write_checkpoint(tmp_path / "b" / "last.safetensors", **other),
    ]
    with pytest.raises(CheckpointError, match=rf"b/last\.safetensors: cannot be averaged with .*a/last.*: {sentence}"):
        load_members(paths, CPU)


def test_members_may_differ_in_patch(tmp_path: Path, tools: SimpleNamespace) -> None:
    paths = [
        tools.write_checkpoint(tmp_path / "a" / "last.safetensors"),
        tools.write_checkpoint(tmp_path / "b" / "last.safetensors", patch=[32, 16, 16]),
    ]
    assert len(load_members(paths, CPU)) == 2
    with pytest.raises(CheckpointError, match="No checkpoint is given"):
        load_members([], CPU)


def test_weights_that_do_not_fit_or_are_not_numbers(tmp_path: Path, tools: SimpleNamespace) -> None:
    tensors, header = load_weights(tools.write_checkpoint(tmp_path / "a.safetensors"))
    name = next(iter(tensors))
    path = tmp_path / "b.safetensors"
    save_weights(path, {key: value for key, value in tensors.items() if key != name}, header)
    with pytest.raises(CheckpointError, match=rf"do not fit the network of its own recipe: {name} is missing\."):
        load_member(path, CPU)
    save_weights(path, {**tensors, "extra": torch.ones(1), name: torch.ones(2)}, header)
    with pytest.raises(CheckpointError, match=r"extra is unknown, and 1 more"):
        load_member(path, CPU)
    broken = tensors[name].clone()
    broken.view(-1)[0] = float("nan")
    save_weights(path, {**tensors, name: broken}, header)
    with pytest.raises(CheckpointError, match=rf"{name} holds NaN or infinite weights; take an earlier checkpoint"):
        load_member(path, CPU)


def test_a_recipe_of_another_version(tmp_path: Path, tools: SimpleNamespace) -> None:
    tensors, header = load_weights(tools.write_checkpoint(tmp_path / "a.safetensors"))
    header["recipe"]["data"]["new_key"] = 1
    save_weights(tmp_path / "b.safetensors", tensors, header)
    with pytest.raises(CheckpointError, match=r"this version of medcontrast cannot use its header: (.|\n)*new_key"):
        load_member(tmp_path / "b.safetensors", CPU)


def test_every_member_computes_in_the_precision_that_it_was_trained_in(
    tmp_path: Path, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever is named first. In 16 bits on a CPU, which nothing but this test does."""
    computing = {"32-true": ("float32", nullcontext), "bf16-mixed": ("bfloat16", partial(torch.autocast, "cpu"))}
    monkeypatch.setattr(members, "autocast_on", lambda device, precision: computing[precision])
    paths = {}
    for precision in computing:
        paths[precision] = tools.write_checkpoint(tmp_path / f"{precision}.safetensors")
        tensors, header = load_weights(paths[precision])
        header["recipe"]["train"]["precision"] = precision
        save_weights(paths[precision], tensors, header)
    image = MetaTensor(torch.sin(torch.arange(18 * 17 * 16.0)).reshape(1, 18, 17, 16))
    alone = {precision: Predictor.load([path]).predict_probabilities(image) for precision, path in paths.items()}
    assert not torch.equal(*alone.values())
    for order in (list(paths), list(paths)[::-1]):
        together = Predictor.load([paths[precision] for precision in order])
        torch.testing.assert_close(together.predict_probabilities(image), sum(alone.values()) / 2)
        record = together.predict_scan(
            [tools.write_nifti(tmp_path / "scan.nii.gz", image[0].numpy(), np.eye(4))]
        ).record
        assert record["settings"]["precision"] == " and ".join(computing[precision][0] for precision in order)


def test_flips_of_what_was_never_mirrored_are_refused(tmp_path: Path, tools: SimpleNamespace) -> None:
    bare = tools.write_checkpoint(tmp_path / "bare/last.safetensors", flip_axes=())
    other = tools.write_checkpoint(tmp_path / "other/last.safetensors", flip_axes=(1,))
    with pytest.raises(InputError, match=r"^--flips: .*bare.* was trained without mirrored scans .* leave it out\.$"):
        Predictor.load([bare], overrides={"flips": True})
    assert Predictor.load([bare, other], overrides={"flips": True}).settings.flips
    assert not Predictor.load([bare], overrides={"flips": False}).settings.flips


def test_an_average_of_recipes_that_predict_otherwise_says_whose_settings_it_has(
    tmp_path: Path, tools: SimpleNamespace
) -> None:
    """None of what differs is refused: the record says what was taken, whichever checkpoint is named first."""
    paths = {}
    for name, overlap in (("a", 0.25), ("b", 0.5)):
        paths[name] = tools.write_checkpoint(tmp_path / f"{name}.safetensors")
        tensors, header = load_weights(paths[name])
        header["recipe"]["inference"] |= {"overlap": overlap, "flips": name == "b"}
        save_weights(paths[name], tensors, header)
    scan = tools.write_nifti(
        tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=(18, 17, 16)).astype(np.float32), np.eye(4)
    )
    for first, other, used in (("a", "b", 0.25), ("b", "a", 0.5)):
        warnings = Predictor.load([paths[first], paths[other]]).predict_scan([scan]).grid.warnings
        found = [warning for warning in warnings if "inference." in warning]
        told = "the first checkpoint's or the one asked for."
        assert found == [
            f"{paths[other]}: its recipe has inference.overlap {0.75 - used}, but the average is predicted with "
            f"{used}, {told}",
            f"{paths[other]}: its recipe has inference.flips {other == 'b'}, but the average is predicted with "
            f"{first == 'b'}, {told}",
        ]
    for alike in ([paths["a"]], [paths["a"], paths["a"]]):
        warnings = Predictor.load(alike, overrides={"flips": True}).predict_scan([scan]).grid.warnings
        assert not any("inference." in warning for warning in warnings)
