"""Kinds: by hand, property. Which scans a command line means, and what their outputs are called."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcontrast.data.manifest import load_manifest
from medcontrast.errors import ManifestError, VolumeError
from medcontrast.inference.inputs import find_scans, scans_of_split, unique_names


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def dicom(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM")


def found(inputs: list[Path], channels: tuple[str, ...] = ("image",)) -> dict[str, list[str]]:
    return {scan.name: [image.name for image in scan.images] for scan in find_scans(inputs, channels)}


def test_files_and_folders_of_every_format(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.nii.gz", "a.b.NII", "c.nrrd", "d.mha", "notes.txt", ".hidden.nii.gz")))
    touch(tmp_path / "e.seg.nrrd", tmp_path / "deeper" / "f.nii.gz")
    dicom(tmp_path / "series" / "0001")
    assert found([tmp_path]) == {
        "a.b": ["a.b.NII"],
        "b": ["b.nii.gz"],
        "c": ["c.nrrd"],
        "d": ["d.mha"],
        "series": ["series"],
    }
    assert found([tmp_path / "series"]) == {"series": ["series"]}
    assert found([tmp_path / "c.nrrd", tmp_path / "b.nii.gz", tmp_path / "c.nrrd"]) == {
        "c": ["c.nrrd"],
        "b": ["b.nii.gz"],
    }


def test_slices_beside_other_volumes_are_a_fault(tmp_path: Path) -> None:
    dicom(tmp_path / "both" / "0001")
    touch(tmp_path / "both" / "localizer.nii.gz")
    dicom(tmp_path / "nested" / "0001")
    dicom(tmp_path / "nested" / "second" / "0001")
    for name, other in (("both", "localizer.nii.gz"), ("nested", "second")):
        sentence = (
            f"{tmp_path / name}: holds DICOM slices beside other volumes, such as {other}; give the files themselves, "
            "or move the slices into a folder of their own."
        )
        with pytest.raises(VolumeError, match=f"^{re.escape(sentence)}$"):
            find_scans([tmp_path / name], ["image"])
    # masks that an earlier run wrote beside the slices are no volumes of theirs
    (tmp_path / "both" / "localizer.nii.gz").unlink()
    touch(tmp_path / "both" / "both_seg.nii.gz", tmp_path / "both" / "both_seg.json")
    assert found([tmp_path / "both"]) == {"both": ["both"]}


def test_a_dicomdir_is_no_slice(tmp_path: Path) -> None:
    dicom(tmp_path / "DICOMDIR")
    dicom(tmp_path / "IMAGES" / "0001")
    assert found([tmp_path]) == {f"{tmp_path.name}_IMAGES": ["IMAGES"]}


@pytest.mark.parametrize("closed", ["in", "lost+found"])
def test_a_folder_that_may_not_be_entered_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    touch(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "in" / "lost+found").mkdir()
    enter = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return enter(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    sentence = (
        rf"{re.escape(closed)}: cannot be read \(Permission denied\); give the scans themselves, or allow reading it\.$"
    )
    with pytest.raises(VolumeError, match=sentence):
        find_scans([tmp_path / "in"], ["image"])


def test_a_folder_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of it grows with the square of its files, nor opens those whose names say what they are."""
    touch(*(tmp_path / f"{number:03d}.nii.gz" for number in range(200)))
    compared, opened = [], []
    monkeypatch.setattr(Path, "__hash__", lambda path: compared.append(path) or hash(str(path)))
    monkeypatch.setattr(Path, "open", lambda path, *_: opened.append(path) or pytest.fail("opened"))
    assert len(find_scans([tmp_path], ["image"])) == 200
    assert len(compared) < 20 * 200 and not opened


def test_the_record_calls_inputs_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in" / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert find_scans([Path("in")], ["image"])[0].shown == ("in/a.nii.gz",)


def test_masks_of_an_earlier_run_are_no_scans(tmp_path: Path) -> None:
    touch(
        *(tmp_path / name for name in ("a.nii.gz", "a_seg.nii.gz", "a_seg.json", "a_prob.nii.gz", "a_entropy.nii.gz"))
    )
    touch(tmp_path / "b_seg.nii.gz", tmp_path / "a_seg.seg.nrrd")
    assert found([tmp_path]) == {"a": ["a.nii.gz"], "b_seg": ["b_seg.nii.gz"]}


def test_the_label_in_the_folder_of_a_case_is_no_scan(tmp_path: Path) -> None:
    touch(*(tmp_path / "case" / name for name in ("image.nii.gz", "Label.nrrd", "label_2.nii.gz")))
    touch(*(tmp_path / "others" / name for name in ("images.nii.gz", "label.nii.gz")))
    assert found([tmp_path / "case"]) == {"case": ["image.nii.gz"], "label_2": ["label_2.nii.gz"]}
    assert set(found([tmp_path / "others"])) == {"images"}
    assert set(found([tmp_path / "case" / "Label.nrrd"])) == {"Label"}
    touch(tmp_path / "case_00000" / "imaging.nii.gz", tmp_path / "case_00000" / "segmentation.nii.gz")
    assert found([tmp_path / "case_00000"]) == {"case_00000": ["imaging.nii.gz"]}


