"""Tests of the data check: by hand, geometry."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medcontrast.data import check
from medcontrast.data.check import CheckReport, check_manifest
from medcontrast.data.manifest import load_manifest
from medcontrast.errors import ManifestError
from medcontrast.export.slicer import write_seg_nrrd
from medcontrast.volume import Grid


@pytest.fixture
def data(tiny: SimpleNamespace, tmp_path: Path) -> Path:
    """Six tiny cases: two labeled, two unlabeled, one validation, one test; two channels."""
    manifest: Path = tiny.write_data(tmp_path, validation=1, test=1, channels=2)
    return manifest


def report_of(manifest: Path, **options: Any) -> CheckReport:
    return check_manifest(load_manifest(manifest), **options)


def texts(findings: list[check.Finding]) -> list[str]:
    return [str(finding) for finding in findings]


def change(path: Path, array: Any = None, affine: Any = None) -> None:
    """Rewrites a file with another content or another place."""
    file = nib.load(path)
    # a copy: the file is mapped into memory and about to be written over
    voxels = np.asanyarray(file.dataobj).copy() if array is None else array
    nib.save(nib.Nifti1Image(voxels, file.affine if affine is None else affine), path)


def label_of(folder: Path, number: int) -> Any:
    return np.asanyarray(nib.load(folder / f"labels/case_{number:02d}.nii").dataobj).copy()


def image_of(folder: Path, number: int) -> Any:
    return np.asanyarray(nib.load(folder / f"images/case_{number:02d}_0.nii").dataobj).copy()


def test_clean_data_has_no_findings_and_rows_are_right(data: Path) -> None:
    report = report_of(data)
    assert report.ok and not report.warnings and not report.notes
    assert [row.split for row in report.rows] == ["labeled", "labeled", "unlabeled", "unlabeled", "validation", "test"]
    row, label = report.rows[0], label_of(data.parent, 0)
    assert (row.case, row.shape, row.spacing_mm, row.axes) == ("case_00", (20, 18, 22), (1.0, 1.0, 1.0), "RAS")
    assert row.volumes_ml == {"front": (label == 1).sum() / 1000, "back": (label == 2).sum() / 1000}
    assert row.high == pytest.approx(2 * image_of(data.parent, 0).max(), rel=1e-6)


def test_volumes_are_in_millilitres_of_the_voxels_size(data: Path) -> None:
    affine = np.diag([2.0, 1.5, -3.0, 1.0])
    for file in ("images/case_00_0.nii", "images/case_00_1.nii", "labels/case_00.nii"):
        change(data.parent / file, affine=affine)
    row = report_of(data, splits=["labeled"]).rows[0]
    assert row.volumes_ml["front"] == pytest.approx((label_of(data.parent, 0) == 1).sum() * 9 / 1000)
    assert (row.axes, row.spacing_mm) == ("RAI", (2.0, 1.5, 3.0))


def test_volumes_of_a_tilted_gantry_are_those_of_the_determinant(data: Path) -> None:
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.deg2rad(30))  # the edges' product is 15.5 % more
    for file in ("images/case_00_0.nii", "images/case_00_1.nii", "labels/case_00.nii"):
        change(data.parent / file, affine=affine)
    row = report_of(data, splits=["labeled"]).rows[0]
    assert row.volumes_ml["front"] == pytest.approx((label_of(data.parent, 0) == 1).sum() / 1000)


def test_labels_of_unlabeled_cases_are_never_opened(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    read = check.read_volume

    def watch(path: Path, kind: Any) -> Any:
        opened.append(path)
        return read(path, kind)

    monkeypatch.setattr(check, "read_volume", watch)
    (data.parent / "labels/case_02.nii").write_text("not a volume")
    (data.parent / "labels/case_03.nii").unlink()
    report = report_of(data)
    assert report.ok
    assert not {"case_02.nii", "case_03.nii"} & {path.name for path in opened}
    assert all(not row.volumes_ml for row in report.rows if row.split == "unlabeled")


def test_missing_files_are_one_finding_a_split(data: Path) -> None:
    folder = data.parent
    (folder / "images/case_05_0.nii").unlink()
    (folder / "labels/case_05.nii").unlink()
    (folder / "images/case_01_1.nii").unlink()
    report = report_of(data)
    assert texts(report.faults) == [
        f"labeled: 1 of 2 cases have no files under {folder}: {folder}/images/case_01_1.nii. "
        "Put them there or name another root",
        f"test: 1 of 1 cases have no files under {folder}: {folder}/images/case_05_0.nii and 1 more. Put them there "
        "or name another root; to check only the others: --split labeled --split unlabeled --split validation",
    ]
    assert len(report.rows) == 4


def test_only_the_named_splits_are_checked(data: Path) -> None:
    (data.parent / "images/case_05_0.nii").unlink()
    report = report_of(data, splits=["labeled", "validation"])
    assert report.ok and report.splits == ("labeled", "validation") and len(report.rows) == 3
    with pytest.raises(ManifestError, match=r"there is no split 'train'; choose one of labeled"):
        report_of(data, splits=["train"])


def test_a_label_on_another_grid_is_a_fault(data: Path) -> None:
    folder, affine = data.parent, np.eye(4)
    affine[0, 3] = 0.5
    change(folder / "labels/case_00.nii", affine=affine)
    change(folder / "labels/case_01.nii", array=label_of(folder, 1)[:-1])
    change(folder / "labels/case_04.nii", affine=np.diag([-1.0, 1.0, 1.0, 1.0]))
    found = texts(report_of(data).faults)
    assert len(found) == 3
    place = (
        f"labels/case_00.nii does not lie on the grid of {folder}/images/case_00_0.nii: its corners lie up to 0.5 mm"
    )
    assert place in found[0]
    assert found[1].endswith("its shape is 19 x 18 x 22, not 20 x 18 x 22; resample it onto that grid")
    assert "axes towards LAS" in found[2]


def test_a_label_that_lost_its_header_is_not_resampled(data: Path) -> None:
    """Saved with an identity affine, it holds the scan's voxels; resampled by it, it would lie elsewhere."""
    for channel in range(2):
        change(data.parent / f"images/case_00_{channel}.nii", affine=np.diag([1.0, 1.0, 2.5, 1.0]))
    (fault,) = texts(report_of(data).faults)
    assert fault.endswith(
        "; if it was drawn on this scan, its header was lost: copy the scan's header onto it, and do not resample it; "
        "else resample it onto that grid"
    )


