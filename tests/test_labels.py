"""Tests of the label table: by hand (exact sentences), property."""

from __future__ import annotations

import itertools

import pytest
import torch

from medcontrast.errors import ManifestError
from medcontrast.labels import ANATOMICAL_STRUCTURE, IGNORE_INDEX, Code, LabelTable, is_known

HEART = {
    "labels": {
        "0": "background",
        "7": {"name": "left atrium", "color": [200, 10, 20], "type": ["SCT", "82471001", "Left atrium"]},
        "3": {
            "name": "wall",
            "category": ["SCT", "91723000", "Anatomical structure"],
            "type": ["SCT", "1", "Wall"],
            "type_modifier": ["SCT", "7771000", "Left"],
        },
    },
    "ignore_label": 255,
    "regions": {"heart": [3, 7]},
    "name": "other keys are left alone",
}


def test_labels_come_in_the_order_of_their_values():
    table = LabelTable.from_json(HEART)
    assert table.values == (0, 3, 7)
    assert table.classes == 3
    assert [label.name for label in table.labels] == ["wall", "left atrium"]
    assert table.targets == {"wall": (3,), "left atrium": (7,), "heart": (3, 7)}
    assert table.ignore_value == 255
    assert table.labels[1].category == ANATOMICAL_STRUCTURE
    assert table.labels[0].type_modifier == Code("SCT", "7771000", "Left")


def test_the_json_form_reads_back_equal():
    table = LabelTable.from_json(HEART)
    assert LabelTable.from_json(table.to_json()) == table
    plain = LabelTable.from_json({"labels": {"1": "a"}})
    assert LabelTable.from_json(plain.to_json()) == plain
    assert "ignore_label" not in plain.to_json() and "regions" not in plain.to_json()


def test_colors_without_a_choice_differ():
    table = LabelTable.from_json({"labels": {str(value): f"label {value}" for value in range(1, 36)}})
    colors = [label.color for label in table.labels]
    assert len(set(colors)) == 35
    for first, second in itertools.combinations(colors, 2):
        assert max(abs(one - other) for one, other in zip(first, second, strict=True)) >= 15, (first, second)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (None, r'expected "labels" as \{"0": "background", "1": "name", \.\.\.\}, but got None\.'),
        (
            {"0": "liver", "1": "spleen"},
            r"label 0 is called 'liver', but 0 is the background, which is no structure; give",
        ),
        ({"0": {"name": "liver"}, "1": "spleen"}, r"label 0 is called 'liver', but 0 is the background"),
        (
            {"1": {"name": "a", "type_modifier": ["SCT", "1", "Left"]}},
            r"label 1: type_modifier says more of a type; add type",
        ),
        ({"1": {"name": "a", "category": ["SCT", "1", "x"]}}, r"label 1: category says more of a type; add type"),
        ({"0": "background"}, r"the label table names no structure besides background\."),
        ({"one": "a"}, r"label values are whole numbers, but got 'one'\."),
        ({"-1": "a"}, r"label values lie in 0\.\.65535, but got -1\."),
        ({"70000": "a"}, r"label values lie in 0\.\.65535, but got 70000\."),
        ({"1": "a", "2": "a"}, r"label names must differ, but got \['a', 'a'\]\."),
        ({"1": " "}, r"label 1: expected a name, but got \{'name': ' '\}\."),
        ({"1": 5}, r"label 1: expected a name, but got 5\."),
        ({"1": {"color": [1, 2, 3]}}, r"label 1: expected a name"),
        ({"1": {"name": "a", "colour": [1, 2, 3]}}, r"label 1: unknown key 'colour'; known: name, color"),
        (
            {"1": {"name": "a", "color": [1, 2]}},
            r"label 1: expected a colour as three whole numbers 0-255, but got \[1, 2\]\.",
        ),
        ({"1": {"name": "a", "color": [1, 2, 256]}}, r"three whole numbers 0-255"),
        ({"1": {"name": "a", "color": [1, 2, True]}}, r"three whole numbers 0-255"),
        ({"1": {"name": "a", "color": 5}}, r"three whole numbers 0-255"),
        ({"1": {"name": "a", "color": None}}, r"three whole numbers 0-255"),
        ({"1": {"name": "a|b"}}, r"label 1: a name must not contain \| ~ \^ or a line break, but got 'a\|b'\."),
        ({"1": {"name": "a", "type": ["SCT", "1"]}}, r"label 1, type: expected a code as \[scheme, value, meaning\]"),
        ({"1": {"name": "a", "type": ["SCT", "1~", "x"]}}, r"a code must not contain"),
    ],
)
def test_tables_that_do_not_hold_together(labels, sentence):
    with pytest.raises(ManifestError, match=rf"^m\.json: .*{sentence}"):
        LabelTable.from_json({"labels": labels}, where="m.json")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"ignore_label": 1}, r"ignore_label 1 is also the value of a label; choose another, such as 255\."),
        ({"ignore_label": 0}, r"ignore_label 0 is also the value of a label"),
        ({"ignore_label": "x"}, r"label values are whole numbers, but got 'x'\."),
        ({"regions": {"r": [1, 9]}}, r"region 'r' joins label values out of \[1, 2\], but got \[1, 9\]\."),
        ({"regions": {"r": []}}, r"region 'r' joins label values"),
        ({"regions": {"r": 1}}, r"region 'r' joins label values"),
        ({"regions": {"r": [[1]]}}, r"region 'r' joins label values"),
        ({"regions": {"r": [1, 2, 2]}}, r"region 'r' joins label values, each once, but got \[1, 2, 2\]\."),
        ({"regions": {"a": [1, 2]}}, r"region 'a' has the name of a label\."),
        ({"regions": [1]}, r'expected "regions"'),
    ],
)
def test_ignore_label_and_regions(more, sentence):
    with pytest.raises(ManifestError, match=rf"^m\.json: {sentence}"):
        LabelTable.from_json({"labels": {"1": "a", "2": "b"}, **more}, where="m.json")


def test_two_spellings_of_one_value():
    with pytest.raises(ManifestError, match=r"^m\.json: label value 1 stands in the table twice\.$"):
        LabelTable.from_json({"labels": {"1": "a", "01": "b"}}, where="m.json")


@pytest.mark.parametrize(
    "entry", ["background", " Background", "unlabeled", "Clear Label", {"name": "background"}, None]
)
def test_the_background_by_its_names(entry):
    labels = {"1": "a"} if entry is None else {"0": entry, "1": "a"}
    assert LabelTable.from_json({"labels": labels}).values == (0, 1)


def test_every_negative_class_index_is_ignored():
    assert is_known(torch.tensor([IGNORE_INDEX, -100, -2, 0, 7])).tolist() == [False, False, False, True, True]
