"""Tests of scans held against each other: by hand."""

from __future__ import annotations

from typing import Any

import pytest

from medcontrast.data.check import CaseRow, ChannelValues
from medcontrast.data.outliers import unlike_others

CROPS = "a network that learns from crops finds structures all over a whole scan, so crop all alike, or none"


def row(case: str, **changes: Any) -> CaseRow:
    """A scan of 100 x 100 x 50 voxels of 1 x 1 x 2 mm: a litre, of which the liver is a tenth."""
    values: dict[str, Any] = {
        "split": "labeled",
        "shape": (100, 100, 50),
        "spacing_mm": (1.0, 1.0, 2.0),
        "axes": "RAS",
        "channels": (ChannelValues(0.0, 900.0, 300.0, like_ct=False),),
        "volumes_ml": {"liver": 100.0},
    }
    return CaseRow(case=case, **{**values, **changes})


def found(*rows: CaseRow, channel: str = "image") -> list[str]:
    return unlike_others([*(row(name) for name in "abc"), *rows], [channel])


def test_nothing_to_compare() -> None:
    assert unlike_others([], ["image"]) == unlike_others([row("a")], ["image"]) == []
    assert found(row("d"), row("e", split="unlabeled", volumes_ml={})) == []


@pytest.mark.parametrize(
    "spacing_mm",
    [
        (0.9, 0.9, 0.5),  # thin slices
        (0.4, 0.4, 10.0),
        (10.0, 1.0, 1.0),  # thick ones along another axis
        (0.4, 0.4, 0.4),
        (3.0, 3.0, 6.0),
    ],
)
def test_ordinary_mixes_of_voxels_are_not_said(spacing_mm: tuple[float, float, float]) -> None:
    shape = tuple(round(whole / side) for whole, side in zip((100, 100, 100), spacing_mm, strict=True))
    assert found(row("d", spacing_mm=spacing_mm, shape=shape)) == []


@pytest.mark.parametrize(("factor", "size"), [(0.1, "0.1 x 0.1 x 0.2 mm"), (10.0, "10 x 10 x 20 mm")])
def test_another_unit_is_said_once(factor: float, size: str) -> None:
    """Its extent and its structures are as wrong, for the same reason."""
    odd = [
        row(name, spacing_mm=(factor, factor, 2 * factor), volumes_ml={"liver": 100 * factor**3}) for name in ("d", "e")
    ]
    assert found(row("f"), *odd) == [
        "the voxels of 2 of 6 scans are more than 4 times as long or as short along every axis as the median (1 x 1 x "
        f"2 mm): d ({size}), e ({size}); if those headers mean another unit than mm, correct them"
    ]


def test_a_scan_of_another_extent() -> None:
    assert found(row("d", shape=(100, 100, 390))) == found(row("d", shape=(50, 50, 26))) == []
    (sentence,) = found(row("d", shape=(30, 30, 20)), row("e", shape=(200, 200, 110)))
    assert sentence == (
        "the extent of 2 of 5 scans is more than 8 times as large or as small as the median (1e+03 ml): d (36 ml), "
        f"e (8.8e+03 ml); {CROPS}"
    )


def test_crops_of_one_split_beside_whole_scans_of_another() -> None:
    def others(*sides: int) -> list[CaseRow]:
        return [
            row(f"u{number}", split="unlabeled", shape=(side, side, 50), volumes_ml={})
            for number, side in enumerate(sides)
        ]

    assert found(*others(150, 101, 170)) == [
        "every scan of the split unlabeled shows more than any of labeled (medians of 2.25e+03 ml and 1e+03 ml); "
        f"{CROPS}"
    ]
    assert found(*others(150, 100, 170)) == []  # one is like the labeled ones
    assert found(*others(140, 101, 140)) == []  # twice as much is less than a crop
    assert found(*others(170)) == []
    assert found(*others(30, 32)) == [
        f"every scan of the split labeled shows more than any of unlabeled (medians of 1e+03 ml and 90 ml); {CROPS}"
    ]


def test_a_structure_of_another_volume() -> None:
    assert found(*(row(f"d{ml}", volumes_ml={"liver": ml}) for ml in (0.0, 10.0, 1000.0))) == []
    odd = [row(f"d{number}", volumes_ml={"liver": 9.0}) for number in range(5)]
    normal = [row(f"n{number}", volumes_ml={"liver": 110.0, "spleen": 1.0}) for number in range(6)]
    assert found(*odd, *normal) == [
        "liver is more than 10 times as large or as small as its median (100 ml) in 5 of 14 labels: d0 (9 ml), "
        "d1 (9 ml), d2 (9 ml) and 2 more; look at these labels, unless such sizes are real, as those of lesions may be"
    ]


def test_a_ct_with_another_mean() -> None:
    def ct(name: str, mean: float, like_ct: bool = True) -> CaseRow:
        return row(name, channels=(ChannelValues(-1024.0, 1500.0, mean, like_ct),))

    def compared(*rows: CaseRow, channel: str = "image") -> list[str]:
        return unlike_others(rows, [channel])

    high = ct("high", 700.0, like_ct=False)
    many = [ct("a", -400.0), ct("b", -650.0), ct("c", 100.0)]
    said = (
        "the mean of channel {} lies more than 600 Hounsfield units from the median (-400) in 1 of 4 scans: high (700)"
        "; if their intercept, most often 1024, was lost or added twice, correct it"
    )
    assert compared(*many, high) == [said.format("image")]
    assert compared(*many) == []
    none = [row(each.case, channels=(ChannelValues(0.0, 9.0, each.channels[0].mean, False),)) for each in (*many, high)]
    assert compared(*none) == []  # MR, whose values have no unit
    assert compared(*none, channel="CT") == [said.format("CT")]
    broken = ct("broken", float("nan"), like_ct=False)
    assert compared(*many, high, broken) == [said.format("image").replace("of 4", "of 5")]
