"""Scans of a manifest held against each other: what is no fault of one by itself, and yet sets it apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, prod
from statistics import median_low
from typing import TYPE_CHECKING

from medcontrast.data.hounsfield import called_ct
from medcontrast.data.voxel_sizes import shown

if TYPE_CHECKING:
    from medcontrast.data.check import CaseRow

_VOXEL = 4.0
"""Factor along every axis: slices of 0.6 beside 5 mm are ordinary, but with planes alike; a wrong unit changes all."""
_EXTENT = 8.0
"""Factor in ml: a whole body beside its trunk, or a wide field of view beside a narrow one, is less."""
_SPLIT_EXTENT = 2.0
"""Factor between the medians of splits none of whose scans are alike: crops are a part of what they were cut from."""
_STRUCTURE = 10.0
"""Factor in ml: organs of a child and of an adult differ by less."""
_MEAN_HU = 600.0
"""Air and padding around the body move the mean of a CT by a few hundred units, a lost intercept by 1024."""
_SHOWN = 3
_CROPS = "a network that learns from crops finds structures all over a whole scan, so crop all alike, or none"


def unlike_others(rows: Sequence[CaseRow], channels: Sequence[str]) -> list[str]:
    """Sentences on scans and labels that differ from the others by more than patients do.

    Args:
        rows: Of every readable case.
        channels: Their names, in order.
    """
    sides = {row.case: sorted(row.spacing_mm) for row in rows}  # whichever axis the slices were taken along
    usual = [median_low(side) for side in zip(*sides.values(), strict=True)]
    odd = {
        row.case: shown(row.spacing_mm)
        for row in rows
        if all(side > _VOXEL * other for side, other in zip(sides[row.case], usual, strict=True))
        or all(side * _VOXEL < other for side, other in zip(sides[row.case], usual, strict=True))
    }
    sentences = []
    if odd:
        sentences.append(
            f"the voxels of {len(odd)} of {len(rows)} scans are more than {_VOXEL:g} times as long or as short along "
            f"every axis as the median ({shown(usual)}): {_listed(odd)}; if those headers mean another unit than mm, "
            "correct them"
        )
    rest = [row for row in rows if row.case not in odd]  # what they hold in ml is wrong as well
    sentences += list(_splits_apart(rest)) or list(_extents(rest))
    return [*sentences, *_structures(rest), *_means(rows, channels)]


def _splits_apart(rows: Sequence[CaseRow]) -> Iterator[str]:
    """Labeled crops beside whole unlabeled scans: each split agrees with itself."""
    by_split: dict[str, list[float]] = {}
    for row in rows:
        by_split.setdefault(row.split, []).append(_extent_ml(row))
    splits = list(by_split)
    for other in splits[1:]:
        small, large = sorted((splits[0], other), key=lambda split: min(by_split[split]))
        few, many = median_low(by_split[small]), median_low(by_split[large])
        several = min(len(by_split[small]), len(by_split[large])) > 1
        if several and max(by_split[small]) < min(by_split[large]) and many > _SPLIT_EXTENT * few:
            yield (
                f"every scan of the split {large} shows more than any of {small} (medians of {many:.3g} ml and "
                f"{few:.3g} ml); {_CROPS}"
            )


def _extents(rows: Sequence[CaseRow]) -> Iterator[str]:
    usual, odd = _far({row.case: _extent_ml(row) for row in rows}, _EXTENT)
    if odd:
        yield (
            f"the extent of {len(odd)} of {len(rows)} scans is more than {_EXTENT:g} times as large or as small as the "
            f"median ({usual:.3g} ml): {_listed(odd)}; {_CROPS}"
        )


def _structures(rows: Sequence[CaseRow]) -> Iterator[str]:
    for name in dict.fromkeys(name for row in rows for name in row.volumes_ml):
        held = {row.case: row.volumes_ml[name] for row in rows if row.volumes_ml.get(name)}
        usual, odd = _far(held, _STRUCTURE)
        if odd:
            yield (
                f"{name} is more than {_STRUCTURE:g} times as large or as small as its median ({usual:.3g} ml) in "
                f"{len(odd)} of {len(held)} labels: {_listed(odd)}; look at these labels, unless such sizes are real, "
                "as those of lesions may be"
            )


def _means(rows: Sequence[CaseRow], channels: Sequence[str]) -> Iterator[str]:
    for place, channel in enumerate(channels):
        # one scan with other values than CT among many is what is looked for
        alike = sum(row.channels[place].like_ct for row in rows)
        if not called_ct(channel) and 2 * alike <= len(rows):
            continue
        means = {row.case: row.channels[place].mean for row in rows if isfinite(row.channels[place].mean)}
        usual = median_low(means.values()) if means else 0.0
        odd = {case: f"{mean:.0f}" for case, mean in means.items() if abs(mean - usual) > _MEAN_HU}
        if odd:
            yield (
                f"the mean of channel {channel} lies more than {_MEAN_HU:g} Hounsfield units from the median "
                f"({usual:.0f}) in {len(odd)} of {len(rows)} scans: {_listed(odd)}; if their intercept, most often "
                "1024, was lost or added twice, correct it"
            )


def _far(millilitres: Mapping[str, float], factor: float) -> tuple[float, dict[str, str]]:
    """The median, and what lies further from it than the factor, by case."""
    usual = median_low(millilitres.values()) if millilitres else 0.0
    far = {case: ml for case, ml in millilitres.items() if not usual / factor <= ml <= usual * factor}
    return usual, {case: f"{ml:.3g} ml" for case, ml in far.items()}


def _extent_ml(row: CaseRow) -> float:
    return prod(row.shape) * prod(row.spacing_mm) / 1000


def _listed(odd: Mapping[str, str]) -> str:
    named = ", ".join(f"{case} ({what})" for case, what in list(odd.items())[:_SHOWN])
    return f"{named} and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else named
