"""Tests of folders read into lists of cases: which files belong together, and what is said of the others. By hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from medcontrast.data.manifest import load_manifest, root_advice
from medcontrast.data.source import Source, names_by_value, read_source, read_table
from medcontrast.errors import ManifestError


def make(folder: Path, *names: str) -> Path:
    """Empty files, for no volume is opened; those that end in .dcm begin as slices do."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" if path.suffix == ".dcm" else b"")
    return folder


def shown(source: Source) -> dict[str, tuple[str | None, ...]]:
    """Every case with its label and its images, from the folder on."""
    return {
        case.name: tuple(path and path.relative_to(source.folder).as_posix() for path in (case.label, *case.images))
        for case in source.cases
    }


def fault(folder: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        read_source(folder)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["_seg", "-Label", ".mask", "_labels", "_segmentation"])
def test_an_ending_that_all_labels_share_does_not_count(ending: str, tmp_path: Path) -> None:
    make(tmp_path, *(f"images/{name}.nii.gz" for name in "abc"), *(f"labels/{name}{ending}.nii.gz" for name in "ab"))
    assert shown(read_source(tmp_path)) == {
        "a": (f"labels/a{ending}.nii.gz", "images/a.nii.gz"),
        "b": (f"labels/b{ending}.nii.gz", "images/b.nii.gz"),
        "c": (None, "images/c.nii.gz"),
    }


def test_an_ending_that_scans_have_too_belongs_to_the_name(tmp_path: Path) -> None:
    make(tmp_path, "images/a_mask.nii", "images/b_mask.nii", "images/a.nii", "labels/a_mask.nii", "labels/b_mask.nii")
    assert {name: files[0] for name, files in shown(read_source(tmp_path)).items()} == {
        "a": None,
        "a_mask": "labels/a_mask.nii",
        "b_mask": "labels/b_mask.nii",
    }


def test_an_ending_of_some_labels_alone_is_a_fault(tmp_path: Path) -> None:
    make(tmp_path, "images/a.nii", "images/b.nii", "labels/a_seg.nii", "labels/b.nii")
    assert fault(tmp_path).startswith(
        f"{tmp_path}: 1 label file matches no scan: labels/a_seg.nii; scans without a label: images/a.nii; "
    )


@pytest.mark.parametrize("ending", ["", "_seg"])
def test_endings_and_numbers_of_channels_together(ending: str, tmp_path: Path) -> None:
    make(tmp_path, "imagesTr/a_0000.nii", "imagesTr/b_0000.nii", "imagesTs/c_0000.nii", f"labelsTr/a{ending}.nii")
    assert shown(read_source(tmp_path)) == {
        "a": (f"labelsTr/a{ending}.nii", "imagesTr/a_0000.nii"),
        "b": (None, "imagesTr/b_0000.nii"),
        "c": (None, "imagesTs/c_0000.nii"),
    }


def test_four_digits_that_labels_have_too_are_no_channel(tmp_path: Path) -> None:
    """case_0001, case_0002, ... were one case of many channels, and every label was dropped."""
    make(tmp_path, *(f"imagesTr/case_{number:04d}.nii" for number in range(3)), "imagesTs/case_0009.nii")
    make(tmp_path, "labelsTr/case_0001.nii", "labelsTr/case_0002.nii")
    assert {name: files[0] for name, files in shown(read_source(tmp_path)).items()} == {
        "case_0000": None,
        "case_0001": "labelsTr/case_0001.nii",
        "case_0002": "labelsTr/case_0002.nii",
        "case_0009": None,
    }


def test_a_scan_without_the_number_that_others_have_is_a_fault(tmp_path: Path) -> None:
    make(tmp_path, "images/a_0000.nii", "images/b_0000.nii", "images/c.nii", *(f"labels/{name}.nii" for name in "abc"))
    assert fault(tmp_path) == (
        f"{tmp_path}: 2 label files match no scan: labels/a.nii, labels/b.nii; scans without a label: "
        "images/a_0000.nii, images/b_0000.nii; either all scans end in a channel's number such as _0000 or none, but "
        "not c.nii: rename, or take the label away."
    )


