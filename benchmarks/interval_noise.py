"""What intervals over cases do not know: how often they miss the mean, and how often a method that gives nothing wins.

For docs/protocol.md. From the records of the hippocampus grid alone: no data and no training are needed.

    python benchmarks/interval_noise.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcontrast.engine.benchmark.records import Record

RESULTS = Path(__file__).parent / "results" / "hippocampus"
TARGET, METHOD, BASELINE, RUNS = "hippocampus", "fba_net", "supervised", (0, 1, 2)
GRIDS, RESAMPLES = 4000, 2000


def gains(labeled: int) -> NDArray[np.float64]:
    """(runs, cases) Dice of the method minus that of the baseline."""

    def dice(row: str, run: int) -> NDArray[np.float64]:
        record = Record.load(RESULTS / f"{row}-{labeled}-{run}.json")
        return np.asarray(record.scores[TARGET]["dice"])[np.argsort(record.cases)]

    return np.stack([dice(METHOD, run) - dice(BASELINE, run) for run in RUNS])


def interval(values: NDArray[np.float64], generator: np.random.Generator) -> tuple[float, float]:
    """Percentile bootstrap of the mean of these cases, at 95 %.

    As metrics.bootstrap_intervals has it, whose resamples are the same at each call: of one set of cases that is right,
    of thousands of sets it would hide how the resamples themselves differ.
    """
    drawn = values[generator.integers(len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def coverage(found: NDArray[np.float64], generator: np.random.Generator) -> float:
    """Share of redrawn sets of cases whose interval holds the mean of the cases that they are drawn from."""
    cases = found.mean(axis=0)
    held = 0
    for _ in range(GRIDS):
        low, high = interval(generator.choice(cases, len(cases)), generator)
        held += low <= cases.mean() <= high
    return held / GRIDS


def false_wins(found: NDArray[np.float64], generator: np.random.Generator) -> float:
    """Share of grids whose interval excludes 0 though the method gives nothing.

    Runs differ as the records' do, and are 0 on average; cases are redrawn.
    """
    means = found.mean(axis=1, keepdims=True)
    spread, wins = means.std(ddof=1), 0
    for _ in range(GRIDS):
        chance = generator.normal(0.0, spread, size=means.shape)
        cases = generator.integers(found.shape[1], size=found.shape[1])
        low, high = interval((found - means + chance)[:, cases].mean(axis=0), generator)
        wins += low > 0 or high < 0
    return wins / GRIDS


def main() -> None:
    """Prints the figures."""
    generator = np.random.default_rng(0)
    for labeled in (4, 8):
        found = gains(labeled)
        spread = found.mean(axis=1).std(ddof=1)
        print(
            f"{labeled} labels: SD over runs {spread:.4f}, interval holds the mean in "
            f"{100 * coverage(found, generator):.1f} %, excludes 0 where there is nothing in "
            f"{100 * false_wins(found, generator):.1f} % of {GRIDS:,} grids"
        )


if __name__ == "__main__":
    main()