def test_files_called_as_masks_and_nothing_else_are_no_scans(tmp_path: Path) -> None:
    touch(*(tmp_path / "a" / name for name in ("scan.nii.gz", "mask.nii.gz", "Label.nii", "seg.nrrd")))
    touch(tmp_path / "b" / "segmentation.nii.gz")
    told: list[str] = []
    scans = find_scans([tmp_path / "a"], ["image"], told.append)
    assert [scan.name for scan in scans] == ["scan"]
    (sentence,) = told
    assert sentence == (
        f"{tmp_path / 'a'}: not taken, as their names say masks: Label.nii, mask.nii.gz, seg.nrrd; name the files "
        "themselves to have them segmented."
    )
    assert set(found([tmp_path / "a" / "mask.nii.gz"])) == {"mask"}
    with pytest.raises(
        VolumeError, match=r"b: no volume in this folder but masks \(segmentation.nii.gz\); name the fi"
    ):
        find_scans([tmp_path / "b"], ["image"])


@pytest.mark.parametrize("ending", ["_seg", "_Mask", "_pred", ".prediction"])
def test_a_mask_by_whatever_program_is_no_scan(tmp_path: Path, ending: str) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / f"a{ending}.nii.gz")
    assert set(found([tmp_path])) == {"a"}


