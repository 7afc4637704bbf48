"""Tests of splits: by hand, property."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medcontrast.data.split import (
    fold_cases,
    patients_from_file,
    patients_from_pattern,
    split_cases,
    split_inside,
)
from medcontrast.errors import ManifestError

NAMES = [f"case_{number:02d}" for number in range(20)]
PATIENTS = {name: f"p{number // 3}" for number, name in enumerate(NAMES)}


def all_of(splits: dict[str, list[str]]) -> list[str]:
    return [name for names in splits.values() for name in names]


def test_the_rule_is_the_one_that_is_written_down() -> None:
    order = [str(name) for name in np.random.default_rng(7).permutation(sorted(NAMES))]
    splits = split_cases(NAMES, labeled=4, validation=3, test=5, seed=7)
    assert splits == {
        "labeled": order[8:12],
        "unlabeled": order[12:],
        "validation": order[5:8],
        "test": order[:5],
    }


def test_four_names_by_hand() -> None:
    """default_rng(0).permutation(4) is 2, 0, 1, 3."""
    splits = split_cases(["d", "a", "c", "b"], labeled=1, validation=1, test=1)
    assert splits == {"test": ["c"], "validation": ["a"], "labeled": ["b"], "unlabeled": ["d"]}


def test_the_order_of_the_names_does_not_matter() -> None:
    assert split_cases(NAMES[::-1], labeled=4, seed=1) == split_cases(NAMES, labeled=4, seed=1)
    assert split_cases(NAMES, labeled=4, seed=2) != split_cases(NAMES, labeled=4, seed=1)


def test_more_labels_contain_fewer() -> None:
    few, many = (split_cases(NAMES, labeled=count, validation=4)["labeled"] for count in (2, 6))
    assert many[:2] == few


@pytest.mark.parametrize("seed", range(5))
def test_patients_stay_together(seed: int) -> None:
    splits = split_cases(NAMES, labeled=4, validation=3, test=4, seed=seed, patients=PATIENTS)
    assert sorted(all_of(splits)) == NAMES
    sides = {split: {PATIENTS[name] for name in names} for split, names in splits.items()}
    assert all(not sides[a] & sides[b] for a in sides for b in sides if a < b)
    assert len(splits["test"]) >= 4 and len(splits["validation"]) >= 3 and len(splits["labeled"]) >= 4
    assert len(splits["test"]) <= 6


def test_patients_by_hand() -> None:
    """default_rng(0).permutation(3) is 2, 0, 1: patient z, then x, then y."""
    patients = {"a": "x", "b": "z", "c": "x", "d": "y", "e": "z"}
    splits = split_cases(list(patients), labeled=1, validation=1, test=1, patients=patients)
    assert splits == {"test": ["b", "e"], "validation": ["a", "c"], "labeled": ["d"], "unlabeled": []}


def test_folds_cover_everything_once() -> None:
    folds = fold_cases(NAMES, folds=4, labeled=3, test=2, seed=3)
    order = [str(name) for name in np.random.default_rng(3).permutation(sorted(NAMES))]
    assert [len(fold["validation"]) for fold in folds] == [5, 5, 4, 4]
    assert [name for fold in folds for name in fold["validation"]] == order[2:]
    for fold in folds:
        assert fold["test"] == order[:2]
        assert sorted(all_of(fold)) == NAMES
        assert len(fold["labeled"]) == 3
    assert folds[0]["labeled"] == order[7:10]
    assert folds[1]["labeled"] == order[2:5]


def test_folds_keep_patients_together() -> None:
    for fold in fold_cases(NAMES, folds=3, labeled=2, seed=0, patients=PATIENTS):
        held = {PATIENTS[name] for name in fold["validation"]}
        assert not held & {PATIENTS[name] for name in [*fold["labeled"], *fold["unlabeled"]]}


def test_inside_keeps_the_order_and_draws_nothing() -> None:
    splits = split_inside(["c", "a", "e", "b", "d"], labeled=2, validation=1)
    assert splits == {"labeled": ["c", "a"], "unlabeled": ["e", "b"], "validation": ["d"], "test": []}


def test_inside_takes_whole_patients_and_leaves_bare_cases_unlabeled() -> None:
    order = ["p1a", "p2a", "p1b", "p3a", "p2b", "p4a", "p3b", "p5a"]
    patients = {name: name[:2] for name in order if name != "p5a"}  # the last is of nobody
    splits = split_inside(order, labeled=2, validation=2, patients=patients)
    assert splits == {
        "labeled": ["p1a", "p2a"],
        "unlabeled": ["p1b", "p3a", "p2b", "p3b"],
        "validation": ["p4a", "p5a"],
        "test": [],
    }
    splits = split_inside(order, labeled=2, validation=2, patients=patients, bare=["p1a", "p3a", "p5a"])
    assert splits == {  # p4a alone is too few, and p3b brings its patient, whose bare case is left out
        "labeled": ["p2a", "p1b"],
        "unlabeled": ["p1a", "p2b", "p5a"],
        "validation": ["p4a", "p3b"],
        "test": [],
    }
    with pytest.raises(
        ManifestError, match=r"labeled needs 2 cases, but whole patients leave only 1; ask for fewer\.$"
    ):
        split_inside(["a", "b", "c"], labeled=2, validation=1, patients={"b": "x", "c": "x"})
    with pytest.raises(ManifestError, match=r"there are only 1 labeled cases to take them from"):
        split_inside(["a", "b", "c"], labeled=1, validation=1, bare=["a", "c"])


def test_too_few_cases_are_said() -> None:
    with pytest.raises(
        ManifestError, match=r"wanted 10 test \+ 8 validation \+ 4 labeled, but there are only 20 .* --folds 5 or"
    ):
        split_cases(NAMES, labeled=4, validation=8, test=10)
    with pytest.raises(
        ManifestError, match=r"wanted 3 labeled \+ 3 validation, but there are only 5 .*; ask for fewer\.$"
    ):
        split_inside(list("abcde"), labeled=3, validation=3)
    with pytest.raises(ManifestError, match=r"wanted 16 labeled, .* only 15 .*; ask for fewer or for more folds\.$"):
        fold_cases(NAMES, folds=4, labeled=16)
    with pytest.raises(ManifestError, match=r"21 folds need as many cases or patients, but only 20 are left"):
        fold_cases(NAMES, folds=21, labeled=1)
    with pytest.raises(ManifestError, match=r"at least 2 folds, but got 1"):
        fold_cases(NAMES, folds=1, labeled=1)
    with pytest.raises(ManifestError, match=r"labeled needs 1 cases, but whole patients leave only 0"):
        split_cases(["a", "b"], labeled=1, test=1, patients={"a": "x", "b": "x"})
    with pytest.raises(ManifestError, match=r"cannot be negative"):
        split_cases(NAMES, labeled=-1)


def test_names_are_unique() -> None:
    with pytest.raises(ManifestError, match=r"'a' stands there more than once"):
        split_cases(["a", "b", "a"], labeled=1)


def test_patients_from_csv_and_json(tmp_path: Path) -> None:
    table, tree = tmp_path / "p.csv", tmp_path / "p.json"
    table.write_text("case,patient\na, 1\nb,2\n\n")
    tree.write_text('{"a": 1, "b": "2", "z": 9}')
    assert patients_from_file(table, ["a", "b"]) == {"a": "1", "b": "2"}
    assert patients_from_file(tree, ["b", "a"]) == {"a": "1", "b": "2"}
    with pytest.raises(ManifestError, match=r"no patient for 1 case\(s\), the first is c"):
        patients_from_file(table, ["a", "c"])
    table.write_text("a\n")
    with pytest.raises(ManifestError, match=r"expected lines `case,patient`"):
        patients_from_file(table, ["a"])
    tree.write_text("[1]")
    with pytest.raises(ManifestError, match=r"expected lines `case,patient`"):
        patients_from_file(tree, ["a"])
    table.write_text("")
    with pytest.raises(ManifestError, match=r"no patient for 1 case\(s\), the first is a"):
        patients_from_file(table, ["a"])
    with pytest.raises(ManifestError, match=r"none\.csv: there is no such file; name the list of cases"):
        patients_from_file(tmp_path / "none.csv", ["a"])


@pytest.mark.parametrize(
    "text",
    [
        "case,scan_date,patient\na,2024-01-01,1\nb,2024-01-02,2\n",
        "Patient , CASE\n1,a\n2,b\n",
        "age;patient;case\n44;1;a\n\n44;2;b\n",
        "a;1\nb;2\n",
        'case,patient,"seen, where"\na,1,"x; y; z; w"\nb,2,\n',
        "\ufeffcase;patient\na;1\nb;2\n",
    ],
)
def test_columns_of_a_csv_are_found_by_their_header(tmp_path: Path, text: str) -> None:
    """The second column may be a date: patients would leak from split to split."""
    table = tmp_path / "p.csv"
    table.write_text(text, encoding="utf-8")
    assert patients_from_file(table, ["a", "b"]) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "case,scan_date,subject\na,2024-01-01,1\n",
            "it has 3 columns; begin it with a header that calls two of them case and patient",
        ),
        ("a;1;x\n", "it has 3 columns; begin it with a header that calls two of them case and patient"),
        ("case,patient,patient\na,1,2\n", "it has 3 columns; begin it with .* case and patient"),
        ("case,age,patient\na,44\n", "the line of 'a' has too few columns"),
    ],
)
def test_columns_that_do_not_say_what_they_are(tmp_path: Path, text: str, reason: str) -> None:
    table = tmp_path / "p.csv"
    table.write_text(text)
    with pytest.raises(ManifestError, match=rf"p\.csv: expected lines `case,patient` .*\({reason}\)\.$"):
        patients_from_file(table, ["a"])


def test_patients_from_a_pattern() -> None:
    assert patients_from_pattern(r"^(\w+)_", ["p1_left", "p1_right"]) == {"p1_left": "p1", "p1_right": "p1"}
    assert patients_from_pattern(r"p\d", ["p1_left"]) == {"p1_left": "p1"}
    with pytest.raises(ManifestError, match=r"finds no patient in the case name 'x'"):
        patients_from_pattern(r"p\d", ["x"])
    with pytest.raises(ManifestError, match=r"is not a regular expression"):
        patients_from_pattern("(", ["x"])
