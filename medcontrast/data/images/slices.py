"""Slices of volumes as images, and of their labels, in canonical orientation.

Letters: k classes, x, y, z voxels.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medcontrast.volume import read_grid, read_volume, require_usable_image

PERCENTILES = (0.5, 99.5)
"""Of a volume's values; they become 0 and 1."""


def slice_count(path: Path, axis: int) -> int:
    """Slices of a volume along a canonical axis, from its header alone."""
    grid = read_grid(path)
    return int(grid.shape[_stored_axis(grid.affine, axis)])


def image_slice(path: Path, axis: int, index: int) -> NDArray[np.float32]:
    """One slice in 0..1: the remaining canonical axes in their order, the volume's percentiles as 0 and 1."""
    return np.take(_image(path), index, axis=axis)


def label_slice(path: Path, axis: int, index: int) -> NDArray[np.int32]:
    """The same slice of a label volume, values as stored."""
    return np.take(_label(path), index, axis=axis)


def _stored_axis(affine: NDArray[np.float64], axis: int) -> int:
    orientation = nib.orientations.io_orientation(affine)
    return int(np.flatnonzero(orientation[:, 0] == axis)[0])


@lru_cache(maxsize=4)
def _image(path: Path) -> NDArray[np.float32]:
    volume = read_volume(path, "image")
    require_usable_image(volume)
    low, high = np.percentile(volume.array, PERCENTILES)
    array = _canonical(volume.array, volume.grid.affine)
    scaled: NDArray[np.float32] = np.clip((array - low) / max(float(high - low), 1e-12), 0.0, 1.0).astype(np.float32)
    return scaled


@lru_cache(maxsize=4)
def _label(path: Path) -> NDArray[np.int32]:
    volume = read_volume(path, "label")
    return _canonical(volume.array, volume.grid.affine)


def _canonical(array: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """Axes to RAS by the nearest permutation and mirroring."""
    turned: NDArray[Any] = nib.orientations.apply_orientation(array, nib.orientations.io_orientation(affine))
    return turned
