"""Tests of arrays (.npz, IDX) as sources of a manifest of images: by hand, every kind and every sentence."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import PLACE, cases_of, write_idx, write_npz

from medcontrast.data.images.arrays import idx_array, npz_array, npz_length
from medcontrast.data.images.choice import chosen
from medcontrast.errors import ManifestError

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


def test_text_as_bytes_is_the_same_text(tmp_path: Path) -> None:
    persons = np.array(["p0", "p0", "pé"])
    write_npz(
        tmp_path / "x.npz",
        images=np.zeros((3, 2, 2), np.uint8),
        persons=np.char.encode(persons, "utf-8"),
        odd=np.array([b"\xff", b"a", b"b"]),
    )
    cases = cases_of(tmp_path, {"npz": "x.npz", "patient": "persons"})
    assert [case.patient for case in cases] == ["p0", "p0", "pé"]
    with pytest.raises(ManifestError, match=r"array odd of .*x\.npz holds bytes that are no UTF-8"):
        cases_of(tmp_path, {"npz": "x.npz", "domain": "odd"})


def test_a_fold_number_of_absurd_size_is_answered_at_once(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", images=np.zeros((4, 2, 2), np.uint8))
    assert [case.index for case in cases_of(tmp_path, {"npz": "x.npz", "folds": 10**30, "take": [2]})] == [2]
    with pytest.raises(ManifestError, match="take is a list of numbers below folds"):
        cases_of(tmp_path, {"npz": "x.npz", "folds": 3, "take": [3]})


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


def test_many_places_are_left_out_in_no_time() -> None:
    count, began = 40_000, time.process_time()
    assert len(chosen({"without": list(range(0, count, 2))}, count, "m")) == count // 2
    assert time.process_time() - began < 0.5


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
    squeezed = tmp_path / "squeezed.npz"
    np.savez_compressed(squeezed, images=np.random.default_rng(0).integers(0, 255, (2, 40, 40)).astype(np.uint8))
    data = bytearray(squeezed.read_bytes())
    data[60:90] = b"\xff" * 30  # where the packed array begins; the archive's own table is whole
    squeezed.write_bytes(data)
    packed = bytearray(write_npz(tmp_path / "packed.npz", images=np.zeros((2, 4, 4), np.uint8)).read_bytes())
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = packed.index(signature) + place
        packed[start : start + 2] = b"\x63\x00"  # a way of packing that nobody knows
    (tmp_path / "packed.npz").write_bytes(packed)
    for name, read in itertools.product(("squeezed", "packed"), (npz_length, npz_array)):
        with pytest.raises(ManifestError, match=rf"here: .*{name}\.npz cannot be read as \.npz \("):
            read(tmp_path / f"{name}.npz", "images", "here")
    np.save(tmp_path / "y.npy", np.zeros(3))
    with pytest.raises(
        ManifestError, match=r"here: .*y\.npy cannot be read as \.npz \(it is a single array, \.npy\)\."
    ):
        npz_array(tmp_path / "y.npy", "images", "here")


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