def test_a_label_that_3d_slicer_cropped_is_saved_again(data: Path) -> None:
    cropped = label_of(data.parent, 0)[2:-2, 2:-2, 2:-2]
    path = data.parent / "labels/case_00.seg.nrrd"
    write_seg_nrrd(path, cropped, Grid(cropped.shape, np.eye(4)), load_manifest(data).labels)
    data.write_text(data.read_text().replace("labels/case_00.nii", "labels/case_00.seg.nrrd"))
    (fault,) = texts(report_of(data).faults)
    assert fault.startswith(f"labeled case_00: {path} does not lie on the grid of ")
    assert fault.endswith(
        "; in 3D Slicer, make the scan its reference geometry there (Segment Editor, Specify geometry) and save it "
        'again with "Crop to minimum extent" off'
    )


def test_a_label_whose_axes_are_stored_in_another_order_is_no_fault(data: Path) -> None:
    path = data.parent / "labels/case_00.nii"
    turned = nib.load(path, mmap=False).as_reoriented(nib.orientations.axcodes2ornt("PSL"))
    before = report_of(data).rows[0].volumes_ml
    nib.save(turned, path)
    report = report_of(data)
    assert report.ok and report.rows[0].volumes_ml == before


def test_a_hundredth_of_a_voxel_is_allowed(data: Path) -> None:
    affine = np.eye(4)
    affine[0, 3] = 0.009
    change(data.parent / "labels/case_00.nii", affine=affine)
    assert report_of(data).ok


