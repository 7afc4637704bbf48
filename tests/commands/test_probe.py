"""Tests of `medcontrast probe`: whole, by exact sentence and exit code; property (a frozen encoder stays frozen)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from probe_words import QUICK, Cli, change, refused
from safetensors.torch import load_file

from medcontrast.checkpoint import load_weights, save_weights
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.data.images.sources import ImageCase
from medcontrast.engine.build import make_encoder, make_pretraining_method
from medcontrast.engine.probe import run as probe_run
from medcontrast.engine.probe.images import hold_out, probe_images

SPLIT = {"train": [0, 1, 2], "validation": [3], "test": [4]}
"""Folds of each split."""


@pytest.fixture
def trained(pretrained: Path) -> Path:
    """In this file a run that pre-trained, not one that segments."""
    return pretrained


def test_from_a_run_to_tables_a_picture_and_tensorboard(trained: Path, cli: Cli) -> None:
    answer = cli("probe", "--ckpt", trained, *QUICK, "--from-scratch")
    assert (answer.code, answer.err) == (0, "")
    tensors = len(load_file(trained / "last.safetensors"))
    lines = answer.out.splitlines()
    assert tensors == 114
    assert lines[:2] == [
        f"Loaded 114 of 114 tensors of resnet20 from {trained}/last.safetensors, step 2.",
        f"{trained}/manifest.json: images: 24 fitted, 8 choosing, 12 scored.",
    ]
    assert lines[-1] == f"Written to {trained}/probe_test"
    assert any(line.startswith("pre-trained, 12 labels: accuracy knn ") for line in lines)

    content = json.loads((trained / "probe_test" / "probe.json").read_text())
    rows = {(row["encoder"], row["kind"], row["fraction"]): row for row in content["rows"]}
    assert len(rows) == 12 and {row["labels"] for row in content["rows"]} == {12, 24}
    # all labels of one encoder are one run of what draws nothing; fresh weights differ from seed to seed
    assert rows["pre-trained", "linear", 1.0]["seeds"] == 1 and rows["from scratch", "linear", 1.0]["seeds"] == 2
    assert rows["pre-trained", "linear", 1.0]["values"]["accuracy"]["low"] is None
    linear = rows["pre-trained", "linear", 0.5]
    assert linear["seeds"] == 2 and linear["values"]["domain=A accuracy"]["mean"] <= 1.0
    assert linear["over_units"]["mean"] == pytest.approx(linear["values"]["accuracy"]["mean"])
    facts = content["facts"]
    assert facts["counts"] == {"fitted": 24, "choosing": 8, "scored": 12} and facts["tensors_loaded"] == 114
    assert facts["groups"] == {"domain": {"A": 6, "B": 6}} and facts["warnings"] == facts["notes"] == []
    assert facts["fine_tuning"]["steps"] == 2 and facts["fine_tuning"]["mirror_axis"] == 1

    page = (trained / "probe_test" / "probe.md").read_text()
    assert page.splitlines()[:3:2] == lines[:2]  # the page says what it is of
    assert "| from scratch | finetune | 24 (100 %) | 2 |" in page and "By domain:" in page
    assert "![Embeddings of the scored images](embeddings.png)" in page
    with Image.open(trained / "probe_test" / "embeddings.png") as picture:
        assert picture.size[0] > 900  # class and domain, side by side
    assert "probe/probe_test" in tags(trained)


def tags(run: Path) -> list[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    training = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in training.Scalars("train/loss")] == [1, 2]  # a probe hides no curve
    events = EventAccumulator(str(run / "tensorboard" / "probe"), size_guidance={"images": 0})
    events.Reload()
    assert {event.step for tag in events.Tags()["images"] for event in events.Images(tag)} == {2}
    found: list[str] = events.Tags()["images"]
    return found


def test_two_probes_of_one_encoder_are_equal_and_a_folder_is_not_written_over(
    trained: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ("probe", "--ckpt", trained / "last.safetensors", *QUICK, "-o", tmp_path / "p")
    answers = [cli(*words)]
    first = json.loads((tmp_path / "p/probe.json").read_text())
    refused(
        cli(*words), f"{tmp_path}/p/probe.json: exists already (and 2 more); add --overwrite, or name another output."
    )
    answers.append(cli(*words, "--overwrite"))
    second = json.loads((tmp_path / "p/probe.json").read_text())
    assert [answer.code for answer in answers] == [0, 0]
    assert first["rows"] == second["rows"]


def test_a_frozen_encoder_stays_frozen(
    trained: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics of batch norm too: what was probed and fine-tuned from is, bit for bit, what the file holds."""
    kept, plain = [], probe_run.load_trained

    def remember(checkpoint: Path) -> probe_run.Trained:
        found = plain(checkpoint)
        found.encoder.train()  # whatever mode it comes in
        kept.append(found)
        return found

    monkeypatch.setattr(probe_run, "load_trained", remember)
    assert cli("probe", "--ckpt", trained, *QUICK, "-o", tmp_path / "p").code == 0
    (found,), saved = kept, load_file(trained / "last.safetensors")
    assert found.encoder.state_dict().keys() == saved.keys()
    assert any(name.endswith("running_var") for name in saved)
    assert all(torch.equal(value, saved[name]) for name, value in found.encoder.state_dict().items())
    assert all(module.training for module in found.encoder.modules())
    found.encoder(torch.zeros(2, 1, 16, 16))  # and this is what an unfrozen one would have shown
    assert not all(torch.equal(value, saved[name]) for name, value in found.encoder.state_dict().items())


