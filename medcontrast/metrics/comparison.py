"""Comparing systems over the same cases: scores averaged over runs, paired intervals, Wilcoxon with Holm correction.

Letters: r runs, n cases.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError
from medcontrast.metrics.bootstrap import DECIMALS, Interval, Units, bootstrap_intervals, unit_sums

Scores = Mapping[int, NDArray[np.float64]]
"""Run -> (n,) score of every case, the cases in one order."""


@dataclass(frozen=True)
class Mean:
    """One figure of one system.

    Attributes:
        runs: How many runs it is over.
        interval: Mean, SD and bootstrap interval over cases, each case averaged over runs.
        sd_over_runs: Standard deviation (r - 1) of the runs' means, or None for one run.
    """

    runs: int
    interval: Interval
    sd_over_runs: float | None


@dataclass(frozen=True)
class Difference:
    """First minus second on the same cases and the runs that both have.

    Attributes:
        by_run: Mean over cases in every run that both have, in order of the runs: how far another seed and labeled
            subset move the difference, of which the interval over cases knows nothing.
        interval: Mean, SD and paired bootstrap interval over cases, each averaged over runs.
        better: Cases in which the first is larger.
        p: Two-sided Wilcoxon signed-rank p, not corrected; 1 where all cases are equal.
    """

    by_run: tuple[float, ...]
    interval: Interval
    better: int
    p: float


def mean_over_runs(scores: Scores, units: Units = None) -> Mean:
    """Mean of a system's scores with its two spreads.

    Args:
        scores: Of the system.
        units: Of every case its patient, where some have several: drawn together in the interval.

    Raises:
        InputError: There is no run, or runs do not hold the same number of cases.
    """
    return means_over_runs([scores], units)[0]


def means_over_runs(systems: Sequence[Scores], units: Units = None) -> list[Mean]:
    """`mean_over_runs` of many systems or figures, in the time of one where they have as many cases.

    Raises:
        InputError: As for one.
    """
    stacked = [_stacked(scores, list(scores)) for scores in systems]
    found = []
    for values, interval in zip(stacked, _intervals([values.mean(axis=0) for values in stacked], units), strict=True):
        means = values.mean(axis=1)
        found.append(Mean(len(means), interval, float(means.std(ddof=1)) if len(means) > 1 else None))
    return found


def difference(first: Scores, second: Scores, units: Units = None) -> Difference | None:
    """Paired difference of two systems; None where they share no run.

    Runs are paired because run k of every system has the same seed and the same labeled cases.

    Args:
        first: Scores of one system.
        second: Of the other.
        units: Of every case its patient, where some have several: drawn together in the interval, one in the test.

    Raises:
        InputError: The systems do not hold the same number of cases.
    """
    return differences([(first, second)], units)[0]


def differences(pairs: Sequence[tuple[Scores, Scores]], units: Units = None) -> list[Difference | None]:
    """`difference` of many pairs of systems, in the time of one where they have as many cases.

    Raises:
        InputError: As for one.
    """
    from scipy.stats import wilcoxon

    runs = [sorted(set(first) & set(second)) for first, second in pairs]
    by_run = [_changes(first, second, both) for (first, second), both in zip(pairs, runs, strict=True) if both]
    # cases that are equal but for rounding are ties
    changes = [each.mean(axis=0).round(DECIMALS) for each in by_run]
    intervals = iter(zip(by_run, changes, _intervals(changes, units), strict=True))
    found: list[Difference | None] = []
    for both in runs:
        if not both:
            found.append(None)
            continue
        each, change, interval = next(intervals)
        # with ties among the cases SciPy would leave the exact distribution, which a handful of others needs
        moved = change if units is None else _unit_means(change, units)
        moved = moved[moved != 0]
        p = float(wilcoxon(moved).pvalue) if len(moved) else 1.0
        means = tuple(float(mean) for mean in each.mean(axis=1).round(DECIMALS))
        found.append(Difference(means, interval, int((change > 0).sum()), p))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for as many comparisons as there are values, in their order.

    Paper: Holm 1979: sorted, the i-th of m is multiplied by m - i + 1; none falls below an earlier one, none exceeds 1.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected


def p_words(p: float) -> str:
    """How a p is written: three decimals, and below 0.001 no more than that."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def _changes(first: Scores, second: Scores, runs: Sequence[int]) -> NDArray[np.float64]:
    """(r, n) first minus second."""
    ours, theirs = _stacked(first, runs), _stacked(second, runs)
    if ours.shape != theirs.shape:
        raise InputError(f"Paired scores need the same cases, but got {ours.shape[1]} and {theirs.shape[1]}.")
    return ours - theirs


def _unit_means(change: NDArray[np.float64], units: Sequence[Hashable]) -> NDArray[np.float64]:
    sums, sizes = unit_sums(change[:, None], units)
    means: NDArray[np.float64] = (sums[:, 0] / sizes).round(DECIMALS)
    return means


def _intervals(columns: Sequence[NDArray[np.float64]], units: Units = None) -> list[Interval]:
    """Bootstrap interval of every list of cases; those of one length share their draws, as they would one by one."""
    found: dict[int, Interval] = {}
    for length in {len(values) for values in columns}:
        places = [place for place, values in enumerate(columns) if len(values) == length]
        intervals = bootstrap_intervals(np.stack([columns[place] for place in places], axis=1), units=units)
        found |= dict(zip(places, intervals, strict=True))
    return [found[place] for place in range(len(columns))]


def _stacked(scores: Scores, runs: Sequence[int]) -> NDArray[np.float64]:
    counts = {len(scores[run]) for run in runs}
    if len(counts) != 1:
        raise InputError(f"Every run needs the same cases; got {len(counts)} different numbers of them: {counts}.")
    return np.stack([np.asarray(scores[run], np.float64) for run in runs])
