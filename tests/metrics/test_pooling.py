"""Reports joined: by hand, and exact sentences."""

from __future__ import annotations

import dataclasses

import pytest
from target_scores import score

from medcontrast.errors import InputError
from medcontrast.metrics import Report, pool_reports


def report(**dices: float) -> Report:
    return Report({case: [score(dice)] for case, dice in dices.items()})


def test_by_hand() -> None:
    whole = pool_reports({"first": report(a=0.9, b=0.6, c=0.6), "second": report(d=0.3)})
    assert list(whole.cases) == ["a", "b", "c", "d"]
    assert whole.summary["left atrium"].cases == 4
    assert whole.summary["left atrium"].metrics["dice"].mean == pytest.approx(0.6)  # of the folds' means it is 0.5


def test_the_bootstrap_is_that_of_the_first() -> None:
    first = dataclasses.replace(report(a=0.9, b=0.8), level=0.5, resamples=100)
    whole = pool_reports({"first": first, "second": report(c=0.1)})
    assert (whole.level, whole.resamples, whole.seed) == (0.5, 100, 0)


def test_scans_of_a_patient_stay_together() -> None:
    first = dataclasses.replace(report(a=0.9, b=0.8), patients={"a": "p", "b": "p"})
    whole = pool_reports({"first": first, "second": report(c=0.1)})
    assert whole.patients == {"a": "p", "b": "p"}
    assert whole.drawn.startswith("the 2 patients of 3 cases, scans of one together (2, so few that ")


@pytest.mark.parametrize(
    ("reports", "sentence"),
    [
        ({"one": report(a=0.9)}, "Joining takes at least two reports, but got 1."),
        (
            {"one": report(a=0.9, b=0.8), "two": report(c=0.5), "three": report(b=0.7, c=0.7, d=0.7)},
            "three: case b stands in one too (2 such); a case counts once, so join reports on different cases",
        ),
        (
            {"one": report(a=0.9), "two": Report({"b": [score(0.5, tolerance_mm=1.0)]})},
            "two: has targets 'left atrium' at 1.0 mm in mm, but one targets 'left atrium' at 2.0 mm in mm; reports",
        ),
    ],
)
def test_what_cannot_be_joined(reports: dict[str, Report], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        pool_reports(reports)
    assert str(caught.value).startswith(sentence)
