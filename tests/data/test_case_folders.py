"""Tests of data sets with one folder a case, and of channels that their files name. By hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcontrast.data.listing import tree_from_source
from medcontrast.data.source import read_source, require_channels
from medcontrast.errors import ManifestError
from tests.data.test_source import fault, make, shown

SPLITS: dict[str, list[str]] = {"labeled": ["P0"], "unlabeled": [], "validation": [], "test": []}


def test_files_of_a_case_name_its_channels(tmp_path: Path) -> None:
    make(tmp_path, *(f"{case}/{case}_{part}.nii.gz" for case in ("P0", "P1") for part in ("t1", "flair")))
    make(tmp_path, "P0/P0_seg.nii.gz", "P0/survey.nii", "P1/p1_seg_old.txt")
    source = read_source(tmp_path)
    assert shown(source) == {
        "P0": ("P0/P0_seg.nii.gz", "P0/P0_flair.nii.gz", "P0/P0_t1.nii.gz"),
        "P1": (None, "P1/P1_flair.nii.gz", "P1/P1_t1.nii.gz"),
    }
    assert source.notes == ("not taken: P0/survey.nii", "channels, by the names of the files: flair, t1")
    tree = tree_from_source(source, SPLITS, out=tmp_path / "m.json", table={"labels": {"0": "background", "1": "x"}})
    assert tree["channels"] == {"0": "flair", "1": "t1"}
    assert tree["labeled"] == [
        {"case": "P0", "image": ["P0/P0_flair.nii.gz", "P0/P0_t1.nii.gz"], "label": "P0/P0_seg.nii.gz"}
    ]


def test_letters_and_marks_between_names_do_not_count(tmp_path: Path) -> None:
    make(tmp_path, "BraTS-0-1/brats-0-1-T1c.nii.gz", "BraTS-0-1/BraTS-0-1-seg.nii.gz", "BraTS-0-10/BraTS-0-10.t1c.nii")
    assert shown(read_source(tmp_path)) == {
        "BraTS-0-1": ("BraTS-0-1/BraTS-0-1-seg.nii.gz", "BraTS-0-1/brats-0-1-T1c.nii.gz"),
        "BraTS-0-10": (None, "BraTS-0-10/BraTS-0-10.t1c.nii"),
    }


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("imaging.nii.gz", "segmentation.nii.gz"),
        ("image.nrrd", "Seg.nii.gz"),
        ("P0.nii.gz", "P0_seg.nii.gz"),
        ("P0_image.nii.gz", "P0_label.nii.gz"),
    ],
)
def test_what_an_image_and_a_label_are_called(image: str, label: str, tmp_path: Path) -> None:
    make(tmp_path, f"P0/{image}", f"P0/{label}")
    source = read_source(tmp_path)
    assert shown(source) == {"P0": (f"P0/{label}", f"P0/{image}")}
    assert source.channels == () and "channels" not in source.table


def test_the_best_name_is_the_label(tmp_path: Path) -> None:
    make(tmp_path, "P0/image.nii", "P0/seg.nii", "P0/label.nii")
    source = read_source(tmp_path)
    assert shown(source) == {"P0": ("P0/label.nii", "P0/image.nii")}
    assert source.notes == ("not taken: P0/seg.nii",)


def test_masks_and_what_infer_wrote_are_no_channels(tmp_path: Path) -> None:
    make(tmp_path, "P0/P0_t1.nii", "P0/P0_seg.nii", "P0/P0_brain_mask.nii")
    make(tmp_path, "P1/P1_t1.nii", "P1/P1_seg.nii.gz", "P1/P1_seg.json", "P1/P1_prob.nii.gz")
    source = read_source(tmp_path)
    assert shown(source) == {"P0": ("P0/P0_seg.nii", "P0/P0_t1.nii"), "P1": (None, "P1/P1_t1.nii")}
    assert source.notes[0] == "not taken: P0/P0_brain_mask.nii, P1/P1_prob.nii.gz, P1/P1_seg.nii.gz"


def test_files_beside_images_are_no_channels(tmp_path: Path) -> None:
    make(tmp_path, "P0/image.nii", "P0/label.nii", "P0/P0_t1.nii", "P0/P0_t1.nrrd", "P1/P1_t1.nii", "P1/P1_t2.nii")
    source = read_source(tmp_path)
    assert shown(source) == {"P0": ("P0/label.nii", "P0/image.nii")}
    assert source.notes == ("not taken: P0/P0_t1.nii, P0/P0_t1.nrrd, P1/",)


def test_without_any_label_nothing_says_that_files_are_channels(tmp_path: Path) -> None:
    make(tmp_path, "P0/P0_t1.nii", "P0/P0_t2.nii")
    assert "no scans found" in fault(tmp_path)


def test_channels_that_cases_do_not_share(tmp_path: Path) -> None:
    make(tmp_path, *(f"P{case}/P{case}_{part}.nii" for case in range(3) for part in ("t1", "t2", "seg")))
    (tmp_path / "P1/P1_t2.nii").rename(tmp_path / "P1/P1_pd.nii")
    assert fault(tmp_path) == (
        f"{tmp_path}: 1 of 3 cases have other channels than t1, t2, such as P1/P1_pd.nii, P1/P1_t1.nii; add what is "
        "missing, or take away what is no channel."
    )
    make(tmp_path / "P1", "P1_t1.nrrd")
    assert fault(tmp_path) == f"{tmp_path}/P1: P1_t1.nii and P1_t1.nrrd are both its t1; keep one."


def test_other_names_or_another_order_of_channels_are_refused(tmp_path: Path) -> None:
    make(tmp_path, *(f"P0/P0_{part}.nii" for part in ("t1", "flair", "seg")))
    source = read_source(tmp_path)
    require_channels(source, {"channels": {"0": "FLAIR", "1": "T1"}})
    with pytest.raises(ManifestError, match=r"are of the channels flair, t1, in this order, but they are to be called"):
        require_channels(source, {"channels": {"0": "t1", "1": "flair"}})
