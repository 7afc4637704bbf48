"""Tests of writing images with what is known of them: property."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.data.images.sources import ImageCase
from medcontrast.data.images.tables import image_table, write_set

COLUMNS = {"target": 1, "domain": "A", "quality": "high", "patient": "p", "text": "words", "of": "x.png"}


def test_an_attribute_that_some_images_lack_stays_with_the_others(tmp_path: Path) -> None:
    known = [
        ImageCase(name, tmp_path, attributes=attributes)
        for name, attributes in (("a", {"age": 3.0}), ("b", {}), ("c", {"sex": 1.0, "age": 0.0}))
    ]
    images = np.zeros((3, 1, 4, 4), np.uint8)
    arrays, source = image_table("x.npz", "train", images, known, [])
    write_set(tmp_path / "m.json", tmp_path / "x.npz", {"kind": "images", "root": ".", "train": [source]}, arrays)
    cases = load_image_manifest(tmp_path / "m.json").cases("train")
    assert [case.attributes for case in cases] == [case.attributes for case in known]


def test_an_attribute_may_be_called_like_a_column(tmp_path: Path) -> None:
    attributes = {name: 2.5 + place for place, name in enumerate((*COLUMNS, "images", "lesion_boxes", "age"))}
    known = ImageCase("a.png", tmp_path, **COLUMNS, lesion_boxes=((0.0, 0.0, 2.0, 3.0),), attributes=attributes)
    images = np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4)
    arrays, source = image_table("x.npz", "train", images, [known, replace(known, domain="B")], ["ill", "well"])
    tree = {"kind": "images", "name": "x", "root": ".", "classes": ["ill", "well"], "train": [source]}
    write_set(tmp_path / "m.json", tmp_path / "x.npz", tree, arrays)
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == tree
    cases = load_image_manifest(tmp_path / "m.json").cases("train")
    assert [case.domain for case in cases] == ["A", "B"]
    for case in cases:
        for column, value in COLUMNS.items():
            assert column == "domain" or getattr(case, column) == value
        assert dict(case.attributes) == attributes
        assert case.lesion_boxes == known.lesion_boxes
    assert np.array_equal(np.load(tmp_path / "x.npz")["train_images"], images.transpose(0, 2, 3, 1))
