"""Tests of `medcontrast infer` on bad scans, odd headers and wrong words: whole, by exact sentence; geometry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from infer_runs import Run, write_run, write_scan

from medcontrast.inference.predict import Prediction, Predictor


def test_links_to_files_that_are_not_there_are_not_passed_over(run: Run) -> None:
    """As in a folder of git-annex or DataLad whose content was not fetched."""
    write_run("runs/a")
    write_scan("in/b.nii.gz")
    for name in ("a", "c"):
        Path(f"in/{name}.nii.gz").symlink_to("../objects/nowhere")
    result = run("in", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 2
    assert "in/a.nii.gz: is a link to a file that is not there (and 1 more); fetch it, or take it away." in result.err
    assert not Path("out").exists()


def test_a_bad_scan_is_reported_and_the_others_go_on(run: Run) -> None:
    write_run("runs/a")
    write_scan("in/a.nii.gz", constant=True)
    write_scan("in/b.nii.gz")
    Path("in/c.nii.gz").write_bytes(b"nothing")
    result = run("in", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 2
    lines = result.err.splitlines()
    assert lines[0] == ("[1/3] in/a.nii.gz: failed: every voxel has the value 0; there is nothing to see in it.")
    assert lines[1].startswith("[3/3] in/c.nii.gz: failed: ")
    assert lines[-1] == "2 of 3 scans could not be segmented: a, c."
    assert sorted(path.name for path in Path("out").iterdir()) == ["b_seg.json", "b_seg.nii.gz"]


def test_a_scan_on_a_broken_disk_does_not_stop_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run("runs/a")
    write_scan("in/a.nii.gz")
    write_scan("in/b.nii.gz")
    whole = Predictor.predict_scan

    def broken(predictor: Predictor, images: Sequence[Path], **named: Any) -> Prediction:
        if images[0].name == "a.nii.gz":
            raise OSError(5, "Input/output error", str(images[0]))
        return whole(predictor, images, **named)

    monkeypatch.setattr(Predictor, "predict_scan", broken)
    result = run("in", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 1  # nothing is wrong with what was given
    assert result.err.splitlines() == [
        "[1/2] in/a.nii.gz: failed: Input/output error.",
        "1 of 2 scans could not be segmented: a.",
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == ["b_seg.json", "b_seg.nii.gz"]


def write_forms(path: str, sform: np.ndarray, codes: tuple[int, int], qform: np.ndarray | None = None) -> None:
    """A scan with these forms; codes of sform and qform."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(0).normal(size=(18, 16, 13)).astype(np.float32)
    image = nib.Nifti1Image(array, None)
    image.set_sform(sform, codes[0])
    image.set_qform(sform if qform is None else qform, codes[1], strip_shears=True)
    image.to_filename(path)


def test_what_is_odd_about_a_scans_place_is_said_on_the_terminal(run: Run) -> None:
    write_run("runs/a")
    write_scan("in/fine.nii.gz")
    write_forms("in/nowhere.nii.gz", np.eye(4), (0, 0))
    sheared, moved = np.eye(4), np.eye(4)
    sheared[1, 2], moved[2, 3] = np.tan(np.deg2rad(30)), 12
    write_forms("in/tilted.nii.gz", sheared, (1, 0))
    write_forms("in/two.nii.gz", sheared, (1, 1), moved)
    result = run("in", "--ckpt", "runs/a", "-o", "out")
    assert result.code == 0 and len(result.out.splitlines()) == 4
    said = {
        "nowhere": "does not say where it lies or which side is left (the codes of its sform and qform are both 0);",
        "tilted": "its axes are not at right angles (a tilted gantry, or a sheared header), and a NIfTI file of it",
        "two": "its qform and sform place it differently (its corners lie up to ",
    }
    for line, (name, text) in zip(result.err.splitlines(), said.items(), strict=True):
        assert line.startswith(f"Warning: in/{name}.nii.gz: {text}")
        record = json.loads(Path(f"out/{name}_seg.json").read_text())
        assert record["geometry"]["warnings"] == [line.removeprefix(f"Warning: in/{name}.nii.gz: ")]
    assert json.loads(Path("out/fine_seg.json").read_text())["geometry"]["warnings"] == []


