"""Fewer labels: stratified, seeded subsets of the training images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError
from medcontrast.transforms.draws import row_generator


def stratified_subset(targets: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.int64]:
    """Places of a share of every class, at least one image each, in order.

    The order in which a class's images are taken depends on the seed and the class alone, so that the smaller subsets
    of a seed lie in its larger ones.

    Args:
        targets: (n,) class indices.
        fraction: Above 0 and at most 1; halves are rounded up.
        seed: Which subset.

    Raises:
        InputError: A fraction out of range.
    """
    if not 0.0 < fraction <= 1.0:
        raise InputError(f"A share of the labels lies above 0 and at most at 1, but got {fraction}.")
    chosen = []
    for k in np.unique(targets):
        places = np.flatnonzero(targets == k)
        order = row_generator(seed, 0, int(k), "labels of a probe").permutation(len(places))
        chosen.append(places[order[: _count(len(places), fraction)]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def distinct_shares(targets: NDArray[np.int64], fractions: Sequence[float]) -> tuple[tuple[float, ...], list[str]]:
    """Shares that take different subsets, in order, and a sentence for each that takes the same as one before it.

    Args:
        targets: (n,) class indices.
        fractions: As for `stratified_subset`.
    """
    _, sizes = np.unique(targets, return_counts=True)
    first: dict[tuple[int, ...], float] = {}
    notes = []
    for fraction in fractions:
        counts = tuple(_count(int(size), fraction) for size in sizes)
        same = first.setdefault(counts, fraction)
        if same != fraction:
            notes.append(
                f"{100 * fraction:g} % of the labels are the same {sum(counts)} of {len(targets)} images as "
                f"{100 * same:g} %, and left out; every class has one at least."
            )
    return tuple(first.values()), notes


def _count(size: int, fraction: float) -> int:
    """Images of a class of this size that a share takes."""
    return max(1, math.floor(fraction * size + 0.5))
