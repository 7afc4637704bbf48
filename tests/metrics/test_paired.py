"""Two reports on the same cases: by hand, by case name, and exact sentences."""

from __future__ import annotations

import dataclasses

import pytest
from target_scores import score

from medcontrast.errors import InputError
from medcontrast.metrics import Report, paired_differences
from medcontrast.metrics.paired import difference_lines, differences_to_json


def report(*dices: float) -> Report:
    return Report({f"case{number}": [score(dice)] for number, dice in enumerate(dices)})


def test_by_hand() -> None:
    difference = paired_differences(report(0.9, 0.5, 0.7), report(0.8, 0.4, 0.6))["left atrium"]
    # Every case differs by 0.1: no width at all, though the cases themselves lie far apart.
    assert difference["dice"].interval.mean == pytest.approx(0.1)
    assert difference["dice"].interval.low == pytest.approx(0.1)
    assert difference["dice"].interval.high == pytest.approx(0.1)
    assert difference["hd95_pooled_mm"].interval.mean == pytest.approx(-1.0)
    assert (difference["dice"].better, difference["hd95_pooled_mm"].better) == (3, 0)
    assert difference["dice"].p == pytest.approx(0.25)  # 2 of the 8 signings of three equal ranks are as far out


def test_cases_are_matched_by_name() -> None:
    first = report(0.9, 0.5, 0.7, 0.3)
    second = Report(dict(reversed(first.cases.items())))
    same = paired_differences(first, second)["left atrium"]["dice"]
    assert (same.interval.sd, same.better, same.p) == (0.0, 0, 1.0)
    mixed = paired_differences(report(0.8, 0.4), report(0.5, 0.6))["left atrium"]["dice"]
    assert (mixed.interval.low, mixed.interval.high) == (pytest.approx(-0.2), pytest.approx(0.3))


def test_what_is_shown_and_kept() -> None:
    found = paired_differences(report(0.9, 0.5, 0.7), report(0.8, 0.6, 0.6))
    lines = difference_lines(found)
    assert lines[0] == "left atrium"
    assert lines[1].split() == ["Dice", "+0.0333", "[-0.1000,", "+0.1000]", "larger", "in", "2,", "p", "1.000"]
    assert "not corrected" in lines[-1]
    kept = differences_to_json(found)["left atrium"]
    assert list(kept) == list(found["left atrium"])
    assert list(kept["dice"]) == ["mean", "sd", "low", "high", "better", "p"]
    (alone, *_) = difference_lines(paired_differences(report(0.9), report(0.8)))[1:]
    assert "[" not in alone  # one case has no interval


@pytest.mark.parametrize("volume", [41.0, 40.1, 40.001])
def test_other_labels_are_not_compared(volume: float) -> None:
    first = report(0.9, 0.5)
    other = {"case0": [score(0.5)], "case1": [dataclasses.replace(score(0.5), volume_ml_reference=volume)]}
    with pytest.raises(InputError, match=r"the reference of case1, left atrium has another volume .*; score both"):
        paired_differences(first, Report(other))


def test_pairs_must_match() -> None:
    with pytest.raises(
        InputError,
        match=r"The other report: needs the same cases .* but 1 of them stand in only one of the two: case2",
    ):
        paired_differences(report(0.9, 0.5, 0.7), report(0.9, 0.5))
    other = Report({name: [dataclasses.replace(score(0.5), tolerance_mm=1.0)] for name in ("case0", "case1")})
    with pytest.raises(
        InputError,
        match=r"same targets, tolerance and units .* but has targets 'left atrium' at 1.0 mm in mm, not .* at 2.0 mm",
    ):
        paired_differences(report(0.9, 0.5), other)


@pytest.mark.parametrize(("p", "shown"), [(0.002, "p 0.002"), (0.001, "p 0.001"), (0.0009, "p < 0.001")])
def test_how_a_p_is_shown(p: float, shown: str) -> None:
    found = paired_differences(report(0.9, 0.5, 0.7), report(0.8, 0.6, 0.6))
    found["left atrium"]["dice"] = dataclasses.replace(found["left atrium"]["dice"], p=p)
    assert difference_lines(found)[1].rstrip().endswith(shown)


def test_scans_of_one_patient_are_drawn_and_tested_together() -> None:
    """Three patients: the four scans of the first gain 0.1, the others lose; which as cases of their own are 4 of 7."""
    dices = ([0.9] * 4 + [0.5, 0.5, 0.4], [0.8] * 4 + [0.6, 0.6, 0.6])
    plain, other = (report(*each) for each in dices)
    patients = {f"case{number}": "a" for number in range(4)} | {"case4": "b", "case5": "b"}
    first = dataclasses.replace(plain, patients=patients)
    assert first.drawn.startswith("the 3 patients of 7 cases, scans of one together (3, so few that ")
    found = paired_differences(first, other)["left atrium"]["dice"]
    alone = paired_differences(plain, other)["left atrium"]["dice"]
    assert found.interval.mean == pytest.approx(alone.interval.mean) == pytest.approx(0.0)
    assert found.interval.low == pytest.approx(-0.2) and found.interval.high == pytest.approx(0.1)
    assert alone.interval.low > -0.1
    assert found.better == 4
    assert found.p == pytest.approx(0.75)  # ranks of 1.5, -1.5 and -3: 3 of 8 signings are as far out on that side
    assert "over the 3 patients of 7 cases" in difference_lines(paired_differences(first, other), first.drawn)[-1]
