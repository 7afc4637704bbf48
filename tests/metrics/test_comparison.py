"""Tests of comparing systems: by hand, reference (scipy, a plain Holm loop), property."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wilcoxon

from medcontrast.errors import InputError
from medcontrast.metrics.comparison import difference, differences, holm, mean_over_runs, means_over_runs


def scores(*rows):
    return {run: np.array(row, dtype=np.float64) for run, row in enumerate(rows)}


def test_mean_is_over_cases_of_the_mean_over_runs():
    mean = mean_over_runs(scores([0.8, 0.9, 1.0], [0.6, 0.9, 0.6]))
    assert mean.runs == 2
    assert mean.interval.mean == pytest.approx(0.8)
    assert mean.interval.sd == pytest.approx(np.std([0.7, 0.9, 0.8], ddof=1))
    assert mean.sd_over_runs == pytest.approx(np.std([0.9, 0.7], ddof=1))
    assert 0.699 <= mean.interval.low < 0.8 < mean.interval.high <= 0.901


def test_one_run_has_no_sd_over_runs():
    assert mean_over_runs(scores([0.8, 0.9])).sd_over_runs is None


def test_difference_is_paired_over_the_runs_that_both_have():
    first = {0: np.array([0.9, 0.8, 0.7]), 1: np.array([0.9, 0.8, 0.7]), 2: np.array([0.0, 0.0, 0.0])}
    second = {0: np.array([0.8, 0.8, 0.8]), 1: np.array([0.6, 0.8, 0.6])}
    found = difference(first, second)
    assert found.by_run == pytest.approx((0.0, 0.4 / 3))
    assert found.interval.mean == pytest.approx(np.mean([0.2, 0.0, 0.0]))
    assert found.better == 1


def test_p_is_scipys_wilcoxon_and_1_without_any_difference():
    random = np.random.default_rng(3)
    first, second = random.normal(size=20), random.normal(size=20)
    assert difference({0: first}, {0: second}).p == pytest.approx(float(wilcoxon(first, second).pvalue))
    equal = difference({0: first}, {0: first})
    assert (equal.p, equal.interval.mean, equal.better) == (1.0, 0.0, 0)


def test_cases_that_are_equal_but_for_rounding_are_ties():
    """Means over three runs of the same three values in another order, and a rank that several cases share."""
    first = scores([0.1, 0.7, 0.5, 0.3, 0.9], [0.2, 0.6, 0.5, 0.2, 0.8], [0.3, 0.5, 0.2, 0.1, 0.7])
    second = scores([0.3, 0.6, 0.4, 0.2, 0.8], [0.2, 0.5, 0.4, 0.1, 0.7], [0.1, 0.4, 0.1, 0.0, 0.6])
    means = [np.mean([each[run] for run in each], axis=0) for each in (first, second)]
    noise = means[0] - means[1]
    assert noise[0] != 0 and len(set(noise[1:])) > 1  # else this shows nothing
    found = difference(first, second)
    assert found.better == 4
    assert found.p == pytest.approx(2 / 2**4)  # of four signs


def test_ties_leave_the_exact_test_to_the_other_cases():
    """Four gains beside 36 equal cases are four signs, 2 of 16 ways; the normal approximation would say 0.046."""
    assert difference({0: np.array([1.0, 2.0, 3.0, 4.0] + [0.0] * 36)}, {0: np.zeros(40)}).p == pytest.approx(0.125)


def test_without_a_common_run_there_is_no_difference():
    assert difference({0: np.ones(3)}, {1: np.ones(3)}) is None


def test_many_at_once_are_as_one_by_one():
    random = np.random.default_rng(5)
    systems = [scores(*random.normal(size=(2, count))) for count in (7, 4, 7, 1, 4)]
    many = means_over_runs(systems)
    for found, one in zip(many, map(mean_over_runs, systems), strict=True):
        assert (found.runs, found.sd_over_runs) == (one.runs, one.sd_over_runs)
        assert vars(found.interval) == pytest.approx(vars(one.interval))
    pairs = [(systems[0], systems[2]), ({}, systems[0]), (systems[4], systems[1])]
    first, none, last = differences(pairs)
    assert none is None
    for found, pair in ((first, pairs[0]), (last, pairs[2])):
        one = difference(*pair)
        assert (found.by_run, found.better, found.p) == (one.by_run, one.better, one.p)
        assert vars(found.interval) == pytest.approx(vars(one.interval))
    assert means_over_runs([]) == differences([]) == []


def test_unequal_numbers_of_cases_are_refused():
    with pytest.raises(InputError, match="Every run needs the same cases"):
        mean_over_runs({0: np.ones(3), 1: np.ones(4)})
    with pytest.raises(InputError, match="Paired scores need the same cases, but got 3 and 4"):
        difference({0: np.ones(3)}, {0: np.ones(4)})


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_holm_against_its_definition():
    random = np.random.default_rng(0)
    for _ in range(20):
        values = random.uniform(0, 0.4, size=6).tolist()
        ordered = sorted(values)
        steps = [min(1.0, max((6 - i) * ordered[i] for i in range(place + 1))) for place in range(6)]
        expected = [steps[ordered.index(value)] for value in values]
        assert holm(values) == pytest.approx(expected)
