"""Cutting a box out of a volume, even where the box reaches beyond it.

Letters: c channels, x, y, z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", bound=np.generic)

PAD_VALUE = 0.0
"""Value of image voxels beyond the scan, in training and in inference.

0 is the mean of a z-scored channel and the middle of a clipped window, so padding moves neither the mean of a patch
nor what a normalisation layer makes of it, depends on no outlier, and is the same for every channel. A volume's
minimum has none of these.
"""


def crop_or_pad(volume: NDArray[Value], start: Sequence[int], shape: Sequence[int], fill: float) -> NDArray[Value]:
    """A box of a volume as a new array; only the box is copied.

    Args:
        volume: (c, x, y, z), memory-mapped or not.
        start: First voxel of the box; negative where the box begins before the volume.
        shape: Sides of the box in voxels.
        fill: Value of voxels beyond the volume.

    Returns:
        (c, *shape) of the volume's type.
    """
    sides = volume.shape[1:]
    lower = [max(0, first) for first in start]
    upper = [
        max(low, min(side, first + size)) for low, side, first, size in zip(lower, sides, start, shape, strict=True)
    ]
    source = volume[(slice(None), *map(slice, lower, upper))]
    if source.shape[1:] == tuple(shape):
        return np.array(source, order="C")
    out = np.full((len(volume), *shape), fill, dtype=volume.dtype)
    target = [slice(low - first, high - first) for low, high, first in zip(lower, upper, start, strict=True)]
    out[(slice(None), *target)] = source
    return out


def pad_start(sides: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Where a patch begins that is centred on a volume no larger than it: 0 or negative; 0 along larger axes.

    `crop_or_pad(volume, pad_start(sides, patch), larger, PAD_VALUE)` pads, with `larger` the larger of both sides;
    `crop_or_pad(padded, [-first for first in start], sides, ...)` takes the padding off again.
    """
    return tuple(min(0, -((size - side) // 2)) for side, size in zip(sides, patch, strict=True))