def test_letters_count_whatever_their_case(tmp_path: Path) -> None:
    make(tmp_path / "two", "Images/Ann.nii.gz", "Images/bob.nii.gz", "LABELS/ann.nii.gz", "LABELS/Bob.nii.gz")
    assert shown(read_source(tmp_path / "two")) == {
        "Ann": ("LABELS/ann.nii.gz", "Images/Ann.nii.gz"),
        "bob": ("LABELS/Bob.nii.gz", "Images/bob.nii.gz"),
    }
    make(tmp_path / "cases", "a/Image.nii.gz", "a/Label.nii.gz", "b/image.nii.gz", "b/LABEL.NII.GZ")
    assert shown(read_source(tmp_path / "cases")) == {
        "a": ("a/Label.nii.gz", "a/Image.nii.gz"),
        "b": ("b/LABEL.NII.GZ", "b/image.nii.gz"),
    }
    # where the case of letters tells two scans apart, it counts
    make(tmp_path / "both", "images/A.nii", "images/a.nii", "labels/A.nii")
    assert shown(read_source(tmp_path / "both")) == {"A": ("labels/A.nii", "images/A.nii"), "a": (None, "images/a.nii")}


def test_dicom_folders_are_scans(tmp_path: Path) -> None:
    make(tmp_path / "two", "images/a/1.dcm", "images/b.nii", "labels/a.nii", "labels/b.nii")
    assert shown(read_source(tmp_path / "two")) == {
        "a": ("labels/a.nii", "images/a"),
        "b": ("labels/b.nii", "images/b.nii"),
    }
    make(tmp_path / "cases", "a/image/1.dcm", "a/label.nii")
    assert shown(read_source(tmp_path / "cases")) == {"a": ("a/label.nii", "a/image")}


def test_a_series_alone_in_the_folders_of_a_case_is_its_scan(tmp_path: Path) -> None:
    """As PACS export it: PATIENT/SERIES, PATIENT/STUDY/SERIES."""
    make(
        tmp_path, "images/a/SE1/1.dcm", "images/b/ST1/SE1/1.dcm", "labels/a.nii", "labels/b.nii", "unlabeled/c/x/1.dcm"
    )
    source = read_source(tmp_path)
    assert shown(source) == {
        "a": ("labels/a.nii", "images/a/SE1"),
        "b": ("labels/b.nii", "images/b/ST1/SE1"),
        "c": (None, "unlabeled/c/x"),
    }
    assert source.notes == ()
    make(tmp_path, "images/a/SE2/1.dcm", "images/notes/a.txt")
    assert fault(tmp_path) == (
        f"{tmp_path}: 1 label file matches no scan: labels/a.nii; scans without a label: unlabeled/c/x/; not taken: "
        "images/a/, images/notes/; a case's folder holds one DICOM series and nothing beside it; take out what is not "
        "meant, or move the scan up: images/a/; a label is called what its scan is called, without the channel's "
        "_0000: rename, or take the label away."
    )


def test_what_is_left_aside_is_said(tmp_path: Path) -> None:
    make(tmp_path, "images/a.mhd", "images/a.raw", "images/b.nii.gz", "images/b.json", "images/.c.nii", "readme.txt")
    make(tmp_path, "labels/a.nrrd", "labels/b.nii.gz", "m.json", "runs/log.txt")
    (tmp_path / "labels/a.seg.nrrd").write_bytes(b"NRRD0004\ntype: uint8\n")  # as an export of the mask begins
    assert read_source(tmp_path).notes == ("not taken: labels/a.seg.nrrd",)
    assert shown(read_source(tmp_path))["a"] == ("labels/a.nrrd", "images/a.mhd")
    make(tmp_path, "labelsTs/a.nii", "loose.nii", "images/old.dcm", "deep/er/x.nii")
    assert read_source(tmp_path).notes == ("not taken: images/old.dcm, labels/a.seg.nrrd, deep/, ... (5 in all)",)
    (tmp_path / "labels/a.seg.nrrd").write_bytes(b"NRRD0005\n")  # saved since: which of the two holds the corrections?
    assert fault(tmp_path).endswith("labels: two files are called a: a.nrrd and a.seg.nrrd; keep one.")
    make(tmp_path / "cases", "a/image.nii", "a/old.nii", "a/notes.pdf", "b/img.nii", "x.nii", "notes/a.txt")
    assert read_source(tmp_path / "cases").notes == ("not taken: a/old.nii, b/, x.nii",)


