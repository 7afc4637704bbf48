"""Kinds: by hand, property. Checkpoints come back as they went in; damaged, foreign and malicious files are refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from medcontrast import checkpoint
from medcontrast.errors import CheckpointError, OutputError
from medcontrast.files import write_atomically

HEADER = {
    "recipe": {"seed": 3, "data": {"patch": [8, 8, 8], "spacing_mm": None}},
    "labels": {"labels": {"0": "background", "1": {"name": "Vorhof-Ä", "color": [1, 2, 3]}}},
    "channels": ["image"],
    "network": "teacher",
    "step": 7,
}


def tensors() -> dict[str, torch.Tensor]:
    values = torch.sin(torch.arange(24.0)).reshape(2, 3, 4)
    return {"conv.weight": values, "conv.bias": values[0, 0], "norm.count": torch.tensor(5)}


def test_weights_and_header_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save_weights(path, tensors(), HEADER)
    found, header = checkpoint.load_weights(path)
    assert header == HEADER
    assert checkpoint.read_header(path) == HEADER
    assert set(found) == set(tensors())
    for name, tensor in tensors().items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    """Thirty keys: the library alone would write them in one order twice with a chance of 1 in 30!."""
    header = HEADER | {f"note {number}": "é" * number for number in range(30)}
    for name in ("a", "b"):
        checkpoint.save_weights(tmp_path / f"{name}.safetensors", tensors(), header)
    data = (tmp_path / "a.safetensors").read_bytes()
    assert data == (tmp_path / "b.safetensors").read_bytes()
    assert int.from_bytes(data[:8], "little") % 8 == 0
    assert checkpoint.read_header(tmp_path / "a.safetensors") == header


def test_tied_and_permuted_weights_can_be_saved(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "last.safetensors"
    checkpoint.save_weights(path, {"a": weight, "b": weight, "c": weight.T}, HEADER)
    found, _ = checkpoint.load_weights(path)
    assert torch.equal(found["b"], weight) and torch.equal(found["c"], weight.T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_weights_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "half.safetensors"
    checkpoint.save_weights(path, {"w": tensors()["conv.weight"].to(dtype), "count": torch.tensor(5)}, HEADER)
    found, _ = checkpoint.load_weights(path)
    assert found["w"].dtype == torch.float32 and found["count"].dtype == torch.int64
    assert torch.equal(found["w"], tensors()["conv.weight"].to(dtype).float())


def test_the_header_is_plain_json_for_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save_weights(path, tensors(), HEADER)
    words = safetensors.safe_open(path, framework="pt").metadata()
    assert words["format"] == "medcontrast" and words["version"] == "1"
    assert json.loads(words["labels"]) == HEADER["labels"]


def test_a_header_must_be_complete_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks labels, step"):
        checkpoint.save_weights(
            tmp_path / "a.safetensors", tensors(), {k: v for k, v in HEADER.items() if k not in ("labels", "step")}
        )


def test_resume_state_comes_back_and_gives_the_inference_network(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    method = {f"{owner}.{name}": tensor for owner in ("student", "teacher") for name, tensor in tensors().items()}
    method["teacher.conv.bias"] = torch.full((4,), 9.0)
    state = {"method": method, "step": 7, "rates": [0.1], "header": HEADER, "inference_prefix": "teacher."}
    checkpoint.save_resume(path, state)
    found = checkpoint.load_resume(path)
    assert found["step"] == 7 and found["rates"] == [0.1]
    assert torch.equal(found["method"]["student.conv.weight"], method["student.conv.weight"])
    weights, header = checkpoint.load_weights(path)
    assert header == HEADER == checkpoint.read_header(path)
    assert set(weights) == set(tensors()) and torch.equal(weights["conv.bias"], method["teacher.conv.bias"])


def test_a_resume_state_without_an_inference_network_says_what_to_give(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save_resume(path, {"step": 1})
    with pytest.raises(CheckpointError, match=r"last\.pt: serves only to resume training; give last\.safetensors"):
        checkpoint.load_weights(path)


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, zipped: bool) -> None:
    target, path = tmp_path / "ran", tmp_path / "last.pt"
    if zipped:
        torch.save({"format": "medcontrast", "version": 1, "state": Malicious(target)}, path)
    else:
        path.write_bytes(pickle.dumps({"format": "medcontrast", "version": 1, "state": Malicious(target)}))
    sentence = "may run code when opened; it was not opened" if zipped else "not a checkpoint of medcontrast"
    for read in (checkpoint.load_resume, checkpoint.load_weights, checkpoint.read_header):
        with pytest.raises(CheckpointError, match=sentence):
            read(path)
    assert not target.exists()


def test_a_zip_whose_pickle_was_replaced_does_not_run(tmp_path: Path) -> None:
    target, good, bad = tmp_path / "ran", tmp_path / "good.pt", tmp_path / "bad.pt"
    checkpoint.save_resume(good, {"step": 1, "w": torch.ones(3)})
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as out:
        for name in source.namelist():
            out.writestr(name, pickle.dumps(Malicious(target)) if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(CheckpointError, match="it was not opened"):
        checkpoint.load_resume(bad)
    assert not target.exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_files_are_named_as_such(tmp_path: Path, share: float) -> None:
    weights, resume = tmp_path / "last.safetensors", tmp_path / "last.pt"
    checkpoint.save_weights(weights, {"w": torch.ones(5000)}, HEADER)
    checkpoint.save_resume(resume, {"w": torch.ones(5000)})
    for path in (weights, resume):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(CheckpointError, match=rf"{path.name}: damaged or cut off; copy it again"):
            checkpoint.load_weights(path)


def test_a_sound_file_that_memory_has_no_room_for_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    checkpoint.save_resume(tmp_path / "last.pt", {"w": torch.ones(5)})
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        checkpoint.load_resume(tmp_path / "last.pt")


def test_foreign_files_are_not_ours(tmp_path: Path) -> None:
    bare, text, archive = tmp_path / "bare.safetensors", tmp_path / "notes.txt", tmp_path / "theirs.pt"
    safetensors.torch.save_file(tensors_without_overlap(), bare)
    text.write_text("hello")
    torch.save({"state_dict": tensors()}, archive)
    for path in (bare, text, archive):
        with pytest.raises(CheckpointError, match=rf"{path.name}: not a checkpoint of medcontrast\. Give a run folder"):
            checkpoint.load_weights(path)


def tensors_without_overlap() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors().items()}


def test_a_later_version_asks_for_an_update(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    words = {key: json.dumps(value) for key, value in HEADER.items()}
    data = safetensors.torch.save(tensors_without_overlap(), {**words, "format": "medcontrast", "version": "2"})
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="has checkpoint version 2, but this medcontrast reads version 1; update"):
        checkpoint.load_weights(path)


def test_resolving_a_run_folder_a_file_and_a_models_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.pt").touch()
    assert checkpoint.resolve_checkpoint(run) == run / "last.pt"
    (run / "best.safetensors").touch()
    (run / "last.safetensors").touch()
    assert checkpoint.resolve_checkpoint(run) == run / "last.safetensors"
    assert checkpoint.resolve_checkpoint(run / "best.safetensors") == run / "best.safetensors"
    models = tmp_path / "models"
    models.mkdir()
    (models / "atrium.safetensors").touch()
    assert checkpoint.resolve_checkpoint(models) == models / "atrium.safetensors"
    (models / "heart.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"holds 2 models \(atrium.safetensors, heart.safetensors\); name one"):
        checkpoint.resolve_checkpoint(models)


def test_resolving_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: there is no such checkpoint or run folder"):
        checkpoint.resolve_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no checkpoint in this folder; expected last\.safetensors"):
        checkpoint.resolve_checkpoint(tmp_path)
    (tmp_path / "resolved.yaml").touch()
    with pytest.raises(CheckpointError, match="this run has no checkpoint yet: training has not begun"):
        checkpoint.resolve_checkpoint(tmp_path)


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert checkpoint.checkpoint_hash(path) == hashlib.sha256(b"abc").hexdigest()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save_resume(path, {"step": 1})

    def failing(file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"last\.pt: cannot be written .*No space left"):
        write_atomically(path, failing)
    assert checkpoint.load_resume(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    path, plain = tmp_path / "last.pt", tmp_path / "plain"
    plain.touch()
    checkpoint.save_resume(path, {"step": 1})
    assert path.stat().st_mode == plain.stat().st_mode
