"""Reference: which values a label map holds, against plain loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from medcontrast.volume import voxels_by_value


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_counts_are_those_of_a_loop(dtype: type, order: str) -> None:
    label_map = np.random.default_rng(0).choice([0, 0, 0, 1, 4, 250], (7, 6, 5)).astype(dtype, order=order)
    counts = Counter(label_map.ravel().tolist())
    assert counts.pop(0)
    found = voxels_by_value(label_map)
    assert found == counts
    assert list(found) == sorted(found) and all(type(value) is type(count) is int for value, count in found.items())


def test_negative_values_count_and_background_does_not() -> None:
    assert voxels_by_value(np.array([[[-3, 0, 2, -3]]])) == {-3: 2, 2: 1}
    assert voxels_by_value(np.zeros((2, 2, 2), np.int32)) == {}
