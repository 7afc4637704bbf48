"""Slices of volumes as images, and of their labels, in canonical orientation.

Letters: k classes, x, y, z voxels.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcontrast.volume import canonical_axes, read_grid, read_volume, require_usable_image, to_canonical

PERCENTILES = (0.5, 99.5)
"""Of a volume's values; they become 0 and 1."""


def slice_count(path: Path, axis: int) -> int:
    """Slices of a volume along a canonical axis, from its header alone."""
    grid = read_grid(path)
    return grid.shape[canonical_axes(grid)[axis]]


def image_slice(path: Path, axis: int, index: int) -> NDArray[np.float32]:
    """One slice in 0..1: the remaining canonical axes in their order, the volume's percentiles as 0 and 1."""
    return np.take(_image(path), index, axis=axis)


def label_slice(path: Path, axis: int, index: int) -> NDArray[np.int32]:
    """The same slice of a label volume, values as stored."""
    return np.take(_label(path), index, axis=axis)


@lru_cache(maxsize=4)
def _image(path: Path) -> NDArray[np.float32]:
    volume = read_volume(path, "image")
    require_usable_image(volume)
    low, high = np.percentile(volume.array, PERCENTILES)
    array = to_canonical(volume.array, volume.grid)
    scaled: NDArray[np.float32] = np.clip((array - low) / max(float(high - low), 1e-12), 0.0, 1.0).astype(np.float32)
    return scaled


@lru_cache(maxsize=4)
def _label(path: Path) -> NDArray[np.int32]:
    volume = read_volume(path, "label")
    return to_canonical(volume.array, volume.grid)
