"""Tests of `medcontrast evaluate` on masks that 3D Slicer saved: whole, by exact sentence and exit code."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk


def save_in_slicer(path, array, segments):
    """As 3D Slicer does, through ITK: a voxel of 1 mm at 0, 0, 0 as `write_nifti` has it, and segments by name."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    for number, (name, value) in enumerate(segments.items()):
        for key, text in {"ID": f"Segment_{number}", "Name": name, "LabelValue": value, "Layer": 0}.items():
            image.SetMetaData(f"Segment{number}_{key}", str(text))
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path), True)


def swapped(path):
    """The mask of a file, with its values 1 and 2 changed for one another."""
    array = np.asarray(nib.load(path, mmap=False).dataobj)
    return np.select([array == 1, array == 2], [2, 1]).astype(np.uint8)


@pytest.mark.parametrize("side", ["masks", "labels"])
def test_segments_in_another_order_are_scored_by_name(cli, refused, tiny, masks, side):
    predictions, labels, folder = masks
    manifest = tiny.write_data(folder / "data", labeled=1, unlabeled=0)
    words = ("evaluate", "--predictions", predictions, "--labels", labels, "--manifest", manifest)
    assert cli(*words, "-o", folder / "before").code == 0
    path = next((folder / side).glob("case_0*.nii"))
    saved = path.with_suffix(".seg.nrrd")
    save_in_slicer(saved, swapped(path), {"back": 1, "front": 2})
    kept = path.read_bytes()
    path.unlink()
    result = cli(*words, "-o", folder / "after")
    assert result.code == 0, result.err
    warning = (
        f"{saved}: its segments have other values than in the label table, and are read by name: back 1 as 2, "
        "front 2 as 1."
    )
    assert [line for line in result.out.splitlines() if line.startswith("Warning: ")] == [f"Warning: {warning}"]
    assert json.loads((folder / "after" / "evaluation.json").read_text())["warnings"] == [warning]
    rows = [(folder / name / "cases.csv").read_text() for name in ("before", "after")]
    assert rows[0] == rows[1]
    path.write_bytes(kept)
    save_in_slicer(saved, swapped(path), {"back": 1, "tail": 2})
    path.unlink()
    refused(
        cli(*words),
        f"{saved}: its segments are 1 back, 2 tail, which contradicts the label table (1 front, 2 back) and cannot be "
        "read by name, as the table knows no tail; in 3D Slicer, give every segment its name of the table, and take",
    )


def test_without_a_table_headers_name_the_values(cli, refused, masks):
    predictions, labels, folder = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels)
    for path in list(labels.iterdir()):
        save_in_slicer(labels / f"{path.stem}.seg.nrrd", swapped(path), {"back": 1, "front": 2})
        path.unlink()
    result = cli(*words, "-o", folder / "scores")
    assert result.code == 0, result.err  # nothing says what the values of the NIfTI masks are
    rows = (folder / "scores" / "cases.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:3] for row in rows] == [
        [f"case_{case}", name, "0.0"] for case in (0, 1) for name in ("back", "front")
    ]
    path = predictions / "case_1_seg.nii"
    saved = path.with_suffix(".seg.nrrd")
    save_in_slicer(saved, np.asarray(nib.load(path, mmap=False).dataobj), {"front": 1, "back": 2})
    path.unlink()
    refused(
        cli(*words),
        f"{saved}: its segment front has the value 1, but 2 in {labels / 'case_0.seg.nrrd'}; say which value is meant "
        "by naming the labels with --manifest.",
    )


def test_an_edited_export_beside_its_mask_is_not_left_aside(cli, refused, tiny, masks):
    predictions, labels, folder = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels)
    manifest = tiny.write_data(folder / "data", labeled=1, unlabeled=0)
    mask, export = (predictions / f"case_1_seg.{ending}" for ending in ("nii", "seg.nrrd"))
    assert cli("export", mask, "--labels", manifest).code == 0
    assert cli(*words).code == 0
    sitk.WriteImage(sitk.ReadImage(str(export)), str(export), True)
    refused(
        cli(*words),
        f"{export}: was saved by 3D Slicer or another program and may hold corrections that case_1_seg.nii beside it "
        "lacks; keep the one of the two that shall be scored, and move the other away.",
    )
    mask.unlink()
    assert cli(*words).code == 0


def test_a_mask_that_was_cropped_may_come_from_slicer(cli, refused, masks):
    predictions, labels, _ = masks
    path = predictions / "case_1_seg.nii"
    array = np.asarray(nib.load(path, mmap=False).dataobj)
    path.unlink()
    cropped = predictions / "case_1_seg.seg.nrrd"
    save_in_slicer(cropped, array[:, :, :15].copy(), {"Segment_1": 1, "Segment_2": 2})
    refused(
        cli("evaluate", "--predictions", predictions, "--labels", labels),
        f"Case case_1: the prediction {cropped} is not on the grid of {labels / 'case_1.nii'}: ",
        "in 3D Slicer, make the scan its reference geometry there (Segment Editor, Specify "
        'geometry) and save it again with "Crop to minimum extent" off.',
    )
