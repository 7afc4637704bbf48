"""Distances in mm between the surfaces of two masks, and the figures read off them.

A surface voxel is a voxel of the mask with a face neighbour outside it; beyond the image border is outside. Distances
run between voxel centres, in the world where axes are sheared. All figures come from one pair of distance arrays,
`SurfaceDistances`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medcontrast.metrics.masks import (
    CheckedSpacing,
    Mask,
    Spacing,
    bounding_box,
    checked_masks,
    checked_spacing,
    diagonal_mm,
    positions_mm,
)

# The distance transform is float32: a distance that equals the tolerance must not fall out of it by rounding.
_TOLERANCE_SLACK = 1e-6
# A nearest-neighbour query costs about as much as the distance transform of so many voxels.
_VOXELS_A_QUERY = 20
_QUERIES_A_THREAD = 5000


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance of every surface voxel to the nearest surface voxel of the other mask.

    Both masks empty: one distance of 0 each way. Exactly one empty: one distance each way, the image diagonal.

    Attributes:
        prediction_to_reference: (n,) float64, one for every surface voxel of the prediction.
        reference_to_prediction: (m,) float64, one for every surface voxel of the reference.
        one_empty: Exactly one of the masks is empty, so the distances stand for a miss or an invention.
    """

    prediction_to_reference: NDArray[np.float64]
    reference_to_prediction: NDArray[np.float64]
    one_empty: bool = False

    @property
    def pooled(self) -> NDArray[np.float64]:
        """Both directions in one array, (n + m,)."""
        return np.concatenate([self.prediction_to_reference, self.reference_to_prediction])


def surface_voxels(mask: Mask) -> Mask:
    """The mask minus its erosion with face connectivity; the image border counts as outside.

    Args:
        mask: (x, y) or (x, y, z).

    Returns:
        Same shape, True on the surface.
    """
    interior = mask.copy()
    for axis in range(mask.ndim):
        source, target = mask.swapaxes(axis, 0), interior.swapaxes(axis, 0)
        target[1:] &= source[:-1]
        target[:-1] &= source[1:]
        target[0] = False
        target[-1] = False
    return mask ^ interior  # the interior lies inside the mask


def surface_distances(
    prediction: Mask, reference: Mask, spacing_mm: Spacing, *, image_shape: Sequence[int] | None = None
) -> SurfaceDistances:
    """Measures both directions; with a spacing of 1 for each axis the unit is voxels.

    Args:
        prediction: (x, y) or (x, y, z).
        reference: Same shape.
        spacing_mm: Distance between voxel centres along each axis, in mm; of sheared axes (d, d), their steps.
        image_shape: Of the image that the masks are cut out of, whose diagonal a miss costs; by default their own.

    Returns:
        Distances in mm, never empty, never NaN or infinite.

    Raises:
        VolumeError: The shapes differ, or the spacing does not fit them.
    """
    prediction, reference = checked_masks(prediction, reference)
    spacing = checked_spacing(spacing_mm, reference.ndim)
    present = bool(prediction.any()), bool(reference.any())
    if not all(present):
        distance = np.array([diagonal_mm(image_shape or reference.shape, spacing) if any(present) else 0.0])
        return SurfaceDistances(distance, distance, one_empty=any(present))
    # Outside the joint box both masks are empty, so cropping changes neither surfaces nor distances.
    box = bounding_box(prediction | reference)
    prediction_surface, reference_surface = surface_voxels(prediction[box]), surface_voxels(reference[box])
    return SurfaceDistances(
        _distances(prediction_surface, reference_surface, spacing),
        _distances(reference_surface, prediction_surface, spacing),
    )


def _distances(start: Mask, goal: Mask, spacing: CheckedSpacing) -> NDArray[np.float64]:
    """From every voxel of `start`, in row-major order, to the nearest of `goal`."""
    places = np.flatnonzero(start)
    apart = ~goal.ravel()[places]
    distances = np.zeros(len(places))
    queries = int(np.count_nonzero(apart))
    sheared = not isinstance(spacing, tuple)  # the distance transform knows right angles only
    if sheared or queries * _VOXELS_A_QUERY < goal.size:
        # Masks that nearly agree share much of their surface; only the rest asks for its nearest neighbour.
        tree = cKDTree(_points(np.flatnonzero(goal), goal, spacing), balanced_tree=False, compact_nodes=False)
        points = _points(places[apart], start, spacing)
        distances[apart] = tree.query(points, workers=-1 if queries > _QUERIES_A_THREAD else 1)[0]
    elif queries:
        distances[:] = edt.edt(np.ascontiguousarray(~goal), anisotropy=spacing).ravel()[places]
    return distances


def _points(places: NDArray[np.intp], mask: Mask, spacing: CheckedSpacing) -> NDArray[np.float64]:
    """Flat indices as (n, d) positions in mm."""
    return positions_mm(np.stack(np.unravel_index(places, mask.shape), axis=1), spacing)


def hd95_pooled_mm(distances: SurfaceDistances) -> float:
    """95th percentile of both directions pooled into one list, in mm: the definition of medpy's `hd95`."""
    return float(np.percentile(distances.pooled, 95))


def hd95_max_directed_mm(distances: SurfaceDistances) -> float:
    """The larger of the two directions' 95th percentiles, in mm: the definition of MONAI."""
    return max(
        float(np.percentile(distances.prediction_to_reference, 95)),
        float(np.percentile(distances.reference_to_prediction, 95)),
    )


def asd_mm(distances: SurfaceDistances) -> float:
    """Mean distance from the prediction's surface to the reference's, in mm; one direction, as medpy's `asd`."""
    return float(np.mean(distances.prediction_to_reference))


def assd_mm(distances: SurfaceDistances) -> float:
    """Mean over both directions pooled into one list, in mm, so the larger surface weighs more.

    This is `assd` of medpy 0.5 and MONAI's symmetric average surface distance. medpy 0.4 and older took the mean of
    the two directed means instead.
    """
    return float(np.mean(distances.pooled))


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of the surface voxels of both masks that lie within the tolerance of the other surface, 0 to 1.

    Every surface voxel counts the same, as in MONAI. The surface-distance package weighs by area instead and comes
    out up to 0.1 higher on small round structures, so name the definition beside the figure.

    Args:
        distances: From `surface_distances`.
        tolerance_mm: Largest distance, in mm, that still counts as agreement.

    Returns:
        1 if both masks are empty, 0 if exactly one is.
    """
    if distances.one_empty:
        return 0.0
    return float(np.mean(distances.pooled <= tolerance_mm * (1 + _TOLERANCE_SLACK)))
