"""Percentile bootstrap over cases: how far a mean would move had other cases been drawn."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Units = Sequence[Hashable] | None
"""Of every case what is drawn with it, such as its patient; None where every case is drawn by itself."""

_HELD = {2: 50, 3: 75, 4: 80, 5: 84, 6: 86, 7: 88, 8: 89, 9: 90}
"""Units -> in percent how often the interval of 95 % over them holds the mean of normally distributed scores.

Of two it spans just the two; the others were simulated.
"""
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
    values: NDArray[np.float64],
    *,
    units: Units = None,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """Mean, SD and percentile interval of every column.

    Whole rows are drawn with replacement, so that columns of one case stay together.

    Args:
        values: (cases, columns), finite.
        units: Of every case what it is drawn with, such as its patient: scans of one are alike, and drawn one by one
            they would make the interval too narrow. By default every case is drawn by itself.
        resamples: How many times the units are drawn again.
        seed: Seeds the draw; equal seeds give equal intervals.
        level: Share of resampled means inside the interval.

    Returns:
        One interval for each column.
    """
    means = values.mean(axis=0)
    sums, sizes = (values, np.ones(len(values))) if units is None else unit_sums(values, units)
    sd = values.std(axis=0, ddof=1) if len(values) > 1 else None
    if len(sums) < 2 or sd is None:
        return [
            Interval(float(mean), None if sd is None else float(sd[at]), None, None) for at, mean in enumerate(means)
        ]
    tails = [50 * (1 - level), 50 * (1 + level)]
    low, high = np.percentile(_resampled_means(sums, sizes, resamples, seed), tails, axis=0)
    return [Interval(*map(float, row)) for row in zip(means, sd, low, high, strict=True)]


def patient_units(cases: Iterable[str], patients: Mapping[str, str]) -> list[tuple[str, bool]] | None:
    """Of every case what is drawn with it: its patient, or itself; None where no patient has several of the cases.

    Args:
        cases: Their names.
        patients: Case -> its patient, as far as known.
    """
    found = [(patients.get(case, case), case in patients) for case in cases]
    return found if len(set(found)) < len(found) else None


def drawn_words(cases: int, units: Units) -> str:
    """What intervals are over, in words; of few, how little such an interval says."""
    if cases == 1:
        return "the one case, which gives none"
    if units is None:
        return f"cases{few_words(cases)}"
    patients = len(set(units))
    if patients == 1:
        return f"the one patient of {cases} cases, which gives none"
    return f"the {patients} patients of {cases} cases, scans of one together{few_words(patients)}"


def few_words(count: int) -> str:
    """In brackets, how little an interval over so few says; nothing where they are ten or more, or give none."""
    if count not in _HELD:
        return ""
    return (
        f" ({count}, so few that 95 % intervals of normally distributed scores hold the mean {_HELD[count]} % of the "
        "time)"
    )


def unit_sums(
    values: NDArray[np.float64], units: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(units, columns) sums over the cases of every unit, and (units,) how many those are; in order of appearance."""
    places = {unit: place for place, unit in enumerate(dict.fromkeys(units))}
    of_case = np.array([places[unit] for unit in units])
    sums, sizes = np.zeros((len(places), values.shape[1])), np.zeros(len(places))
    np.add.at(sums, of_case, values)
    np.add.at(sizes, of_case, 1.0)
    return sums, sizes


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    # How often each unit is drawn is multinomial: (resamples, units) counts give all means in one product.
    generator = np.random.default_rng(seed)
    units = len(sums)
    share = np.full(units, 1 / units)
    chunks = []
    for start in range(0, resamples, _CHUNK):
        counts = generator.multinomial(units, share, size=min(_CHUNK, resamples - start))
        chunks.append(counts @ sums / (counts @ sizes)[:, None])
    means: NDArray[np.float64] = np.concatenate(chunks)
    means.round(DECIMALS, out=means)
    means += 0.0  # -0 becomes 0
    return means