def test_a_scan_without_a_place_gets_a_mask_but_no_seg_nrrd(run: Run) -> None:
    write_run("runs/a")
    write_forms("in/nowhere.nii.gz", np.eye(4), (0, 0))
    write_scan("in/there.nii.gz")
    result = run("in", "--ckpt", "runs/a", "-o", "out", "--export", "seg.nrrd")
    assert result.code == 2
    first, last = result.err.splitlines()
    assert first.startswith("[1/2] in/nowhere.nii.gz: failed: does not say where it lies or which side is left (")
    assert first.endswith("in its header first, or leave --export out: a NIfTI mask lies where the scan lies.")
    assert last == "1 of 2 scans could not be segmented: nowhere."
    made = ["there_seg.json", "there_seg.nii.gz", "there_seg.seg.nrrd"]
    assert sorted(path.name for path in Path("out").iterdir()) == made
    again = run("in/nowhere.nii.gz", "--ckpt", "runs/a", "-o", "out", "--export", "nii.gz")
    assert again.code == 0 and len(again.err.splitlines()) == 1
    record = json.loads(Path("out/nowhere_seg.json").read_text())
    assert record["geometry"]["source"] == "NIfTI pixdim alone, sform and qform codes 0"
    mask, scan = (sitk.ReadImage(path) for path in ("out/nowhere_seg.nii.gz", "in/nowhere.nii.gz"))
    assert (mask.GetOrigin(), mask.GetDirection()) == (scan.GetOrigin(), scan.GetDirection())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ckpt", "runs/a"], "Say what to segment: files or folders, or --manifest FILE with --split."),
        (
            ["one.nii.gz", "--manifest", "m", "--ckpt", "runs/a"],
            "Say what to segment: files or folders, or --manifest FILE with --split.",
        ),
        (
            ["one.nii.gz", "--split", "test", "--ckpt", "runs/a"],
            "--split goes with --manifest: the cases of one of its splits are segmented.",
        ),
        (["one.nii.gz"], "Say with what: --ckpt RUN, a run folder or a checkpoint."),
        (["gone.nii.gz", "one.nii.gz", "--ckpt", "runs/a"], "gone.nii.gz: there is no such file or folder."),
        (["one.nii.gz", "--ckpt", "runs/b"], "runs/b: there is no such checkpoint or run folder."),
        (
            ["one.nii.gz", "--ckpt", "runs"],
            "runs: no checkpoint in this folder; expected last.safetensors, as a run folder has it.",
        ),
        (
            ["one.nii.gz", "--ckpt", "one.nii.gz"],
            "one.nii.gz: not a checkpoint of medcontrast. Give a run folder, its "
            "last.safetensors or best.safetensors, or its last.pt.",
        ),
        (["one.nii.gz", "--ckpt", "runs/a", "--device", "gpu"], "--device gpu: expected cpu, cuda, cuda:N or mps."),
        (["one.nii.gz", "--ckpt", "runs/a", "--export", "obj"], "--export obj: expected seg.nrrd or nii.gz."),
        (
            ["one.nii.gz", "--ckpt", "runs/a", "-o", "one.nii.gz"],
            "-o one.nii.gz: names a folder for masks and records, not a file; masks are called NAME_seg.nii.gz.",
        ),
    ],
)
def test_wrong_input_is_one_sentence_before_anything_is_written(run: Run, words: list[str], sentence: str) -> None:
    write_run("runs/a")
    write_scan("one.nii.gz")
    before = sorted(Path().rglob("*"))
    result = run(*words)
    assert (result.code, result.out, result.err) == (2, "", sentence)
    assert sorted(Path().rglob("*")) == before