def test_masks_beside_scans_are_left_aside_and_said(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a.nii.gz", "a_seg.nii.gz", "B.nii.gz", "b-Mask.nrrd", "c_label.nii.gz")))
    dicom(tmp_path / "d" / "0001")
    touch(tmp_path / "d_labels.nii.gz", tmp_path / "a_segment.nii.gz")
    said: list[str] = []
    scans = find_scans([tmp_path], ["image"], said.append)
    assert [scan.name for scan in scans] == ["B", "a", "a_segment", "c_label", "d"]
    assert said == [
        f"{tmp_path}: not taken, as their names say masks of the scans beside them: a_seg.nii.gz, b-Mask.nrrd, "
        "d_labels.nii.gz; name the files themselves to have them segmented."
    ]
    said.clear()
    assert set(found([tmp_path / "a_seg.nii.gz", tmp_path / "a.nii.gz"])) == {"a_seg", "a"} and not said
    touch(*(tmp_path / "two" / f"x_{end}.nii.gz" for end in ("0000", "0001", "seg")))
    assert set(found([tmp_path / "two"], ("t2", "adc"))) == {"x"}


def test_the_scan_of_a_case_is_called_as_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a loop over the folders of cases writes one mask over the other."""
    touch(*(tmp_path / place / "image.nii.gz" for place in ("x/c0", "x/c1", "y/c1")))
    dicom(tmp_path / "c2" / "Image" / "0001")
    touch(*(tmp_path / "c_0003" / f"image_000{channel}.nii" for channel in range(2)))
    assert set(found([tmp_path / "x" / "c0"])) == {"c0"}
    assert set(found([tmp_path / "x" / "c0" / "image.nii.gz"])) == {"image"}
    assert set(found([tmp_path / "c2"])) == {"c2"}
    assert set(found([tmp_path / "c_0003"], ("t2", "adc"))) == {"c_0003"}
    places = [tmp_path / place for place in ("x/c0", "x/c1", "y/c1")]
    assert [scan.name for scan in find_scans(places, ["image"])] == ["c0", "x_c1", "y_c1"]
    monkeypatch.chdir(tmp_path / "x" / "c0")
    assert [set(found([Path(place)])) for place in (".", "../c1")] == [{"c0"}, {"c1"}]


def test_a_series_alone_in_a_folder_has_the_folders_name_before_its_own(tmp_path: Path) -> None:
    dicom(tmp_path / "P1" / "SE1" / "0001")
    dicom(tmp_path / "P2" / "SE1" / "0001")
    dicom(tmp_path / "P2" / "SE2" / "0001")
    assert set(found([tmp_path / "P1"])) == {"P1_SE1"}
    assert set(found([tmp_path / "P2"])) == {"SE1", "SE2"}
    assert set(found([tmp_path / "P1" / "SE1"])) == {"SE1"}


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt")
    dicom(tmp_path / "one.dcm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VolumeError) as caught:
        find_scans([tmp_path / name for name in ("gone.nii.gz", "notes.txt", "one.dcm", "empty")], ["image"])
    lines = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
    known = ".nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd"
    assert lines == [
        "gone.nii.gz: there is no such file or folder.",
        f"notes.txt: not a volume; expected {known} or a DICOM folder.",
        "one.dcm: one DICOM file is not a volume; give the folder of its series.",
        f"empty: no volume in this folder; expected {known} files or a DICOM series.",
    ]


def test_folders_that_hold_the_volumes_are_named(tmp_path: Path) -> None:
    touch(*(tmp_path / folder / "a.nii.gz" for folder in ("images", "labels")), tmp_path / "notes" / "a.txt")
    touch(*(tmp_path / "cases" / f"c{number}" / "image.nii.gz" for number in range(5)))
    known = "no volume in this folder; expected .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd files or a DICOM series"
    for folder, deeper in (
        (tmp_path, f"{tmp_path}/images, {tmp_path}/labels"),
        (tmp_path / "cases", ", ".join(f"{tmp_path}/cases/c{number}" for number in range(3)) + " and 2 more"),
    ):
        with pytest.raises(VolumeError) as caught:
            find_scans([folder], ["image"])
        sentence = f"{known}, but volumes lie deeper, in {deeper}; give the folder or the files of the scans."
        assert str(caught.value) == f"{folder}: {sentence}"


def test_a_folder_of_outputs_alone_says_so(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a_seg.nii.gz", "a_seg.json", "a_prob.nii.gz")))
    sentence = "but a_prob.nii.gz (and 1 more) were written by `infer`, whose masks and maps are passed over."
    with pytest.raises(VolumeError) as caught:
        find_scans([tmp_path], ["image"])
    assert str(caught.value).endswith(f"files or a DICOM series, {sentence}")


def test_equal_names_get_their_folders_name_then_a_number(tmp_path: Path) -> None:
    paths = [
        tmp_path / name for name in ("x/scan.nii.gz", "y/scan.nii.gz", "y/scan.mha", "y/Other.nrrd", "y/x_scan.nii")
    ]
    touch(*paths)
    names = [scan.name for scan in find_scans(paths, ["image"])]
    assert names == ["x_scan_2", "y_scan", "y_scan_2", "Other", "x_scan"]
    assert [scan.name for scan in find_scans(paths, ["image"])] == names


def test_names_always_differ_whatever_the_case() -> None:
    for stems in itertools.product(("a", "A", "p_a", "a_2", "p_a_2"), repeat=4):
        names = unique_names(stems, ["p", "p", "q", ""])
        assert len({name.lower() for name in names}) == 4
        assert all(
            name == stem
            for name, stem in zip(names, stems, strict=True)
            if [other.lower() for other in stems].count(stem.lower()) == 1
        )


def test_channels_are_grouped_by_case(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{case}_000{channel}.nii.gz" for case in ("ann", "bob_1") for channel in (1, 0)))
    assert found([tmp_path], ("t2", "adc")) == {
        "ann": ["ann_0000.nii.gz", "ann_0001.nii.gz"],
        "bob_1": ["bob_1_0000.nii.gz", "bob_1_0001.nii.gz"],
    }


def test_further_channels_in_a_folder_are_no_scans_of_a_network_of_one(tmp_path: Path) -> None:
    folder = tmp_path / "my scans"
    touch(*(folder / name for name in ("ann_0000.nii.gz", "ann_0001.nii.gz", "bob_0000.nii.gz")))
    sentence = (
        f"{folder}: shows further channels, such as ann_0001.nii.gz beside ann_0000.nii.gz, but the checkpoint takes "
        f"one (t2); give the files of that channel, for example '{folder}'/*_0000.nii.gz, or name every file where "
        "each is a scan of its own."
    )
    with pytest.raises(VolumeError, match=f"^{re.escape(sentence)}$"):
        find_scans([folder], ["t2"])
    assert set(found(sorted(folder.iterdir()))) == {"ann_0000", "ann_0001", "bob_0000"}
    touch(*(tmp_path / "numbered" / f"case_{number:04d}.nii.gz" for number in range(11)))
    assert len(found([tmp_path / "numbered"])) == 11  # more than there are channels


def test_channels_that_do_not_add_up(tmp_path: Path) -> None:
    touch(tmp_path / "a_0000.nii.gz", tmp_path / "b_0001.nii.gz", tmp_path / "b_0002.nii.gz", tmp_path / "c.nii.gz")
    touch(tmp_path / "d_0000.nii.gz", tmp_path / "d_0001.nii.gz", tmp_path / "d_0001.nrrd")
    with pytest.raises(VolumeError) as caught:
        find_scans([tmp_path], ["t2", "adc"])
    takes = "the checkpoint takes 2 channels (t2, adc)"
    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == [
        f"c.nii.gz: {takes}, one file each; name them CASE_0000, CASE_0001, ... or CASE_t2, CASE_adc, ... or use "
        "--manifest.",
        "d_0001.nrrd: d_0001.nii.gz is the same channel of the same case; keep one.",
        f"a: {takes}, _0000 to _0001 or by name, but this case has a_0000.nii.gz.",
        f"b: {takes}, _0000 to _0001 or by name, but this case has b_0001.nii.gz, b_0002.nii.gz.",
    ]


def test_channels_are_told_by_their_names_too(tmp_path: Path) -> None:
    channels = ("flair", "t1", "ce_t1")
    touch(*(tmp_path / "P0" / f"P0_{channel}.nii.gz" for channel in ("seg", *channels)))
    touch(*(tmp_path / "P1" / f"p1-{channel}.nrrd" for channel in ("T1", "CE_T1", "FLAIR")))
    said: list[str] = []
    scans = find_scans([tmp_path / "P0", tmp_path / "P1"], channels, said.append)
    assert {scan.name: [image.name for image in scan.images] for scan in scans} == {
        "P0": ["P0_flair.nii.gz", "P0_t1.nii.gz", "P0_ce_t1.nii.gz"],
        "p1": ["p1-FLAIR.nrrd", "p1-T1.nrrd", "p1-CE_T1.nrrd"],
    }
    assert len(said) == 1 and ": P0_seg.nii.gz; name" in said[0]
    (tmp_path / "P1" / "p1-T1.nrrd").unlink()
    with pytest.raises(VolumeError, match=r"P1/p1: .* but this case has p1-FLAIR\.nrrd, p1-CE_T1\.nrrd\.$"):
        find_scans([tmp_path / "P1"], channels)


def manifest(tmp_path: Path, cases: list[dict[str, str]]) -> Path:
    path = tmp_path / "m.json"
    table = {"labels": {"0": "background", "1": "x"}, "root": "data"}
    path.write_text(json.dumps({**table, "test": [{**case, "label": "l"} for case in cases]}))
    return path


def test_a_split_is_called_by_case_names(tmp_path: Path) -> None:
    touch(tmp_path / "data" / "i" / "1.nii.gz", tmp_path / "data" / "i" / "2.nii.gz")
    cases = [{"case": "site A/1", "image": "i/1.nii.gz"}, {"image": "i/2.nii.gz"}]
    scans = scans_of_split(load_manifest(manifest(tmp_path, cases)), "test")
    assert [scan.name for scan in scans] == ["site_A_1", "2"]
    assert [scan.shown for scan in scans] == [("i/1.nii.gz",), ("i/2.nii.gz",)]


def test_the_record_names_no_folder_outside_the_root(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.nii.gz")
    (tmp_path / "data").mkdir()
    cases = [{"image": str(tmp_path / "elsewhere" / "1.nii.gz")}]
    (scan,) = scans_of_split(load_manifest(manifest(tmp_path, cases)), "test")
    assert scan.images == (tmp_path / "elsewhere" / "1.nii.gz",)
    assert scan.shown == ("1.nii.gz",)


def test_missing_images_of_a_split(tmp_path: Path) -> None:
    cases = [{"image": f"i/{n}.nii.gz"} for n in range(7)]
    path = manifest(tmp_path, cases)
    # the variable would change nothing where a root is written
    root = r"correct the manifest's root data to the folder that its paths start from:\n  - "
    with pytest.raises(ManifestError, match=rf"7 image file\(s\) of the split test are not there; {root}"):
        scans_of_split(load_manifest(path), "test")
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in tree.items() if key != "root"}))
    with pytest.raises(ManifestError, match=r"are not there; set MEDCONTRAST_DATA to the folder that its paths start"):
        scans_of_split(load_manifest(path), "test")


def test_no_output_is_named_after_two_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (tmp_path / "up" / "s.nii.gz", tmp_path / "up" / "down" / "s.nii.gz"):
        place.parent.mkdir(exist_ok=True)
        place.touch()
    monkeypatch.chdir(tmp_path / "up" / "down")
    found = find_scans([Path("s.nii.gz"), Path("../s.nii.gz")], ["image"])
    assert [scan.name for scan in found] == ["down_s", "up_s"]


def test_the_number_of_the_only_channel_is_no_part_of_a_name(tmp_path: Path) -> None:
    """As nnU-Net names its files, whose labels have no number."""
    for name in ("a_0000.nii.gz", "b_0000.nii.gz"):
        (tmp_path / name).touch()
    assert [scan.name for scan in find_scans([tmp_path], ["image"])] == ["a", "b"]
    assert [scan.name for scan in find_scans([tmp_path / "a_0000.nii.gz"], ["image"])] == ["a_0000"]
    (tmp_path / "c_0001.nii.gz").touch()  # numbers of scans, then
    assert [scan.name for scan in find_scans([tmp_path], ["image"])] == ["a_0000", "b_0000", "c_0001"]
