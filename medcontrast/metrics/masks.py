"""What every mask metric asks of its input: equal shapes, a valid spacing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import VolumeError

Mask = NDArray[np.bool_]
"""Boolean array of 2 or 3 dimensions, True inside the structure."""

Spacing = Sequence[float] | NDArray[np.float64]
"""Distance in mm between voxel centres along each array axis; of sheared axes (d, d), each one's step as a column."""

CheckedSpacing = tuple[float, ...] | NDArray[np.float64]
"""What `checked_spacing` makes of it: a tuple where axes are at right angles, else an array."""


def checked_masks(prediction: Mask, reference: Mask) -> tuple[Mask, Mask]:
    """Both masks as boolean arrays.

    Args:
        prediction: (x, y) or (x, y, z).
        reference: Same shape.

    Raises:
        VolumeError: The shapes differ, or the number of dimensions is not 2 or 3.
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    check_shapes("prediction", prediction, reference)
    return prediction.astype(bool, copy=False), reference.astype(bool, copy=False)


def check_shapes(name: str, array: NDArray[np.generic], reference: NDArray[np.generic]) -> None:
    """Refuses arrays that do not lie on one grid of 2 or 3 dimensions.

    Args:
        name: What `array` is, for the message.
        array: Compared with `reference`.
        reference: (x, y) or (x, y, z).

    Raises:
        VolumeError: The shapes differ, or the number of dimensions is not 2 or 3.
    """
    if array.shape != reference.shape:
        raise VolumeError(
            f"The {name} has shape {array.shape} but the reference has shape {reference.shape}; "
            "expected equal shapes. Score a prediction on the grid of the label it is compared with."
        )
    if reference.ndim not in (2, 3):
        raise VolumeError(f"Metrics take masks of 2 or 3 dimensions, but got shape {reference.shape}.")


def checked_spacing(spacing_mm: Spacing, dimensions: int) -> CheckedSpacing:
    """The spacing as floats.

    Args:
        spacing_mm: Distance in mm between voxel centres along each array axis; of sheared axes (d, d), their steps.
        dimensions: How many axes the masks have.

    Raises:
        VolumeError: Not one positive, finite number for each axis; steps that do not span the space.
    """
    if np.ndim(spacing_mm) == 2:
        return _checked_steps(np.asarray(spacing_mm, dtype=np.float64), dimensions)
    spacing = tuple(float(value) for value in spacing_mm)
    if len(spacing) != dimensions or not all(math.isfinite(value) and value > 0 for value in spacing):
        raise VolumeError(
            f"Expected a spacing in mm of {dimensions} positive numbers, one for each array axis, but got {spacing}."
        )
    return spacing


def _checked_steps(steps: NDArray[np.float64], dimensions: int) -> NDArray[np.float64]:
    if steps.shape != (dimensions, dimensions) or not np.isfinite(steps).all() or np.linalg.det(steps) == 0:
        raise VolumeError(
            f"Expected the steps in mm of {dimensions} array axes as the columns of a {dimensions} x {dimensions} "
            f"matrix with a determinant, but got {steps.tolist()}."
        )
    return steps


def voxel_mm3(spacing: CheckedSpacing) -> float:
    """Volume of a voxel in mm^3, or area of a pixel in mm^2."""
    return math.prod(spacing) if isinstance(spacing, tuple) else float(abs(np.linalg.det(spacing)))


def positions_mm(indices: NDArray[np.intp], spacing: CheckedSpacing) -> NDArray[np.float64]:
    """Voxel indices (n, d) as places (n, d) in mm."""
    return indices * np.asarray(spacing) if isinstance(spacing, tuple) else indices @ spacing.T


def diagonal_mm(shape: Sequence[int], spacing: CheckedSpacing) -> float:
    """Distance in mm between the centres of opposite corner voxels: the largest distance an image can hold."""
    if isinstance(spacing, tuple):
        return math.sqrt(sum(((count - 1) * step) ** 2 for count, step in zip(shape, spacing, strict=True)))
    # the diagonals of a sheared image differ
    ways = np.array(list(product((-1, 1), repeat=len(shape)))) * (np.array(shape) - 1)
    return float(np.linalg.norm(positions_mm(ways, spacing), axis=1).max())


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box, a slice for each axis, that holds every True voxel; empty slices for an empty mask."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        rest = mask[tuple(box)]  # what the axes before have left
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hits = np.flatnonzero(rest.any(axis=others))
        if not hits.size:
            return (slice(0, 0),) * mask.ndim
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)
