"""Tests of the sources of a manifest of images, image by image, folders and lists: by hand, every sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import PLACE, cases_of, write_idx, write_npz
from PIL import Image

from medcontrast.data.images.arrays import csv_rows
from medcontrast.data.images.sources import SOURCES, ImageCase, source_kind
from medcontrast.errors import ManifestError

COUNTED = ("1", "2", "3", "4")
"""Classes called by numbers that do not start from 0."""


def write_png(path: Path, value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)
    return path


# --- one image


def test_a_single_image_with_all_that_may_be_known(tmp_path: Path) -> None:
    file = write_png(tmp_path / "a/x.png")
    known = {"target": "dog", "domain": 3, "quality": "low", "patient": 17, "text": "a dog", "of": "y"}
    (case,) = cases_of(tmp_path, {"image": "a/x.png", **known, "attributes": {"age": 5, "weight": "2.5"}})
    assert case == ImageCase(
        name="a/x.png",
        file=file,
        target=1,
        domain="3",
        quality="low",
        patient="17",
        text="a dog",
        of="y",
        attributes={"age": 5.0, "weight": 2.5},
    )


def test_an_image_has_one_name_however_its_path_is_spelled_and_another_if_it_is_given(tmp_path: Path) -> None:
    file = write_png(tmp_path / "a/x.png")
    assert cases_of(tmp_path, {"image": "./a//x.png"})[0].name == "a/x.png"
    assert cases_of(tmp_path, {"image": "a/x.png", "name": "mine"})[0].name == "mine"
    (case,) = cases_of(Path("elsewhere"), {"image": str(file)})
    assert case.file == file and case.name == file.as_posix()
    assert (case.target, case.quality, case.attributes) == (None, None, {})


def test_a_target_is_a_class_or_its_number(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png")
    targets = {value: cases_of(tmp_path, {"image": "x.png", "target": value})[0].target for value in ("cat", 1, "1", 0)}
    assert targets == {"cat": 0, 1: 1, "1": 1, 0: 0}
    # where names are numbers, text is a name and a number still a place
    targets = {
        value: cases_of(tmp_path, {"image": "x.png", "target": value}, ("3", "1"))[0].target for value in ("1", 1)
    }
    assert targets == {"1": 1, 1: 1}
    targets = {
        value: cases_of(tmp_path, {"image": "x.png", "target": value}, ("1", "0"))[0].target for value in ("1", 1)
    }
    assert targets == {"1": 0, 1: 1}


def test_numbers_are_places_of_classes_whatever_these_are_called(tmp_path: Path) -> None:
    arrays = {"images": np.zeros((4, 4, 4), np.uint8), "places": np.arange(4), "names": np.array(COUNTED)}
    write_npz(tmp_path / "x.npz", **arrays)
    write_idx(tmp_path / "images", arrays["images"])
    write_idx(tmp_path / "labels", np.arange(4, dtype=np.uint8))
    (tmp_path / "l.csv").write_text("image,target\n" + "".join(f"{name}.png,{name}\n" for name in COUNTED))
    for source in (
        {"npz": "x.npz", "target": "places"},
        {"npz": "x.npz", "target": "names"},
        {"idx": "images", "target": "labels"},
        {"csv": "l.csv"},
    ):
        assert [case.target for case in cases_of(tmp_path, source, COUNTED)] == [0, 1, 2, 3], source


@pytest.mark.parametrize(
    "classes", [("1.0", "0.0"), ("1.0", "2.0", "0.0"), ("1e0", "0.0"), ("1.0", "NA", "nan", "0.0")]
)
def test_classes_that_are_called_by_fractions_keep_their_names(tmp_path: Path, classes: tuple[str, ...]) -> None:
    (tmp_path / "l.csv").write_text("image,target\n" + "".join(f"{name}.png, {name} \n" for name in classes))
    assert [case.target for case in cases_of(tmp_path, {"csv": "l.csv"}, classes)] == list(range(len(classes)))
    (tmp_path / "l.csv").write_text("image,target\na.png,7.0\n")
    with pytest.raises(ManifestError, match=r"target '7' is not one of .* text is a name\.$"):
        cases_of(tmp_path, {"csv": "l.csv"}, classes)


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    """However a table writes it. NA is missing where it can be no name: a patient, a number."""
    words = ("", " ", "NA", "N/A", "nan", "None", "null", "<NA>")
    rows = "".join(f"{place}.png,{word},{word}\n" for place, word in enumerate(words))
    (tmp_path / "l.csv").write_text(f"image,patient,age\n{rows}x.png,Nathan,12.0\n")
    *missing, known = cases_of(tmp_path, {"csv": "l.csv", "attributes": ["age"]})
    assert [(case.patient, case.attributes) for case in missing] == [(None, {})] * len(words)
    assert (known.patient, known.attributes) == ("Nathan", {"age": 12.0})
    (tmp_path / "l.csv").write_text("image,domain,text\nx.png,NA,None\n")
    (case,) = cases_of(tmp_path, {"csv": "l.csv"})
    assert (case.domain, case.text) == ("NA", "None")


def test_text_that_may_be_a_name_or_a_place_is_a_name_or_refused(tmp_path: Path) -> None:
    """A list of places 0 to 3 would read as 0, 0, 1, 2 if text were a place wherever it is no name."""
    (tmp_path / "l.csv").write_text("image,target\na.png,1\nb.png,0\n")
    assert [case.target for case in cases_of(tmp_path, {"csv": "l.csv"})] == [1, 0]
    sentence = (
        r"row 2 \(b\.png\): target '0' is not one of the manifest's classes \(1, 2, 3, 4\); a number counts them "
        r"from 0, text is a name\.$"
    )
    with pytest.raises(ManifestError, match=sentence):
        cases_of(tmp_path, {"csv": "l.csv"}, COUNTED)
    write_png(tmp_path / "x.png")
    with pytest.raises(
        ManifestError, match=r"target 4 is not one of .* a number counts them from 0, text is a name\.$"
    ):
        cases_of(tmp_path, {"image": "x.png", "target": 4}, COUNTED)


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        ({"target": "bird"}, r": target 'bird' is not one of the manifest's classes \(cat, dog\)\."),
        ({"target": 2}, r": target 2 is not one of"),
        ({"target": -1}, r": target -1 is not one of"),
        ({"target": 0.5}, r": target 0\.5 is not one of"),
        ({"target": "²"}, r": target '²' is not one of"),
        ({"target": True}, r": target True is not one of"),
        ({"quality": "bad"}, r': quality is "high" or "low", but got \'bad\'\.'),
        ({"patient": ["a"]}, r": patient is a word or a number, but got \['a'\]\."),
        ({"domain": {"a": 1}}, r": domain is a word or a number, but got \{'a': 1\}\."),
        ({"attributes": {"age": "old"}}, r": attributes are numbers by name, but got \{'age': 'old'\}\."),
        ({"attributes": ["age"]}, r": attributes are numbers by name, but got \['age'\]\."),
        ({"attributes": {"age": float("-inf")}}, r": attributes must be finite, but got \{'age': -inf\}\."),
    ],
)
def test_facts_that_make_no_sense(tmp_path: Path, known: dict[str, Any], sentence: str) -> None:
    write_png(tmp_path / "x.png")
    with pytest.raises(ManifestError, match=PLACE + sentence):
        cases_of(tmp_path, {"image": "x.png", **known})


def test_a_target_without_classes_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png")
    with pytest.raises(ManifestError, match=r'target 0 is not .* classes \(none; add "classes", a list of names\)\.'):
        cases_of(tmp_path, {"image": "x.png", "target": 0}, ())
    with pytest.raises(ManifestError, match=PLACE + rf": {tmp_path}/y\.png is not there\."):
        cases_of(tmp_path, {"image": "y.png"})
    with pytest.raises(ManifestError, match=PLACE + r": expected a path, but got 3\."):
        cases_of(tmp_path, {"image": 3})


def test_the_kind_of_a_source_is_its_own_key_and_not_its_companion_s() -> None:
    assert [source_kind({kind: "x"}) for kind in SOURCES] == list(SOURCES)
    assert source_kind({"csv": "t.csv", "idx": "x"}) == "idx"
    assert source_kind({"csv": "t.csv", "folder": "x"}) is None and source_kind({}) is None
    with pytest.raises(
        ManifestError, match=PLACE + ": expected one of the keys image, npz, folder, csv, idx, slices, but"
    ):
        cases_of(Path(), {"picture": "x"})


def test_known_facts_survive_json(tmp_path: Path) -> None:
    """A manifest is JSON: what it can hold is what the sources take."""
    write_png(tmp_path / "x.png")
    source = json.loads('{"image": "x.png", "target": null, "domain": "", "attributes": null}')
    (case,) = cases_of(tmp_path, source)
    assert (case.target, case.domain, case.attributes) == (None, None, {})


# --- folders


def test_a_folder_in_order_with_classes_by_subfolder(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/deep/a.JPG", "cat/c.tif", "top.png"):
        write_png(tmp_path / "f" / Path(name).with_suffix(".png")).rename(tmp_path / "f" / name)
    (tmp_path / "f/cat/notes.txt").write_text("no image")
    write_png(tmp_path / "f/cat/._c.png")  # what macOS leaves beside a file
    write_png(tmp_path / "f/.ipynb_checkpoints/b.png")
    cases = cases_of(tmp_path, {"folder": "./f/", "target": "subfolder", "domain": "A", "quality": "high"})
    assert [case.name for case in cases] == ["f/cat/c.tif", "f/cat/deep/a.JPG", "f/dog/b.png", "f/top.png"]
    assert [case.target for case in cases] == [0, 0, 1, None]
    assert {(case.domain, case.quality) for case in cases} == {("A", "high")}
    assert cases[1].file == tmp_path / "f/cat/deep/a.JPG"
    plain = cases_of(tmp_path, {"folder": "f", "rows": [0, 2]})
    assert [(case.name, case.target) for case in plain] == [("f/cat/c.tif", None), ("f/cat/deep/a.JPG", None)]
    assert {case.target for case in cases_of(tmp_path, {"folder": "f", "target": "dog"})} == {1}
    with pytest.raises(ManifestError, match=r"train\[0\]: f/cat/c\.tif: target 'cat' is not one of"):
        cases_of(tmp_path, {"folder": "f", "target": "subfolder"}, ("dog",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=rf"{tmp_path}/empty holds no image \(\.png, \.jpg, .*\.dcm\)\."):
        cases_of(tmp_path, {"folder": "empty"})


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write_png(tmp_path / "elsewhere/a.png")
    write_png(tmp_path / "f/dog/b.png")
    (tmp_path / "f/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "f")
    cases = cases_of(tmp_path, {"folder": "f", "target": "subfolder"})
    assert [(case.name, case.target) for case in cases] == [("f/cat/a.png", 0), ("f/dog/b.png", 1)]


# --- lists


def test_a_list_whose_paths_start_from_the_root_or_from_itself(tmp_path: Path) -> None:
    write_png(tmp_path / "lists/a.png")
    text = "image,target,domain,quality,patient,age,comment\na.png,dog ,B,, p1 ,40,x\nsub/b.png,0,,low,,41.5,y\n"
    (tmp_path / "lists/l.csv").write_text("\ufeff" + text, encoding="utf-8")  # a spreadsheet writes the mark
    cases = cases_of(tmp_path, {"csv": "./lists/l.csv", "relative_to": "csv", "attributes": ["age"]})
    assert [(case.name, case.file) for case in cases] == [
        ("lists/a.png", tmp_path / "lists/a.png"),
        ("lists/sub/b.png", tmp_path / "lists/sub/b.png"),
    ]
    facts = [(case.target, case.domain, case.quality, case.patient, case.attributes) for case in cases]
    # a blank at an end is no other patient
    assert facts == [(1, "B", None, "p1", {"age": 40.0}), (0, None, "low", None, {"age": 41.5})]
    for spelled in ("lists/l.csv", "./lists/l.csv", "lists/../lists/l.csv", str(tmp_path / "lists/l.csv")):
        found = cases_of(tmp_path, {"csv": spelled})
        assert [case.file for case in found] == [tmp_path / "a.png", tmp_path / "sub/b.png"]
        assert found[0].name == "a.png" and found[0].attributes == {}
    assert [case.name for case in cases_of(tmp_path, {"csv": "lists/l.csv", "rows": [1, 2]})] == ["sub/b.png"]


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        ("file,target\nx,1\n", {}, r"l\.csv has no column 'image'; it has file, target\."),
        ("image,target,target\nx,1,2\n", {}, r"l\.csv has more than one column 'target'\."),
        ("image\nx\n", {"attributes": ["age"]}, r"l\.csv has no column 'age'; it has image\."),
        ("image\n", {}, r"l\.csv has no rows\."),
        ("", {}, r"l\.csv has no rows\."),
        ("image,target\nx,0\ny\n", {}, r"row 2 of .*l\.csv has not 2 values, as its first line has\."),
        ("image,target\nx,0,1\n", {}, r"row 1 of .*l\.csv has not 2 values"),
        ("image,target\nx,0\ny,bird\n", {}, r"train\[0\]: row 2 \(y\): target 'bird' is not one of"),
        ("image,age\nx,old\n", {"attributes": ["age"]}, r"row 1 \(x\): attributes are numbers by name"),
        ("image,age\nx,1\n ,2\n", {}, r"train\[0\]: row 2 of .*l\.csv names no image\."),
        ("image\nx\n\0y\n", {}, r"train\[0\]: row 2 of .*l\.csv names no image\."),
        ("image\nx\n", {"attributes": "age"}, r"attributes is a list of columns here, but got 'age'\."),
        ("image\nx\n", {"relative_to": "me"}, r'relative_to is "root" or "csv", but got \'me\'\.'),
        ('image\n"x\n', {}, r"l\.csv cannot be read as CSV \("),
        ("image\n\xff\n", {}, r"l\.csv is no text in UTF-8; save it as that\."),
        ("image;target\nx;0\n", {}, r"l\.csv separates its columns by ';'; separate them by commas\."),
        ("image\ttarget\nx\t0\n", {}, r"l\.csv separates its columns by '\\t'; separate them by commas\."),
    ],
)
def test_a_list_that_does_not_fit(tmp_path: Path, text: str, more: dict[str, Any], sentence: str) -> None:
    (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError, match=sentence):
        cases_of(tmp_path, {"csv": "l.csv", **more})


def test_columns_by_their_names_in_any_letters(tmp_path: Path) -> None:
    """A column Patient that nobody reads would let a patient stand in two splits."""
    (tmp_path / "l.csv").write_text("Image,Patient ,DOMAIN,domain,Age\nx,7,a,b,3\n")
    (case,) = cases_of(tmp_path, {"csv": "l.csv", "attributes": ["Age"]})
    assert (case.name, case.patient, case.domain, case.attributes) == ("x", "7", "b", {"Age": 3.0})


@pytest.mark.parametrize(
    ("written", "patient"),
    [
        ("12.0", "12"),
        ("12", "12"),
        (" p1 ", "p1"),
        ("1.50", "1.50"),
        ("nan", None),
        ("NaN", None),
        ("<NA>", None),
        ("", None),
    ],
)
def test_ids_as_tables_write_them(tmp_path: Path, written: str, patient: str | None) -> None:
    (tmp_path / "l.csv").write_text(f"image,patient,domain\nx,{written},{written}\n")
    (case,) = cases_of(tmp_path, {"csv": "l.csv"})
    assert (case.patient, case.domain) == (patient, patient)


def test_numbers_of_arrays_as_ids_and_targets(tmp_path: Path) -> None:
    write_npz(
        tmp_path / "a.npz",
        images=np.zeros((3, 4, 4), np.uint8),
        patient=np.array([1.0, np.nan, 2.5]),
        target=np.array([1.0, 0.0, np.nan]),
    )
    cases = cases_of(tmp_path, {"npz": "a.npz", "patient": "patient", "target": "target"})
    assert [(case.patient, case.target) for case in cases] == [("1", 1), (None, 0), ("2.5", None)]


def test_rows_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text('a,b\n1,"x, y"\n')
    assert csv_rows(tmp_path / "l.csv", ["b"], "here") == [{"a": "1", "b": "x, y"}]
    with pytest.raises(ManifestError, match=r"here: .*none\.csv cannot be read as CSV \("):
        csv_rows(tmp_path / "none.csv", [], "here")
