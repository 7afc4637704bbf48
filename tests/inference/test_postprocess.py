"""Kinds: by hand. The largest-component rule, and values of label files with gaps."""

from __future__ import annotations

import numpy as np
import pytest

from medcontrast.components import keep_largest
from medcontrast.inference.postprocess import finish
from medcontrast.labels import LabelTable

TABLE = LabelTable.from_json({"labels": {"0": "background", "3": "wall", "500": "lumen"}})


def example() -> np.ndarray:
    indices = np.zeros((9, 4, 4), np.int16)
    indices[0:2, 0, 0] = 1  # touches the lumen
    indices[2:5, 0, 0] = 2
    indices[6:9, 2, 2] = 1  # larger, alone
    indices[7, 0, 0] = 2
    return indices


def test_the_rules() -> None:
    assert np.array_equal(keep_largest(example(), "none"), example())
    each = example()
    each[0:2, 0, 0] = 0
    each[7, 0, 0] = 0
    assert np.array_equal(keep_largest(example(), "each"), each)
    joint = example()
    joint[6:9] = 0
    assert np.array_equal(keep_largest(example(), "joint"), joint)
    with pytest.raises(ValueError, match="one of none, each, joint, but got 'all'"):
        keep_largest(example(), "all")


def test_nothing_found_stays_nothing() -> None:
    for rule in ("none", "each", "joint"):
        assert not finish(np.zeros((3, 3, 3), np.int16), TABLE, rule).any()


def test_values_are_those_of_label_files() -> None:
    finished = finish(example(), TABLE, "none")
    assert np.array_equal(finished == 500, example() == 2)
    assert np.array_equal(finished == 3, example() == 1)
