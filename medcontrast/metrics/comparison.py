"""Comparing systems over the same cases: scores averaged over runs, paired intervals, Wilcoxon with Holm correction.

Letters: r runs, n cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError
from medcontrast.metrics.bootstrap import DECIMALS, Interval, bootstrap_intervals

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
        runs: How many runs both have.
        interval: Mean, SD and paired bootstrap interval over cases.
        better: Cases in which the first is larger.
        p: Two-sided Wilcoxon signed-rank p, not corrected; 1 where all cases are equal.
    """

    runs: int
    interval: Interval
    better: int
    p: float


def mean_over_runs(scores: Scores) -> Mean:
    """Mean of a system's scores with its two spreads.

    Raises:
        InputError: There is no run, or runs do not hold the same number of cases.
    """
    return means_over_runs([scores])[0]


def means_over_runs(systems: Sequence[Scores]) -> list[Mean]:
    """`mean_over_runs` of many systems or figures, in the time of one where they have as many cases.

    Raises:
        InputError: As for one.
    """
    stacked = [_stacked(scores, list(scores)) for scores in systems]
    found = []
    for values, interval in zip(stacked, _intervals([values.mean(axis=0) for values in stacked]), strict=True):
        means = values.mean(axis=1)
        found.append(Mean(len(means), interval, float(means.std(ddof=1)) if len(means) > 1 else None))
    return found


def difference(first: Scores, second: Scores) -> Difference | None:
    """Paired difference of two systems; None where they share no run.

    Runs are paired because run k of every system has the same seed and the same labeled cases.

    Raises:
        InputError: The systems do not hold the same number of cases.
    """
    return differences([(first, second)])[0]


def differences(pairs: Sequence[tuple[Scores, Scores]]) -> list[Difference | None]:
    """`difference` of many pairs of systems, in the time of one where they have as many cases.

    Raises:
        InputError: As for one.
    """
    from scipy.stats import wilcoxon

    runs = [sorted(set(first) & set(second)) for first, second in pairs]
    changes = [_change(first, second, both) for (first, second), both in zip(pairs, runs, strict=True) if both]
    intervals = iter(zip(changes, _intervals(changes), strict=True))
    found: list[Difference | None] = []
    for both in runs:
        if not both:
            found.append(None)
            continue
        change, interval = next(intervals)
        p = float(wilcoxon(change).pvalue) if np.any(change != 0) else 1.0
        found.append(Difference(len(both), interval, int((change > 0).sum()), p))
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


def _change(first: Scores, second: Scores, runs: Sequence[int]) -> NDArray[np.float64]:
    """(n,) first minus second, each averaged over the runs; cases that are equal but for rounding are ties."""
    ours, theirs = _stacked(first, runs).mean(axis=0), _stacked(second, runs).mean(axis=0)
    if ours.shape != theirs.shape:
        raise InputError(f"Paired scores need the same cases, but got {len(ours)} and {len(theirs)}.")
    change: NDArray[np.float64] = (ours - theirs).round(DECIMALS)
    return change


def _intervals(columns: Sequence[NDArray[np.float64]]) -> list[Interval]:
    """Bootstrap interval of every list of cases; those of one length share their draws, as they would one by one."""
    found: dict[int, Interval] = {}
    for length in {len(values) for values in columns}:
        places = [place for place, values in enumerate(columns) if len(values) == length]
        intervals = bootstrap_intervals(np.stack([columns[place] for place in places], axis=1))
        found |= dict(zip(places, intervals, strict=True))
    return [found[place] for place in range(len(columns))]


def _stacked(scores: Scores, runs: Sequence[int]) -> NDArray[np.float64]:
    counts = {len(scores[run]) for run in runs}
    if len(counts) != 1:
        raise InputError(f"Every run needs the same cases; got {len(counts)} different numbers of them: {counts}.")
    return np.stack([np.asarray(scores[run], np.float64) for run in runs])
