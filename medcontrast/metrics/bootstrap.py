"""Percentile bootstrap over cases: how far a mean would move had other cases been drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1000
DECIMALS = 12
"""Kept of a mean: the digits below are the processor's order of summation, not the data."""


@dataclass(frozen=True)
class Interval:
    """A mean over cases with its spread.

    Attributes:
        mean: Mean over cases.
        sd: Standard deviation over cases (n - 1), or None for a single case.
        low: Lower end of the interval, or None for a single case.
        high: Upper end of the interval, or None for a single case.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None


def bootstrap_intervals(
    values: NDArray[np.float64], *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> list[Interval]:
    """Mean, SD and percentile interval of every column.

    Whole rows are drawn with replacement, so that columns of one case stay together.

    Args:
        values: (cases, columns), finite.
        resamples: How many times the cases are drawn again.
        seed: Seeds the draw; equal seeds give equal intervals.
        level: Share of resampled means inside the interval.

    Returns:
        One interval for each column.
    """
    cases = len(values)
    means = values.mean(axis=0)
    if cases < 2:
        return [Interval(float(mean), None, None, None) for mean in means]
    tails = [50 * (1 - level), 50 * (1 + level)]
    low, high = np.percentile(_resampled_means(values, resamples, seed), tails, axis=0)
    sd = values.std(axis=0, ddof=1)
    return [Interval(*map(float, row)) for row in zip(means, sd, low, high, strict=True)]


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    # How often each case is drawn is multinomial: (resamples, cases) counts give all means in one product.
    generator = np.random.default_rng(seed)
    cases = len(values)
    share = np.full(cases, 1 / cases)
    chunks = []
    for start in range(0, resamples, _CHUNK):
        counts = generator.multinomial(cases, share, size=min(_CHUNK, resamples - start))
        chunks.append(counts @ values / cases)
    means: NDArray[np.float64] = np.concatenate(chunks)
    means.round(DECIMALS, out=means)
    means += 0.0  # -0 becomes 0
    return means
