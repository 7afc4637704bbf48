"""Tests of the sources of a manifest of images: by hand, every kind and every sentence."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medcontrast.data.images.arrays import csv_rows, idx_array, npz_array, npz_length
from medcontrast.data.images.sources import SOURCES, ImageCase, expand, source_kind
from medcontrast.errors import ManifestError

CLASSES = ("cat", "dog")


def cases_of(root: Path, source: dict[str, Any], classes: tuple[str, ...] = CLASSES) -> list[ImageCase]:
    return expand(source, root, classes, where="m.json: train[0]")


def write_png(path: Path, value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)
    return path


def write_idx(path: Path, array: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_npz(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
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


PLACE = r"m\.json: train\[0\]"
COUNTED = ("1", "2", "3", "4")
"""Classes called by numbers that do not start from 0."""


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
        ({"attributes": {"age": "old"}}, r": attributes are numbers by name, but got \{'age': 'old'\}\."),
        ({"attributes": ["age"]}, r": attributes are numbers by name, but got \['age'\]\."),
        ({"attributes": {"age": float("nan")}}, r": attributes must be finite, but got \{'age': nan\}\."),
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


# --- .npz


def test_npz_with_columns_and_rows(tmp_path: Path) -> None:
    file = write_npz(
        tmp_path / "d/set.npz",
        pixels=np.zeros((5, 4, 4), np.uint8),
        labels=np.array([[0], [1], [1], [0], [1]], np.uint8),
        scanner=np.array(["A", "B", "A", "B", "A"]),
        years=np.arange(5) * 1.5,
        persons=np.arange(5) // 2,
    )
    source = {"npz": "d/set.npz", "images": "pixels", "target": "labels", "domain": "scanner", "patient": "persons"}
    cases = cases_of(tmp_path, {**source, "attributes": {"age": "years"}, "rows": [1, 4]})
    assert [(case.name, case.file, case.key, case.index) for case in cases] == [
        (f"d/set.npz#pixels[{index}]", file, "pixels", index) for index in (1, 2, 3)
    ]
    assert [case.target for case in cases] == [1, 1, 0]
    assert [case.domain for case in cases] == ["B", "A", "B"]
    assert [case.patient for case in cases] == ["0", "1", "1"]
    assert [case.attributes for case in cases] == [{"age": 1.5}, {"age": 3.0}, {"age": 4.5}]
    # files of one name in two folders are two sets
    write_npz(tmp_path / "e/set.npz", images=np.zeros((1, 4, 4), np.uint8))
    assert cases_of(tmp_path, {"npz": "e/set.npz"})[0].name == "e/set.npz#images[0]"


def test_which_images_of_many(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", images=np.zeros((12, 2, 2), np.uint8))

    def chosen(**more: Any) -> list[int | None]:
        return [case.index for case in cases_of(tmp_path, {"npz": "x.npz", **more})]

    assert chosen() == list(range(12))
    assert chosen(folds=5, take=[0, 3]) == [0, 3, 5, 8, 10]
    assert chosen(rows=[2, 9], folds=5, take=[0, 3]) == [2, 5, 7]  # folds are counted from the first row
    parts = [chosen(folds=4, take=take) for take in ([0, 1], [2], [3])]
    assert sorted(row for part in parts for row in part) == list(range(12))
    assert chosen(rows=[2, 9], without=[3, 5, 11]) == [2, 4, 6, 7, 8]


def test_the_quality_of_all_images_of_an_array(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", images=np.zeros((2, 2, 2), np.uint8), grades=np.array(["high", "low"]))
    for quality, expected in (("low", ["low", "low"]), ("grades", ["high", "low"])):
        assert [case.quality for case in cases_of(tmp_path, {"npz": "x.npz", "quality": quality})] == expected


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"images": "pictures"}, r"has no array 'pictures'; it has images, wide, twice, one, things\."),
        ({"target": "wide"}, r"array wide of .* has shape \(4, 2\); expected one value for each of 4 images\."),
        ({"target": "twice"}, r"array twice of .* has shape \(8,\); expected one value"),
        ({"attributes": {"age": "ages"}}, r"has no array 'ages'"),
        ({"domain": "things"}, r"cannot be read as \.npz \(Object arrays cannot be loaded"),
        ({"domain": 3}, r"target, domain, .* are names of arrays here, and attributes names of arrays by name\."),
        ({"attributes": ["age"]}, r"are names of arrays here"),
        ({"images": "one"}, r"array one of .* is a single number; expected images x height x width\."),
        ({"rows": [0, 5]}, r"rows \[0, 5\] do not lie in the 4 images that are there\."),
        ({"rows": [2, 2]}, r"rows \[2, 2\] do not lie in"),
        ({"rows": [3]}, r"rows is \[first, end\], the end not included, but got \[3\]\."),
        ({"rows": "all"}, r"rows is \[first, end\]"),
        ({"folds": 3, "take": [3]}, r"take is a list of numbers below folds, but got \[3\] of 3\."),
        ({"folds": 0}, r"take is a list of numbers below folds, but got \[0\] of 0\."),
        ({"take": 0}, r"take is a list of numbers below folds, but got 0 of 1\."),
        ({"take": [[0]]}, r"take is a list of numbers below folds"),
        ({"without": [4]}, r"without is a list of places from 0 to 3, but got \[4\]\."),
        ({"without": 1}, r"without is a list of places from 0 to 3, but got 1\."),
        ({"folds": 3, "take": []}, r"takes none of the 4 images that are there\."),
        ({"quality": "middling"}, r"has no array 'middling'"),
    ],
)
def test_npz_that_does_not_fit(tmp_path: Path, more: dict[str, Any], sentence: str) -> None:
    write_npz(
        tmp_path / "x.npz",
        images=np.zeros((4, 4, 4), np.uint8),
        wide=np.zeros((4, 2)),
        twice=np.zeros(8),
        one=np.array(3),
        things=np.array([{}, 1, 2, 3], dtype=object),
    )
    with pytest.raises(ManifestError, match=PLACE + ".*" + sentence):
        cases_of(tmp_path, {"npz": "x.npz", **more})


def test_a_damaged_npz(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8))
    assert npz_length(file, "images", "here") == 2
    file.write_bytes(file.read_bytes()[:100])
    for read in (npz_length, npz_array):
        with pytest.raises(ManifestError, match=r"here: .*x\.npz cannot be read as \.npz \("):
            read(file, "images", "here")
    np.save(tmp_path / "y.npy", np.zeros(3))
    with pytest.raises(
        ManifestError, match=r"here: .*y\.npy cannot be read as \.npz \(it is a single array, \.npy\)\."
    ):
        npz_array(tmp_path / "y.npy", "images", "here")


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
        ("image\nx\n", {"attributes": "age"}, r"attributes is a list of columns here, but got 'age'\."),
        ("image\nx\n", {"relative_to": "me"}, r'relative_to is "root" or "csv", but got \'me\'\.'),
        ('image\n"x\n', {}, r"l\.csv cannot be read as CSV \("),
        ("image\n\xff\n", {}, r"l\.csv cannot be read as CSV \("),
    ],
)
def test_a_list_that_does_not_fit(tmp_path: Path, text: str, more: dict[str, Any], sentence: str) -> None:
    (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError, match=sentence):
        cases_of(tmp_path, {"csv": "l.csv", **more})


def test_rows_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text('a,b\n1,"x, y"\n')
    assert csv_rows(tmp_path / "l.csv", ["b"], "here") == [{"a": "1", "b": "x, y"}]
    with pytest.raises(ManifestError, match=r"here: .*none\.csv cannot be read as CSV \("):
        csv_rows(tmp_path / "none.csv", [], "here")


# --- IDX


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_with_targets_and_a_table(tmp_path: Path, suffix: str) -> None:
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    file = write_idx(tmp_path / f"m/images-idx3-ubyte{suffix}", images)
    write_idx(tmp_path / f"m/labels-idx1-ubyte{suffix}", np.array([1, 0, 1], np.uint8))
    (tmp_path / "m/morpho.csv").write_text("index,thickness,intensity\n0,2.5,100\n1,3,120\n2,4.5,80\n")
    np.testing.assert_array_equal(idx_array(file), images)
    source = {"target": f"m/labels-idx1-ubyte{suffix}", "csv": "m/morpho.csv", "attributes": ["thickness"]}
    for spelled in (f"m/images-idx3-ubyte{suffix}", f"./m/images-idx3-ubyte{suffix}", str(file)):
        cases = cases_of(tmp_path, {"idx": spelled, **source})
        assert [(case.index, case.target, case.attributes) for case in cases] == [
            (0, 1, {"thickness": 2.5}),
            (1, 0, {"thickness": 3.0}),
            (2, 1, {"thickness": 4.5}),
        ]
        assert {case.file for case in cases} == {file}
    assert cases_of(tmp_path, {"idx": f"m/images-idx3-ubyte{suffix}"})[1].name == f"m/images-idx3-ubyte{suffix}[1]"
    (last,) = cases_of(tmp_path, {"idx": f"m/images-idx3-ubyte{suffix}", **source, "rows": [2, 3]})
    assert (last.index, last.attributes) == (2, {"thickness": 4.5})


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"target": "two"}, r"2 values of target for 3 images in .*images\."),
        ({"csv": "t.csv", "attributes": ["a"]}, r"2 values of a for 3 images in .*images\."),
        ({"csv": "t.csv", "attributes": ["b"]}, r"t\.csv has no column 'b'; it has a\."),
        ({"csv": "u.csv", "attributes": ["a"]}, r"u\.csv is not there"),
        ({"attributes": ["a"]}, r"attributes are columns of a csv, but the source names none\."),
        ({"target": "labels"}, r"labels is not there"),
    ],
)
def test_idx_that_does_not_fit(tmp_path: Path, more: dict[str, Any], sentence: str) -> None:
    write_idx(tmp_path / "images", np.zeros((3, 4, 4), np.uint8))
    write_idx(tmp_path / "two", np.zeros(2, np.uint8))
    (tmp_path / "t.csv").write_text("a\n1\n2\n")
    with pytest.raises(ManifestError, match=PLACE + ".*" + sentence):
        cases_of(tmp_path, {"idx": "images", **more})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00",  # floats
        b"\x00\x00\x08\x00\x01",  # no axis
        b"\x00\x00\x08\x01\x00\x00\x00\x09\x01",  # cut off
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\x00",
    ],
)
def test_a_file_that_is_no_idx(tmp_path: Path, data: bytes) -> None:
    for name in ("x", "x.gz"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ManifestError, match=rf"{name}: cannot be read as an IDX file \("):
            idx_array(tmp_path / name)


def test_known_facts_survive_json(tmp_path: Path) -> None:
    """A manifest is JSON: what it can hold is what the sources take."""
    write_png(tmp_path / "x.png")
    source = json.loads('{"image": "x.png", "target": null, "domain": "", "attributes": null}')
    (case,) = cases_of(tmp_path, source)
    assert (case.target, case.domain, case.attributes) == (None, None, {})
