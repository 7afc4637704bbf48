"""Tests of the figures of counterfactuals: by hand, reference (plain loops)."""

import numpy as np
import pytest

from medcontrast.errors import InputError
from medcontrast.metrics.classification import balanced_accuracy
from medcontrast.metrics.counterfactual import MeanDifference, category_effect, number_effect


def test_category_by_hand_a_rare_value_counts_as_much_as_a_common_one():
    predicted, intended = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 0, 1, 1])
    found = category_effect(predicted, intended, ("a", "b", "c"))
    assert found.by_value == {"a": 0.75, "b": 0.5}
    assert found.balanced_accuracy == 0.625
    scores = np.eye(3)[predicted]
    assert found.balanced_accuracy == balanced_accuracy(scores, intended)


def test_number_by_hand():
    assert number_effect(np.array([1.0, 2.0, 5.0]), np.array([1.5, 2.0, 4.0])) == pytest.approx(0.5)


def test_mean_difference_against_plain_loops_whatever_the_parts():
    generator = np.random.default_rng(0)
    images, others = (generator.random((5, 1, 3, 4)).astype(np.float32) for _ in range(2))
    expected = sum(abs(float(a) - float(b)) for a, b in zip(images.ravel(), others.ravel(), strict=True)) / 60
    for ends in ((5,), (1, 5), (2, 3, 5)):
        found, start = MeanDifference(), 0
        for end in ends:
            found.add(images[start:end], others[start:end])
            start = end
        assert found.mean == pytest.approx(expected, rel=1e-7)


def test_what_is_refused():
    with pytest.raises(InputError, match=r"got shapes \(2,\) and \(3,\)"):
        category_effect(np.zeros(2, int), np.zeros(3, int), ("a",))
    with pytest.raises(InputError, match=r"got shapes \(0,\) and \(0,\)"):
        number_effect(np.zeros(0), np.zeros(0))
    with pytest.raises(InputError, match="needs at least one image"):
        _ = MeanDifference().mean
    with pytest.raises(InputError, match="compared one by one"):
        MeanDifference().add(np.zeros((1, 1, 2, 2), np.float32), np.zeros((2, 1, 2, 2), np.float32))