def test_cases_that_do_not_hold_together(tmp_path: Path) -> None:
    make(tmp_path / "a", "c0/label.nii", "c0/img.nii", "c1/image.nii")
    assert fault(tmp_path / "a") == (
        f"{tmp_path}/a: 1 label file matches no scan: c0/label.nii; scans without a label: c1/image.nii; not taken: "
        "c0/img.nii; a case is a folder with image and label in it, or CASE/ with CASE_t1 (or other channels) and "
        "CASE_seg: rename, or take the label away."
    )
    make(tmp_path / "b", "c0/image.nii", "c0/Image.mha")
    assert fault(tmp_path / "b") == f"{tmp_path}/b/c0: Image.mha and image.nii are both its image; keep one."
    make(tmp_path / "c", "images/c0.nii", "labels/c0.nii", "labels/c0.mha")
    assert fault(tmp_path / "c") == f"{tmp_path}/c/labels: two files are called c0: c0.mha and c0.nii; keep one."


def test_no_scans_says_what_there_is(tmp_path: Path) -> None:
    expected = (
        "no scans found; expected imagesTr/ and labelsTr/, or images/ and labels/, or one folder a case with "
        "image.nii.gz and label.nii.gz in it (or CASE_flair.nii.gz, CASE_t1.nii.gz and CASE_seg.nii.gz), but it"
    )
    move = "; move the scans into images/ and their labels into labels/"
    for names, held in (
        ((), " is empty"),
        (("b.nii", "a.nii", "c.nii", "d.nii"), f" holds a.nii, b.nii, c.nii, ... (4 in all){move}"),
        (("c0/img.nii", "c0/out.nii", "x.txt"), " holds c0/, x.txt, and c0/ holds img.nii, out.nii"),
        (("images/a.png", "labels/"), " holds images/, and images/ holds a.png"),
    ):
        folder = tmp_path / str(len(held))
        folder.mkdir()
        make(folder, *(name for name in names if not name.endswith("/")))
        assert fault(folder) == f"{folder}: {expected}{held}."


