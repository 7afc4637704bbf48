"""Tests of which images of a source are taken, by columns and by patients: by hand, property, every sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sources import PLACE, cases_of, write_npz

from medcontrast.data.images.manifest import overlaps
from medcontrast.data.images.sources import SOURCES, without_counterfactuals
from medcontrast.errors import ManifestError

ROWS = [  # image, patient, split, fold
    ("0.png", "p", "train", "1"),
    ("1.png", "q", "train", "2.0"),
    ("2.png", "p", "train", ""),
    ("3.png", "r", "test", "1"),
    ("4.png", "", "train", "2"),
    ("5.png", "s", "train", "3"),
    ("6.png", "q", "train", "3"),
]


@pytest.fixture
def taken(tmp_path: Path) -> Any:
    lines = ["image,Patient,split,fold", *(",".join(row) for row in ROWS)]
    (tmp_path / "l.csv").write_text("\n".join(lines), encoding="utf-8")
    return lambda **keys: [int(case.name[0]) for case in cases_of(tmp_path, {"csv": "l.csv", **keys})]


def test_folds_by_patient_tear_no_patient_apart(taken: Any) -> None:
    folds = [taken(folds=3, take=[fold], folds_by="patient") for fold in range(3)]
    # p q r, an image of nobody, s: dealt in turn
    assert folds == [[0, 2, 4], [1, 5, 6], [3]]
    assert taken(folds=3, take=[0, 2], folds_by="patient") == [0, 2, 3, 4]
    assert taken(folds=3, take=[0]) == [0, 3, 6]
    assert taken(folds=2, take=[0], folds_by="patient", rows=[1, 7], without=[1]) == [3, 5, 6]


def test_images_of_nobody_are_dealt_one_by_one(tmp_path: Path) -> None:
    """However a table says that it knows no patient."""
    (tmp_path / "l.csv").write_text("image,patient\n0.png,NA\n1.png,N/A\n2.png,NA\n3.png,a\n4.png,a\n")
    source = {"csv": "l.csv", "folds": 2, "folds_by": "patient"}
    folds = [[case.name[0] for case in cases_of(tmp_path, {**source, "take": [fold]})] for fold in range(2)]
    assert folds == [["0", "2"], ["1", "3", "4"]]


def test_patients_of_arrays(tmp_path: Path) -> None:
    owners = np.array([3, 3, 5, 7, 5, 7])
    write_npz(tmp_path / "x.npz", images=np.zeros((6, 4, 4), np.uint8), owner=owners)
    source = {"npz": "x.npz", "patient": "owner", "folds": 2, "folds_by": "patient"}
    splits = {str(fold): cases_of(tmp_path, {**source, "take": [fold]}) for fold in range(2)}
    assert [[case.index for case in cases] for cases in splits.values()] == [[0, 1, 3, 5], [2, 4]]
    assert overlaps(splits) == []


def test_rows_by_a_column(taken: Any) -> None:
    assert taken(only={"split": "train"}) == [0, 1, 2, 4, 5, 6]
    assert taken(only={"fold": 2}) == taken(only={"fold": "2"}) == [1, 4]
    assert taken(only={"split": ["train"], "fold": [1, 3]}) == [0, 5, 6]
    # folds are dealt among what is left
    assert taken(only={"split": "train"}, folds=2, take=[1]) == [1, 4, 6]
    assert taken(only={"split": "train"}, folds=2, take=[1], folds_by="patient") == [1, 5, 6]


def test_originals_of_a_choice_are_the_same_images(tmp_path: Path) -> None:
    lines = ["image,patient,of,part", "a,p,,x", "b,q,,x", "c,p,a,x", "d,r,,y", "e,q,,x"]
    (tmp_path / "l.csv").write_text("\n".join(lines), encoding="utf-8")
    source = {"csv": "l.csv", "only": {"part": "x"}, "folds": 2, "take": [0], "folds_by": "patient"}
    assert [case.name for case in cases_of(tmp_path, source)] == ["a", "c"]
    bare = without_counterfactuals(source, tmp_path, (), where="m")
    assert bare == {**source, "without": [2]}
    assert [case.name for case in cases_of(tmp_path, bare)] == ["a"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"folds_by": "case"}, "folds_by is \"patient\", or left out, but got 'case'."),
        ({"only": "train"}, 'only is a table such as {"split": "train"}, but got \'train\'.'),
        ({"only": {"part": "x"}}, "only names the column 'part', but there are image, Patient, split, fold."),
        ({"only": {"split": "val"}}, "no row has 'val' in column 'split'; there are test, train."),
        ({"only": {"split": "test"}, "folds": 2, "take": [1]}, "takes none of the 7 images that are there."),
        ({"rows": [4, 5], "folds_by": "patient"}, "folds_by patient, but no image has a patient."),
    ],
)
def test_what_cannot_be_meant(taken: Any, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ManifestError, match=f"^{PLACE}: {re.escape(sentence)}$"):
        taken(**keys)


def test_who_takes_these_keys() -> None:
    assert {kind for kind, source in SOURCES.items() if "folds_by" in source.keys} == {"csv", "npz"}
    assert {kind for kind, source in SOURCES.items() if "only" in source.keys} == {"csv"}
