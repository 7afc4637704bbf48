"""What docs/findings_encoders.md says of the digits, held to the committed records: property."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medcontrast.engine.benchmark.encoder_records import ProbeRecord
from medcontrast.metrics.comparison import difference

RECORDS = Path(__file__).parents[2] / "benchmarks" / "results" / "morphomnist"
READINGS = ("linear 1", "linear 0.1", "knn 1", "knn 0.1")


def under_the_rarest_scanner(row: str, reading: str) -> dict[int, NDArray[np.float64]]:
    """Run -> 1 where a digit under haze is recognised; every digit is one unit, seen once by each scanner."""
    found = {}
    for path in sorted(RECORDS.glob(f"{row}-[0-9].json")):
        record = ProbeRecord.load(path)
        inside = record.members("domain")["haze"]
        units = record.unit_numbers()[inside]
        assert len(set(units.tolist())) == len(units) == 2000
        found[record.run] = record.right(reading)[inside]
    assert found
    return found


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("other", ["simclr", "simclr_plus"])
def test_counterfactual_pairs_help_under_the_rarest_scanner(reading: str, other: str) -> None:
    gain = difference(under_the_rarest_scanner("cf_simclr", reading), under_the_rarest_scanner(other, reading))
    assert gain is not None and gain.interval.low is not None
    assert gain.runs == 3
    assert gain.interval.low > 0


@pytest.mark.parametrize("reading", READINGS)
def test_pairs_by_the_scanners_themselves_are_the_upper_bound(reading: str) -> None:
    above = difference(under_the_rarest_scanner("exact", reading), under_the_rarest_scanner("cf_simclr", reading))
    assert above is not None and above.interval.low is not None
    assert above.interval.low > 0