def test_fresh_weights_of_a_seed_are_those_that_its_run_starts_from(tiny: SimpleNamespace) -> None:
    recipe = tiny.recipe_from(tiny.pretrain_tree())
    start, fresh = make_pretraining_method(recipe).student, make_encoder(recipe, recipe.seed)
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), fresh.parameters(), strict=True))
    other = make_encoder(recipe, recipe.seed + 1)
    assert not torch.equal(next(other.parameters()), next(fresh.parameters()))


def test_an_unfinished_run_is_said(trained: Path, tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "stopped"
    shutil.copytree(trained, folder)
    tensors, header = load_weights(folder / "last.safetensors")
    save_weights(folder / "last.safetensors", tensors, {**header, "step": 1})
    words = ("--manifest", trained / "manifest.json", *QUICK, "--no-finetune", "-o")
    answer = cli("probe", "--ckpt", folder, *words, tmp_path / "first")
    said = f"Warning: {folder}/last.safetensors is of step 1 of 2, of a run that is not finished; `medcontrast train "
    assert f"{said}--resume {folder}` goes on with it." in answer.out, answer.err
    assert "not finished" not in cli("probe", "--ckpt", trained, *words, tmp_path / "second").out


# --- images


def test_other_images_than_the_run_s_own(trained: Path, images: Callable[..., Path], cli: Cli) -> None:
    path = images(validation=0, train=20, quality="low")
    change(
        path,
        lambda tree: [
            tree["train"][0].pop("target"),
            tree["test"][3].pop("quality"),
            tree["test"][0].update(domain="C"),
        ],
    )
    answer = cli("probe", "--ckpt", trained, "--manifest", path, *QUICK, "--no-finetune")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[1:6] == [
        f"{path}: images: 15 fitted, 4 choosing, 12 scored.",
        "1 of 20 images of train have no target and are left out.",
        "4 of 19 training images are held back to choose the linear probe's strength, as no validation split does.",
        "Warning: domain C occurs once in test; its figures are those of one image.",
        "Warning: quality high occurs once in test; its figures are those of one image.",
    ]
    content = json.loads((trained / "probe_manifest_test/probe.json").read_text())
    assert {row["kind"] for row in content["rows"]} == {"knn", "linear"} and content["facts"]["fine_tuning"] is None
    assert len(content["facts"]["notes"]) == len(content["facts"]["warnings"]) == 2


def test_images_that_were_pre_trained_on_are_said(trained: Path, tmp_path: Path, cli: Cli) -> None:
    tree = json.loads((trained / "manifest.json").read_text())
    tree["train"], tree["test"] = tree["test"] + tree["train"][4:], tree["train"][:4]
    path = tmp_path / "turned.json"
    path.write_text(json.dumps(tree))
    answer = cli("probe", "--ckpt", trained, "--manifest", path, *QUICK, "--no-finetune", "-o", tmp_path / "p")
    assert answer.code == 0
    sentence = "Warning: 4 of 4 scored images were pre-trained on; this is not a score on new images."
    assert sentence in answer.out.splitlines()


def test_training_images_that_are_no_longer_those_pre_trained_on_are_said(
    tiny: SimpleNamespace, tmp_path: Path, cli: Cli
) -> None:
    """A row less in a list that is dealt out by number moves every other image to another split."""
    path = tiny.write_images(tmp_path / "data", train=36, test=0)
    names = [entry["image"] for entry in json.loads(path.read_text())["train"]]
    lines = ["image,target", *(f"{name},{number % 2}" for number, name in enumerate(names))]
    (tmp_path / "data/list.csv").write_text("\n".join(lines))
    parts = {split: [{"csv": "list.csv", "folds": 5, "take": take}] for split, take in SPLIT.items()}
    change(path, lambda tree: tree.update(parts))
    run = tiny.make_run(tmp_path, tiny.pretrain_tree(steps=1))
    tiny.train(run)

    def warnings(name: str) -> list[str]:
        answer = cli("probe", "--ckpt", run.folder, *QUICK, "--no-finetune", "-o", tmp_path / name)
        assert answer.code == 0, answer.err
        found: list[str] = json.loads((tmp_path / name / "probe.json").read_text())["facts"]["warnings"]
        assert all(f"Warning: {each}" in answer.out.splitlines() for each in found)
        return found

    assert warnings("before") == []
    (tmp_path / "data/list.csv").write_text("\n".join([lines[0], *lines[3:]]))
    assert warnings("after") == [
        f"the training images of {run.folder}/manifest.json, or what is known of them, are no longer those that were "
        "pre-trained on, so that scored images may be among these; put the data back as they were to know."
    ]


def test_patients_of_whom_other_images_were_pre_trained_on_are_said(
    tiny: SimpleNamespace, images: Callable[..., Path], tmp_path: Path
) -> None:
    tiny.write_images(tmp_path / "data")
    change(tmp_path / "data/manifest.json", lambda tree: [entry.update(patient="p7") for entry in tree["train"][:3]])
    run = tiny.make_run(tmp_path, tiny.pretrain_tree(steps=1))
    tiny.train(run)

    def said(*patients: str) -> list[str]:
        path = images()
        change(path, lambda tree: [entry.update(patient=p) for entry, p in zip(tree["test"], patients, strict=False)])
        scored = load_image_manifest(path).cases("test")
        return probe_run._seen_in_training(probe_run.load_trained(run.folder), None, scored)

    assert said("p7", "p7", "p8") == [
        "2 of 12 scored images are of patients of whom other images were pre-trained on; this is not a score on new "
        "patients."
    ]
    assert said("p8") == said() == []


def test_images_are_prepared_as_in_pre_training(trained: Path, tiny: SimpleNamespace) -> None:
    manifest = load_image_manifest(trained / "manifest.json")
    recipe = tiny.recipe_from(tiny.set_key(tiny.set_key(tiny.pretrain_tree(), "data.mean", 0.3), "data.std", 0.1))
    sets = probe_images(manifest, recipe.data).sets
    pixels = np.asarray(Image.open(manifest.cases("test")[5].file), dtype=np.float64) / 255.0
    np.testing.assert_allclose(sets.test.load([5])[0, 0].numpy(), (pixels - 0.3) / 0.1, atol=1e-5)
    assert sets.test.targets.tolist() == [0, 1] * 6 and sets.classes == 2
    # validation is scored: what chooses then comes from the training images
    found = probe_images(manifest, recipe.data, split="validation")
    assert found.sizes == {"fitted": 20, "choosing": 4, "scored": 8}
    assert [case.name for case in found.scored] == [f"validation/{number:02d}.png" for number in range(8)]


def test_what_is_held_back_is_stratified_by_patient_and_the_same_every_time() -> None:
    cases = [
        ImageCase(f"{number}", Path("x"), target=number % 3 // 2, patient=None if number < 30 else f"p{number % 4}")
        for number in range(60)
    ]
    kept, held = hold_out(cases)
    assert (kept, held) == hold_out(cases) and sorted((*kept, *held), key=lambda case: int(case.name)) == cases
    assert not {case.patient for case in kept} & {case.patient for case in held} - {None}
    plain = [[case.target for case in part if case.patient is None] for part in (kept, held)]
    assert 0.1 < len(plain[1]) / 30 < 0.3 and set(plain[0]) == set(plain[1]) == {0, 1}
    assert hold_out(cases[:2]) == (tuple(cases[:2]), ())
    assert len(hold_out([ImageCase(str(number), Path("x"), target=0) for number in range(10)])[1]) == 2


def test_a_patient_with_the_last_images_of_a_class_is_not_held_back() -> None:
    # ten patients by their first images all of class 0; class 1 stands behind it, of one patient alone
    for rare in range(10):
        cases = [ImageCase(f"{patient}", Path("x"), target=0, patient=f"p{patient}") for patient in range(10)]
        cases += [ImageCase("rare", Path("x"), target=1, patient=f"p{rare}")]
        kept, held = hold_out(cases)
        assert 1 in {case.target for case in kept} and 1 <= len(held) <= 2


def test_copies_of_training_images_under_other_names_are_said(
    trained: Path, images: Callable[..., Path], cli: Cli
) -> None:
    path = images()
    for number, other in ((3, 5), (4, 4)):
        (path.parent / f"test/{number:02d}.png").write_bytes((path.parent / f"train/{other:02d}.png").read_bytes())
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(path.parent / "train/00.png")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(path.parent / "test/00.png")
    words = ("probe", "--ckpt", trained, "--manifest", path, "--no-finetune", *QUICK[:4])
    said = "Warning: 2 of 12 scored images have the pixels of a training image, such as test/03.png; `medcontrast data"
    done = cli(*words, "-o", path.parent / "probe")
    assert done.code == 0 and said in done.out, (done.out, done.err)
    warnings = json.loads((path.parent / "probe/probe.json").read_text())["facts"]["warnings"]
    assert any(warning.startswith("2 of 12 scored images") for warning in warnings)


def test_groups_by_an_attribute(trained: Path, images: Callable[..., Path], cli: Cli) -> None:
    def mark(tree: dict[str, Any]) -> None:
        for number, entry in enumerate(tree["test"]):
            entry["attributes"] = {"sex": number // 2 % 2, "age": 40 + number, "site": 1} if number else {}

    path = change(images(), mark)
    words = ("probe", "--ckpt", trained, "--manifest", path, "--no-finetune", *QUICK[:4])
    assert cli(*words, "-o", path.parent / "plain").code == 0
    done = cli(*words, "-o", path.parent / "probe", "--group-by", "sex")
    assert done.code == 0, done.err
    rows, plain = (json.loads((path.parent / name / "probe.json").read_text())["rows"] for name in ("probe", "plain"))
    for row, without in zip(rows, plain, strict=True):
        values = {name: value["mean"] for name, value in row["values"].items()}
        by = {name: values[f"sex={name} accuracy"] for name in ("0", "1", "(none)")}
        shares = {"0": 5 / 12, "1": 6 / 12, "(none)": 1 / 12}
        assert sum(by[name] * shares[name] for name in by) == pytest.approx(values["accuracy"])
        assert values["sex gap accuracy"] == pytest.approx(max(by.values()) - min(by.values()))
        left = {name: value for name, value in row["values"].items() if not name.startswith("sex")}
        assert left == without["values"]
    where = f"{path}: test: "
    many = "no image has an attribute 'race' to group by; there are age, sex, site."
    refused(cli(*words, "-o", path.parent / "x", "--group-by", "race"), where + many)
    one = change(path, lambda tree: tree["test"][0].update(attributes={"site": 1}))
    words = ("probe", "--ckpt", trained, "--manifest", one, "--no-finetune", *QUICK[:4])
    alone = "site has 1 value, but groups are made of 2 to 20; add an attribute with a number a group."
    refused(cli(*words, "-o", path.parent / "x", "--group-by", "site"), where + alone)


def test_mirroring_goes_with_the_views(tiny: SimpleNamespace) -> None:
    tree = tiny.pretrain_tree()
    assert probe_run.fine_tuning(tiny.recipe_from(tree), 5).mirror_axis == 1
    for option, axis in (({"flip": 0.0}, None), ({"flip_axis": 0}, 0)):
        views = {name: {**view, **option} for name, view in tree["augment"]["views"].items()}
        changed = tiny.recipe_from(tiny.set_key(tree, "augment.views", views))
        assert probe_run.fine_tuning(changed, 5).mirror_axis == axis
    assert probe_run.fine_tuning(tiny.recipe_from(tree), None) is None


@pytest.mark.parametrize(("own", "axis"), [({"flip_axis": 0}, 0), ({"flip": 0.0}, None)])
def test_a_view_that_shares_a_crop_is_mirrored_as_that_one_is(
    tiny: SimpleNamespace, own: Any, axis: int | None
) -> None:
    views = {"first": own, "second": {"same_crop_as": "first"}}
    recipe = tiny.recipe_from(tiny.set_key(tiny.pretrain_tree(), "augment.views", views))
    assert probe_run.fine_tuning(recipe, 5).mirror_axis == axis


def test_a_run_whose_images_lie_elsewhere_now(cli: Cli, pretrained: Path, tmp_path: Path) -> None:
    run, new = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(pretrained, run)
    shutil.copytree(pretrained.parent / "data", new)
    change(run / "manifest.json", lambda tree: tree.update(root=str(tmp_path / "gone")))
    words = ("probe", "--ckpt", run, *QUICK, "--no-finetune", "-o", tmp_path / "out")
    answer = cli(*words)
    told = (
        f"correct the manifest's root {tmp_path / 'gone'} to the folder that its paths start from, or name that folder"
    )
    assert answer.code == 2 and f"{told} with --root." in answer.err
    answer = cli(*words, "--root", new)
    assert (answer.code, answer.err) == (0, "") and "Warning" not in answer.out
    assert f"{run}/manifest.json: images: 24 fitted, 8 choosing, 12 scored." in answer.out
    answer = cli(*words, "--overwrite", "--manifest", new / "manifest.json", "--root", new)
    unknown = "Warning: whether scored images, or others of their patients, were pre-trained on is not known: "
    assert answer.code == 0 and f"{unknown}{run}/manifest.json: train[0]: {tmp_path / 'gone'}" in answer.out
