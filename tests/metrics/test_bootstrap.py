"""Bootstrap intervals: reference (plain resampling), by hand and property."""

from __future__ import annotations

import re

import numpy as np
import pytest

from medcontrast.metrics import bootstrap_intervals
from medcontrast.metrics.bootstrap import drawn_words, few_words


def test_mean_and_sd_by_hand() -> None:
    (interval,) = bootstrap_intervals(np.array([[1.0], [2.0], [3.0], [6.0]]))
    assert interval.mean == 3.0
    assert interval.sd == pytest.approx(np.sqrt((4 + 1 + 0 + 9) / 3))


def test_against_plain_resampling() -> None:
    values = np.random.default_rng(0).gamma(2.0, 3.0, (20, 2))
    random = np.random.default_rng(99)
    means = np.array([values[random.integers(0, 20, 20)].mean(axis=0) for _ in range(20_000)])
    for column, interval in enumerate(bootstrap_intervals(values)):
        low, high = np.percentile(means[:, column], [2.5, 97.5])
        assert interval.low == pytest.approx(low, rel=0.02)
        assert interval.high == pytest.approx(high, rel=0.02)


def test_two_cases_by_hand() -> None:
    # Means of two draws from {0, 1} are 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    values = np.array([[0.0], [1.0]])
    (wide,) = bootstrap_intervals(values)
    (narrow,) = bootstrap_intervals(values, level=0.4)
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_a_single_case_has_no_interval() -> None:
    (interval,) = bootstrap_intervals(np.array([[0.7]]))
    assert interval.mean == 0.7
    assert interval.sd is interval.low is interval.high is None


def test_seed_and_columns() -> None:
    values = np.random.default_rng(1).random((12, 3))
    assert bootstrap_intervals(values, seed=4) == bootstrap_intervals(values, seed=4)
    assert bootstrap_intervals(values, seed=4) != bootstrap_intervals(values, seed=5)
    # Cases are drawn as whole rows, so a column does not depend on the others.
    assert bootstrap_intervals(values, seed=4)[1].low == pytest.approx(
        bootstrap_intervals(values[:, 1:2], seed=4)[0].low
    )


def test_covers_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    samples = random.standard_normal((40, 400))
    hits = [i.low <= 0 <= i.high for i in bootstrap_intervals(samples, resamples=2000)]
    assert 0.89 < np.mean(hits) < 0.98


def test_of_few_it_is_said_how_often_they_hold_the_mean() -> None:
    """Of normally distributed scores, as the words say it; from ten on nothing is said."""
    assert few_words(1) == few_words(10) == ""
    for count in (2, 4, 7, 9):
        scores = np.random.default_rng(count).standard_normal((count, 4000))
        hits = [found.low <= 0 <= found.high for found in bootstrap_intervals(scores, resamples=1000)]
        said = re.fullmatch(
            r" \((\d+), so few that 95 % intervals .* hold the mean (\d+) % of the time\)", few_words(count)
        )
        assert int(said[1]) == count and abs(100 * np.mean(hits) - int(said[2])) < 2.5
    assert drawn_words(1, None) == "the one case, which gives none"
    assert drawn_words(3, None) == f"cases{few_words(3)}"
    assert drawn_words(3, ["a", "a", "b"]) == f"the 2 patients of 3 cases, scans of one together{few_words(2)}"
    assert drawn_words(2, ["a", "a"]) == "the one patient of 2 cases, which gives none"


def test_constant_cases_have_no_width() -> None:
    (interval,) = bootstrap_intervals(np.ones((7, 1)))
    assert (interval.low, interval.high, interval.sd) == (1.0, 1.0, 0.0)


def test_resamples_need_not_fill_a_chunk() -> None:
    (interval,) = bootstrap_intervals(np.arange(10.0)[:, None], resamples=1500)
    assert interval.low < 4.5 < interval.high


def test_an_end_at_zero_is_zero_on_every_processor() -> None:
    # Each case once, 37 to 59 % of the draws, sums to 5.6e-17 in floating point, which processors round differently.
    (interval,) = bootstrap_intervals(np.array([[0.1], [0.2], [-0.3]]), level=0.2)
    assert interval.low == 0.0
    assert interval.high == pytest.approx(0.1 / 3)


def test_no_more_resamples_than_asked_for() -> None:
    (interval,) = bootstrap_intervals(np.arange(10.0)[:, None], resamples=1)
    assert interval.low == interval.high


def test_units_are_drawn_whole() -> None:
    """Against plain resampling: patients of one to four scans, drawn with all of theirs; the mean is over scans."""
    random = np.random.default_rng(3)
    units = np.repeat(np.arange(12), random.integers(1, 5, 12))
    values = random.normal(size=(12, 2))[units] + 0.1 * random.normal(size=(len(units), 2))
    draws = random.integers(0, 12, (4000, 12))
    means = np.array([np.concatenate([values[units == unit] for unit in each]).mean(axis=0) for each in draws])
    for column, found in enumerate(bootstrap_intervals(values, units=units.tolist())):
        low, high = np.percentile(means[:, column], [2.5, 97.5])
        assert (found.low, found.high) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))
        alone = bootstrap_intervals(values)[column]
        assert (found.mean, found.sd) == (alone.mean, alone.sd)
        assert found.high - found.low > 1.2 * (alone.high - alone.low)


def test_every_case_a_unit_is_no_units() -> None:
    values = np.random.default_rng(1).random((12, 3))
    assert bootstrap_intervals(values, units=[f"p{number}" for number in range(12)]) == bootstrap_intervals(values)


def test_one_unit_has_no_interval() -> None:
    (interval,) = bootstrap_intervals(np.array([[0.7], [0.9]]), units=["a", "a"])
    assert interval.mean == pytest.approx(0.8) and interval.sd is not None
    assert interval.low is interval.high is None
