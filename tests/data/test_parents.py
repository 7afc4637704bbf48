"""Tests of a generator's parents out of a manifest: by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcontrast.data.images.parents import as_category, parent_rows, training_parents
from medcontrast.data.images.sources import ImageCase
from medcontrast.errors import InputError
from medcontrast.networks.parents import Parent, Parents

CLASSES = ("zero", "one", "two")


def case(number, domain="a", target=0, **attributes):
    return ImageCase(f"image {number}", Path("x.png"), domain=domain, target=target, attributes=attributes)


CASES = [
    case(0, "b", 2, age=10.0, sex=0.0),
    case(1, "a", 2, age=20.0, sex=1.0),
    case(2, "b", 0, age=30.0, sex=1.0),
    case(3, "a", 0, age=40.0, sex=0.0),
]
KINDS = {"domain": "category", "age": "number", "sex": "category", "target": "category"}


def test_values_and_statistics_of_the_training_images_by_hand():
    found = training_parents(KINDS, CASES, CLASSES, where="it")
    assert found == (
        Parent("domain", ("a", "b")),
        Parent("age", None, 25.0, 125.0**0.5),
        Parent("sex", ("0", "1")),
        Parent("target", ("zero", "two")),  # in the order of the classes; those that do not occur are left out
    )
    numbers = Parents(found).encode(parent_rows(found, CASES, CLASSES))
    assert numbers[0].tolist() == pytest.approx([0, 1, -15 / 125**0.5, 1, 0, 0, 1])
    assert numbers[3].tolist() == pytest.approx([1, 0, 15 / 125**0.5, 1, 0, 1, 0])


def test_categories_by_their_shortest_name():
    assert [as_category(value) for value in (1.0, 0.5, 3, "f")] == ["1", "0.5", "3", "f"]
    sites = [1000001.0, 1000002.0, 20240101.0, 20240102.0, 0.1234567, 0.1234568]
    names = [as_category(value) for value in sites]
    assert names == ["1000001", "1000002", "20240101", "20240102", "0.1234567", "0.1234568"]


def refused(kinds, cases, sentence):
    with pytest.raises(InputError, match=sentence):
        training_parents(kinds, cases, CLASSES, where="it")


def test_what_is_refused():
    lacking = [*CASES, case(4, "a", 0, age=1.0)]
    refused(KINDS, lacking, "it: image image 4 lacks sex, a parent of the recipe; it has age, domain, target")
    refused({"height": "number"}, CASES, "image image 0 lacks height, a parent of the recipe; it has age, sex, domain")
    one = [case(number, "a", 0, age=5.0) for number in range(3)]
    refused({"domain": "category"}, one, "it: domain is a in every image; a parent needs two values or more")
    refused({"age": "number"}, one, "it: age is 5 in every image; a parent needs two values or more")
    refused({"domain": "category"}, [*one, case(3, "b")], "it: domain b occurs once; nothing can be learned of it")


def test_an_attribute_named_like_a_field_does_not_hide_it():
    strange = [
        ImageCase(str(place), Path("x.png"), domain=name, attributes={"domain": 3.0})
        for place, name in enumerate("abab")
    ]
    assert training_parents({"domain": "category"}, strange, (), where="it") == (Parent("domain", ("a", "b")),)
