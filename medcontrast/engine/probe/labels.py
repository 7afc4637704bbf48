"""Fewer labels: stratified, seeded subsets of the training images."""

from __future__ import annotations

import math

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
        count = max(1, math.floor(fraction * len(places) + 0.5))
        order = row_generator(seed, 0, int(k), "labels of a probe").permutation(len(places))
        chosen.append(places[order[:count]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