def test_channels_on_different_grids_are_a_fault(data: Path) -> None:
    change(data.parent / "images/case_02_1.nii", affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    (fault,) = texts(report_of(data).faults)
    assert fault.startswith(f"unlabeled case_02: {data.parent}/images/case_02_1.nii does not lie on the grid of")


def test_values_outside_the_table_are_a_fault_and_the_ignored_value_is_not(data: Path) -> None:
    label = label_of(data.parent, 0)
    label[0, 0, :3] = 5, 7, 255
    change(data.parent / "labels/case_00.nii", array=label)
    path = data.parent / "labels/case_00.nii"
    wanted = (
        f"labeled case_00: {path}: holds the value(s) {{}}, which the label table [0, 1, 2] does not name; name "
        "them there (--label VALUE=NAME in `data split`), or make what nothing shall learn from the ignore_label "
        "(VALUE=ignore)"
    )
    assert texts(report_of(data).faults) == [wanted.format("5, 7, 255")]
    data.write_text(json.dumps({**json.loads(data.read_text()), "ignore_label": 255}))
    assert texts(report_of(data).faults) == [wanted.format("5, 7")]


def test_empty_labels_are_warnings(data: Path) -> None:
    change(data.parent / "labels/case_00.nii", array=np.zeros((20, 18, 22), np.uint8))
    change(data.parent / "labels/case_01.nii", array=label_of(data.parent, 1) % 2)
    report = report_of(data)
    # the last labeled case that held it is gone; validation cases do not count
    assert texts(report.faults) == [
        "labeled: no case holds back (value 2), so that it cannot be learned; correct the table's value, or take it out"
    ]
    assert texts(report.warnings) == [
        f"labeled case_00: {data.parent}/labels/case_00.nii: is empty",
        f"labeled case_01: {data.parent}/labels/case_01.nii: has no back",
    ]
    assert report.rows[0].volumes_ml == {"front": 0.0, "back": 0.0}


def test_broken_images_are_faults(data: Path) -> None:
    folder = data.parent
    broken = image_of(folder, 0)
    broken[0, 0, 0], broken[1, 1, 1] = np.nan, np.inf
    change(folder / "images/case_00_0.nii", array=broken)
    change(folder / "images/case_01_0.nii", array=np.full((20, 18, 22), 7, np.int16))
    (folder / "images/case_04_0.nii").write_bytes(b"nothing")
    found = texts(report_of(data).faults)
    assert found[0] == f"labeled case_00: {folder}/images/case_00_0.nii: 2 voxel(s) are NaN or infinite"
    assert found[1].endswith("case_01_0.nii: every voxel has the value 7; nothing can be seen")
    assert found[2].startswith(f"validation case_04: {folder}/images/case_04_0.nii: ")
    assert len(found) == 3
    assert not any("nan" in text for text in texts(report_of(data).warnings))


def test_far_voxels_are_worth_a_look(data: Path) -> None:
    damaged = image_of(data.parent, 0).astype(np.float32)
    damaged[3, 2, 1] = 1e30
    change(data.parent / "images/case_00_0.nii", array=damaged)
    report = report_of(data)
    assert report.ok
    (warning,) = texts(report.warnings)
    assert "case_00_0.nii: 1 of 7920 voxels are more than 1,000 times" in warning
    assert "at index (3, 2, 1), is 1e+30" in warning


def test_a_scan_in_another_unit_than_the_others_is_worth_a_look(data: Path) -> None:
    for file in ("images/case_02_0.nii", "images/case_02_1.nii"):
        change(data.parent / file, affine=np.diag([0.1, 0.1, 0.1, 1.0]))
    report = report_of(data)
    assert report.ok
    assert texts(report.warnings) == [
        "splits: the voxels of 1 of 6 scans are more than 4 times as long or as short along every axis as the median "
        "(1 x 1 x 1 mm): case_02 (0.1 x 0.1 x 0.1 mm); if those headers mean another unit than mm, correct them"
    ]


@pytest.mark.parametrize("channel", ["CT", "channel 1"])
def test_a_ct_stored_1024_too_high_is_worth_a_look(data: Path, channel: str) -> None:
    """Known as CT by the channel's name, or by what most of its scans hold; the first channel is none."""
    data.write_text(data.read_text().replace('"channel 1"', f'"{channel}"'))
    for number in range(6):
        values = np.linspace(-1024, 400, 20 * 18 * 22).reshape(20, 18, 22).astype(np.int16) + 10 * number
        values[0, 0, 0] = -1024 + number
        change(data.parent / f"images/case_{number:02d}_1.nii", array=values + (1024 if number == 4 else 0))
    report = report_of(data)
    assert report.ok
    assert texts(report.warnings) == [
        f"splits: the mean of channel {channel} lies more than 600 Hounsfield units from the median (-292) in 1 of 6 "
        "scans: case_04 (752); if their intercept, most often 1024, was lost or added twice, correct it"
    ]


def test_a_label_that_is_not_whole_numbers_is_a_fault(data: Path) -> None:
    change(data.parent / "labels/case_05.nii", array=label_of(data.parent, 5) * np.float32(0.5))
    (fault,) = texts(report_of(data).faults)
    assert "a label file holds whole numbers" in fault


def test_the_same_voxels_twice(data: Path) -> None:
    """Across splits a fault, whatever the file's format and place; within one a warning."""
    folder = data.parent
    for channel in range(2):
        file = nib.load(folder / f"images/case_00_{channel}.nii")
        moved = nib.Nifti1Image(np.asarray(file.dataobj, np.float64), np.diag([2.0, 2.0, 2.0, 1.0]))
        for number in (1, 3):
            nib.save(moved, folder / f"images/case_{number:02d}_{channel}.nii")
    change(folder / "labels/case_01.nii", affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    report = report_of(data)
    assert texts(report.faults) == [
        "unlabeled case_03: holds the same voxels as case_00 of the split labeled; no scan may stand in two splits"
    ]
    assert texts(report.warnings) == ["labeled case_01: holds the same voxels as case_00; one of them counts twice"]


def test_the_same_scan_with_its_axes_stored_otherwise(data: Path) -> None:
    folder = data.parent
    for channel in range(2):
        file = nib.load(folder / f"images/case_00_{channel}.nii")
        flipped = file.as_reoriented(nib.orientations.axcodes2ornt("PIL"))
        nib.save(flipped, folder / f"images/case_03_{channel}.nii")
        assert flipped.shape != file.shape or not np.array_equal(flipped.dataobj, file.dataobj)
    assert texts(report_of(data).faults) == [
        "unlabeled case_03: holds the same voxels as case_00 of the split labeled; no scan may stand in two splits"
    ]


def test_one_other_voxel_is_another_scan(data: Path) -> None:
    folder, image = data.parent, image_of(data.parent, 0)
    change(
        folder / "images/case_02_1.nii", array=np.asanyarray(nib.load(folder / "images/case_00_1.nii").dataobj).copy()
    )
    change(folder / "images/case_02_0.nii", array=image)
    assert len(report_of(data).faults) == 1
    image[-1, -1, -1] += 1
    change(folder / "images/case_02_0.nii", array=image)
    assert report_of(data).ok


def test_small_images_are_noted(data: Path) -> None:
    report = report_of(data, patch=(16, 24, 16), splits=["labeled"])
    assert report.ok
    assert texts(report.notes) == [
        "labeled: 2 of 2 images are smaller than the patch 16x24x16 along some axis; they are padded"
    ]
    assert not report_of(data, patch=(20, 18, 22)).notes


def test_small_images_are_noted_along_canonical_axes(data: Path) -> None:
    """Stored axes run to S, L and A: the patch is cut out of a scan that was turned, 18 x 22 x 20 voxels."""
    affine = np.array([[0, -1.0, 0, 0], [0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    for number in (0, 1):
        for file in (
            f"images/case_{number:02d}_0.nii",
            f"images/case_{number:02d}_1.nii",
            f"labels/case_{number:02d}.nii",
        ):
            change(data.parent / file, affine=affine)
    report = report_of(data, splits=["labeled"])
    assert [(row.axes, row.shape) for row in report.rows] == [("SLA", (20, 18, 22))] * 2
    assert not report_of(data, splits=["labeled"], patch=(18, 22, 20)).notes
    assert len(report_of(data, splits=["labeled"], patch=(20, 18, 22)).notes) == 1


def test_what_the_header_says_oddly_is_passed_on(data: Path) -> None:
    path = data.parent / "images/case_00_0.nii"
    file = nib.Nifti1Image(image_of(data.parent, 0), np.eye(4))
    shifted = np.eye(4)
    shifted[2, 3] = 9.0
    file.set_sform(np.eye(4), 1)
    file.set_qform(shifted, 1)
    nib.save(file, path)
    (warning,) = texts(report_of(data).warnings)
    assert warning.startswith("labeled case_00: ") and "qform and sform place it differently" in warning


def test_each_case_is_told(data: Path) -> None:
    told: list[str] = []
    report_of(data, tell=told.append)
    assert told == [f"case_{number:02d}" for number in range(6)]