def test_a_folder_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(path: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    assert fault(tmp_path) == f"{tmp_path}: cannot be read (Permission denied); allow it, or move it elsewhere."


def test_names_by_value() -> None:
    """For any file with a label table: what is none of nnU-Net's comes back as it is."""
    for same in ({"labels": {"0": "background", "1": "a"}}, {"labels": {}}, {"labels": ["a"]}, [], None):
        assert names_by_value(same, where="x") is same
    assert names_by_value({"labels": {"background": 0, "a": 1}, "b": 2}, where="x") == {
        "labels": {"0": "background", "1": "a"},
        "b": 2,
    }
    with pytest.raises(ManifestError, match=r'^x: label whole is a region .*"regions": {"whole": \[1, 2\]} in it\.$'):
        names_by_value({"labels": {"background": 0, "whole": [1, 2], "part": 2}}, where="x")


def test_a_table_of_a_manifest_keeps_all_its_keys(tmp_path: Path) -> None:
    tree = {"labels": {"1": "a", "2": "b"}, "ignore_label": 9, "regions": {"both": [1, 2]}, "channels": {"0": "CT"}}
    (tmp_path / "m.json").write_text(
        json.dumps({**tree, "name": "m", "source": "s", "licence": "l", "description": ""})
    )
    assert read_table(tmp_path / "m.json") == {**tree, "source": "s", "licence": "l"}


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    sentence = (
        f"{tmp_path}: is a folder, not a manifest; `medcontrast data split {tmp_path} --labeled 8 --label 1=NAME -o "
        "my.json` makes a manifest of it."
    )
    with pytest.raises(ManifestError, match=f"^{re.escape(sentence)}$"):
        load_manifest(tmp_path)


def test_advice_names_what_decides() -> None:
    assert root_advice({"root": "a"}, "b").startswith("correct the recipe's data.root b to ")
    assert root_advice({"root": "a"}).startswith("correct the manifest's root a to ")
    assert root_advice({}) == "set MEDCONTRAST_DATA to the folder that its paths start from"


def test_test_images_are_named_where_training_would_see_them_and_kept_out_where_they_have_labels(
    tmp_path: Path,
) -> None:
    make(tmp_path, "imagesTr/a_0000.nii", "imagesTr/b_0000.nii", "imagesTs/c_0000.nii", "labelsTr/a.nii")
    seen = read_source(tmp_path)
    assert [case.name for case in seen.unlabeled] == ["b", "c"] and seen.notes == ()
    assert seen.warnings == (
        "1 scan(s) of imagesTs/ are taken as unlabeled ones, which training sees; take them away if they are to be "
        "scored",
    )
    make(tmp_path, "labelsTs/c.nii")
    kept = read_source(tmp_path)
    assert [case.name for case in kept.unlabeled] == ["b"] and kept.warnings == ()
    assert kept.notes == (
        "not taken: imagesTs/, labelsTs/",
        "imagesTs/ has labels of its own in labelsTs/ and is kept from training; to score its scans, list them under "
        '"test" in the manifest',
    )


def test_a_folder_of_unlabeled_scans_beside_images_and_labels(tmp_path: Path) -> None:
    make(tmp_path, "images/a.nii", "labels/a.nii", "unlabeled/b.nii", "unlabeled/c.nii")
    found = read_source(tmp_path)
    assert [case.name for case in found.labeled] == ["a"] and [case.name for case in found.unlabeled] == ["b", "c"]
    assert found.notes == found.warnings == ()


def test_masks_beside_scans_are_no_unlabeled_scans(tmp_path: Path) -> None:
    """What `infer -o images/` wrote, and what somebody drew there."""
    make(tmp_path, "images/a.nii", "images/b_0.nii", "unlabeled/c.nii", "labels/a_seg.nii", "labels/a_seg.json")
    make(tmp_path, *(f"images/a_{part}" for part in ("seg.nii.gz", "seg.json", "seg.seg.nrrd", "prob.nii.gz")))
    make(tmp_path, "unlabeled/c_seg.nii.gz", "unlabeled/c_seg.json", "unlabeled/c_entropy.nii.gz")
    make(tmp_path, "images/B_0-Label.nrrd", "images/d_mask.nii")
    source = read_source(tmp_path)
    # labels may be masks of `infer` that were looked through, and d_mask is beside no d
    assert shown(source) == {
        "a": ("labels/a_seg.nii", "images/a.nii"),
        "b_0": (None, "images/b_0.nii"),
        "d_mask": (None, "images/d_mask.nii"),
        "c": (None, "unlabeled/c.nii"),
    }
    assert source.notes == (
        "not taken, as `infer` wrote them: images/a_prob.nii.gz, images/a_seg.nii.gz, images/a_seg.seg.nrrd",
        "not taken, as their names say masks of the scans beside them: images/B_0-Label.nrrd",
        "not taken, as `infer` wrote them: unlabeled/c_entropy.nii.gz, unlabeled/c_seg.nii.gz",
    )


def test_masks_beside_the_channels_of_a_scan(tmp_path: Path) -> None:
    make(tmp_path, "images/a_0000.nii", "images/a_0001.nii", "images/a_seg.nii", "labels/a.nii")
    assert shown(read_source(tmp_path)) == {"a": ("labels/a.nii", "images/a_0000.nii", "images/a_0001.nii")}
