"""Tests of `medcontrast` on damaged data and foreign checkpoints: whole, by exact sentence and exit code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch


def scan_of(place, number=0):
    return place.parent / "data" / "images" / f"case_{number:02d}_0.nii"


def damage(kind, tiny, place):
    """Spoils the files of case_00, a labeled one; gives what the answer must name."""
    image, label = scan_of(place), place.parent / "data" / "labels" / "case_00.nii"
    array = nib.load(image).get_fdata(dtype=np.float32).copy()
    values = nib.load(label).get_fdata(dtype=np.float32).astype(np.uint8)
    if kind == "missing scan":
        image.unlink()
    elif kind == "missing label":
        label.unlink()
    elif kind == "truncated":
        image.write_bytes(image.read_bytes()[:5000])
    elif kind == "no scan at all":
        image.write_text("words")
    elif kind == "2D":
        tiny.write_nifti(image, array[:, :, 0])
    elif kind == "4D":
        tiny.write_nifti(image, np.stack([array, array], axis=-1))
    elif kind == "NaN":
        array[1, 2, 3] = np.nan
        tiny.write_nifti(image, array)
    elif kind == "infinite":
        array[1, 2, 3] = np.inf
        tiny.write_nifti(image, array)
    elif kind == "constant":
        tiny.write_nifti(image, np.full_like(array, 7.0))
    elif kind == "zero spacing":
        content = bytearray(image.read_bytes())
        content[80:92] = np.zeros(3, np.float32).tobytes()  # pixdim
        content[252:256] = np.zeros(2, np.int16).tobytes()  # no qform, no sform
        image.write_bytes(bytes(content))
    elif kind == "absurd spacing":
        tiny.write_nifti(image, array, np.diag([1e6, 1.0, 1.0, 1.0]))
    elif kind == "other grid":
        tiny.write_nifti(label, values, np.diag([1.0, 1.0, 2.0, 1.0]))
    elif kind == "other shape":
        tiny.write_nifti(label, values[:-1])
    elif kind == "unknown value":
        values = values.copy()
        values[1, 2, 3] = 9
        tiny.write_nifti(label, values)
    elif kind == "half a label":
        tiny.write_nifti(label, values + np.float32(0.5))
    return label if kind in ("missing label", "other grid", "other shape", "unknown value", "half a label") else image


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing scan", "1 of 6 files are not there, the first is"),
        ("missing label", "1 of 6 files are not there, the first is"),
        ("truncated", "damaged or cut off: its voxels cannot be read"),
        ("no scan at all", "not a NIfTI file, or its header is damaged"),
        ("2D", "is an image of 2 axes (20 x 18), but a volume of three axes is needed;"),
        ("4D", "has 4 axes (20 x 18 x 22 x 2), but a volume of three is needed"),
        ("NaN", "1 of 7920 voxels are NaN or infinite, the first at index (1, 2, 3)"),
        ("infinite", "1 of 7920 voxels are NaN or infinite, the first at index (1, 2, 3)"),
        ("constant", "every voxel has the value 7; there is nothing to see in it."),
        ("zero spacing", "its voxels measure 0 x 0 x 0 mm, but each edge has to lie between 0.001 and 100 mm"),
        ("absurd spacing", "its voxels measure 1e+06 x 1 x 1 mm"),
        ("other grid", "all files of a case must lie on the grid of"),
        ("other shape", "its shape is 19 x 18 x 22, not 20 x 18 x 22"),
        ("unknown value", "label value 9 (1 voxels) is not in the manifest's table (0 background, 1 front, 2 back)"),
        ("half a label", "a label file holds whole numbers"),
    ],
)
def test_bad_data_gets_a_sentence_and_exit_code_2(cli, refused, tiny, place, kind, words):
    named = damage(kind, tiny, place)
    run = place.parent / "run"
    result = cli("train", place, "-o", run, "--accelerator", "cpu")
    refused(result, str(named), words)
    assert len(result.err) < 600
    assert not (run / "last.pt").exists()


@pytest.mark.parametrize("kind", ["truncated scan", "other grid", "unknown value"])
def test_a_bad_validation_case_is_known_before_the_first_step(cli, refused, tiny, place, kind):
    """Not when it is first validated, hours later, with the steps since the last save lost."""
    image, label = scan_of(place, 4), place.parent / "data" / "labels" / "case_04.nii"
    values = nib.load(label).get_fdata(dtype=np.float32).astype(np.uint8).copy()
    if kind == "truncated scan":
        image.write_bytes(image.read_bytes()[:5000])
    elif kind == "other grid":
        tiny.write_nifti(label, values, np.diag([1.0, 1.0, 2.0, 1.0]))
    else:
        values[1, 2, 3] = 9
        tiny.write_nifti(label, values)
    run = place.parent / "run"
    words = ("train", place, "-o", run, "--accelerator", "cpu")
    refused(cli(*words, "--set", "train.validate_every=2"), str(image if kind == "truncated scan" else label))
    assert not (run / "last.pt").exists()
    assert cli(*words).code == 0  # without validation nobody reads it


def test_after_bad_data_the_same_command_works(cli, tiny, place):
    content = scan_of(place).read_bytes()
    damage("missing scan", tiny, place)
    words = ("train", place, "-o", place.parent / "run", "--accelerator", "cpu")
    assert cli(*words).code == 2
    scan_of(place).write_bytes(content)
    assert cli(*words).code == 0


class Malice:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["MEDCONTRAST_TEST_TRAP"]),))


@pytest.mark.parametrize("command", ["resume", "evaluate", "init_from"])
@pytest.mark.parametrize("kind", ["pickle", "torch pickle", "text", "truncated", "foreign zip"])
def test_what_is_no_checkpoint_is_never_unpickled(cli, refused, place, trained, tmp_path, monkeypatch, command, kind):
    trap = tmp_path / "sprung"
    monkeypatch.setenv("MEDCONTRAST_TEST_TRAP", str(trap))
    run = tmp_path / "copy"
    run.mkdir()
    for name in ("resolved.yaml", "manifest.json"):
        (run / name).write_bytes((trained.folder / name).read_bytes())
    path = run / "last.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Malice()))
    elif kind == "torch pickle":
        torch.save({"format": "medcontrast", "version": 1, "method": Malice()}, path)
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "truncated":
        path.write_bytes((trained.folder / "last.pt").read_bytes()[:-2000])
    else:
        torch.save({"somebody": torch.zeros(2)}, path)
    words = {
        "resume": ["train", "--resume", run, "--set", "train.steps=9", "--accelerator", "cpu"],
        "evaluate": ["evaluate", "--ckpt", path, "--device", "cpu"],
        "init_from": [
            "train",
            place,
            "-o",
            tmp_path / "new",
            "--set",
            f"train.init_from={path}",
            "--accelerator",
            "cpu",
        ],
    }[command]
    refused(cli(*words), str(path))
    assert not trap.exists()
