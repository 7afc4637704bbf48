"""Which stored axis runs which way in the world, and arrays turned by it; nothing is interpolated.

Canonical is RAS: x to the right, y to anterior, z to superior, by the nearest permutation and mirroring of the axes, so
that oblique and sheared grids stay so. Turns are nibabel's orientation arrays: (3, 2), a row for each axis, with the
axis that it becomes and 1 or -1 for its direction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from medcontrast.volume.grid import Grid


def canonical_axes(grid: Grid) -> NDArray[np.intp]:
    """Which stored axis runs nearest to x, to y and to z."""
    return np.argsort(io_orientation(grid.affine)[:, 0])


def to_canonical(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """An array on `grid`, its axes as stored, in canonical order and directions."""
    turned: NDArray[Any] = apply_orientation(array, io_orientation(grid.affine))
    return turned


def from_canonical(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """The way back of `to_canonical`; contiguous."""
    back = ornt_transform(axcodes2ornt("RAS"), io_orientation(grid.affine))
    return np.ascontiguousarray(apply_orientation(array, back))


def turns_onto(source: Grid, target: Grid, tolerance_mm: float | None = None) -> NDArray[np.float64] | None:
    """How axes of `source` become those of `target`; None where the grids differ in more than order and directions.

    Args:
        source: The grid to turn.
        target: The grid to reach.
        tolerance_mm: How far a turned corner may lie from its twin; default as in `Grid.same_as`.
    """
    turns: NDArray[np.float64] = io_orientation(np.linalg.solve(target.affine, source.affine))
    if np.isnan(turns).any():
        return None
    x, y, z = (source.shape[axis] for axis in np.argsort(turns[:, 0]))
    turned = Grid((x, y, z), source.affine @ inv_ornt_aff(turns, source.shape))
    return turns if turned.same_as(target, tolerance_mm) else None
