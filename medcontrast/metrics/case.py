"""Scores one case: every target of the label table against its reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from medcontrast.errors import InputError, VolumeError
from medcontrast.metrics.masks import CheckedSpacing, Mask, Spacing, check_shapes, checked_spacing
from medcontrast.metrics.overlap import dice, jaccard, volume_error_ml, volume_error_percent, volume_ml
from medcontrast.metrics.surface import (
    asd_mm,
    assd_mm,
    hd95_max_directed_mm,
    hd95_pooled_mm,
    surface_dice,
    surface_distances,
)


@dataclass(frozen=True)
class TargetScore:
    """How one target of one case was segmented. Units stand in the names; every number is finite.

    Attributes:
        target: Name of the label or region.
        dice: 0 to 1.
        jaccard: 0 to 1.
        hd95_pooled_mm: 95th percentile of both directions pooled (medpy).
        hd95_max_directed_mm: Larger of the two directed 95th percentiles (MONAI).
        asd_mm: Mean distance, prediction to reference.
        assd_mm: Mean distance over both directions pooled.
        surface_dice: Share of surface voxels within `tolerance_mm`.
        tolerance_mm: Tolerance of `surface_dice`.
        volume_ml_prediction: Predicted volume.
        volume_ml_reference: Reference volume.
        volume_error_ml: Prediction minus reference.
        volume_error_percent: The same in percent of the reference.
        missed: The reference holds the target and the prediction is empty.
        invented: The prediction holds the target and the reference is empty.
        hd95_pooled_voxel: As `hd95_pooled_mm` with a spacing of 1, or None where not asked for; so are the others.
        hd95_max_directed_voxel: See above.
        asd_voxel: See above.
        assd_voxel: See above.
    """

    target: str
    dice: float
    jaccard: float
    hd95_pooled_mm: float
    hd95_max_directed_mm: float
    asd_mm: float
    assd_mm: float
    surface_dice: float
    tolerance_mm: float
    volume_ml_prediction: float
    volume_ml_reference: float
    volume_error_ml: float
    volume_error_percent: float
    missed: bool
    invented: bool
    hd95_pooled_voxel: float | None = None
    hd95_max_directed_voxel: float | None = None
    asd_voxel: float | None = None
    assd_voxel: float | None = None


def score_case(
    prediction: NDArray[np.generic],
    reference: NDArray[np.generic],
    *,
    targets: Mapping[str, tuple[int, ...]],
    spacing_mm: Spacing,
    tolerance_mm: float,
    ignore_value: int | None = None,
    voxels: bool = False,
) -> list[TargetScore]:
    """Scores every target of one case.

    Args:
        prediction: Label map (x, y) or (x, y, z) in the values of the label file.
        reference: Label map of the same shape.
        targets: Name -> label values that make it up; `LabelTable.targets` is one.
        spacing_mm: Distance between voxel centres along each axis, in mm; of sheared axes (d, d), their steps.
        tolerance_mm: Tolerance of the surface Dice, in mm.
        ignore_value: Reference value of voxels that are taken out of both maps before anything.
        voxels: Also give the distances in voxels.

    Returns:
        One score for each target, in the order of `targets`.

    Raises:
        VolumeError: The shapes differ, a map does not hold whole numbers, or the spacing does not fit.
        InputError: The tolerance is not a positive number.
    """
    if not (math.isfinite(tolerance_mm) and tolerance_mm > 0):
        raise InputError(f"The tolerance of the surface Dice is a positive number of mm, but got {tolerance_mm}.")
    prediction, reference = _label_map(prediction, "prediction"), _label_map(reference, "reference")
    check_shapes("prediction", prediction, reference)
    spacing = checked_spacing(spacing_mm, reference.ndim)
    boxes = _boxes((prediction, reference), targets)
    scores = []
    for name, box in boxes.items():
        masks = _masks(prediction[box], reference[box], targets[name], ignore_value)
        scores.append(_score(name, masks, spacing, tolerance_mm, voxels, reference.shape))
    return scores


def _label_map(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    array = np.asarray(array)
    if array.dtype.kind not in "biu":
        raise VolumeError(f"Expected the {name} as a label map of whole numbers, but its type is {array.dtype}.")
    return array


def _boxes(
    label_maps: Sequence[NDArray[np.generic]], targets: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[slice, ...]]:
    """For each target a box that holds every voxel of it in both maps: a target is small beside its scan."""
    highest = max(max(values, default=0) for values in targets.values()) if targets else 0
    found = [find_objects(label_map, max_label=highest) if highest > 0 else [] for label_map in label_maps]
    boxes = {}
    for name, values in targets.items():
        if min(values, default=1) < 1:  # of background, and of negative values, no boxes are found
            boxes[name] = tuple(slice(0, size) for size in label_maps[0].shape)
            continue
        parts = [part for of_map in found for value in values if (part := of_map[value - 1]) is not None]
        sides = zip(*parts, strict=True) if parts else [(slice(0, 0),)] * label_maps[0].ndim
        boxes[name] = tuple(slice(min(s.start for s in side), max(s.stop for s in side)) for side in sides)
    return boxes


def _masks(
    prediction: NDArray[np.generic], reference: NDArray[np.generic], values: tuple[int, ...], ignore_value: int | None
) -> tuple[Mask, Mask]:
    masks = _mask(prediction, values), _mask(reference, values)
    if ignore_value is None:
        return masks
    kept = reference != ignore_value
    return masks[0] & kept, masks[1] & kept


def _mask(label_map: NDArray[np.generic], values: tuple[int, ...]) -> Mask:
    mask = np.zeros(label_map.shape, bool)
    for value in values:
        mask |= label_map == value
    return mask


def _score(
    name: str,
    masks: tuple[Mask, Mask],
    spacing: CheckedSpacing,
    tolerance_mm: float,
    voxels: bool,
    image_shape: tuple[int, ...],
) -> TargetScore:
    prediction, reference = masks
    distances = surface_distances(prediction, reference, spacing, image_shape=image_shape)
    predicted_ml, reference_ml = volume_ml(prediction, spacing), volume_ml(reference, spacing)
    return TargetScore(
        target=name,
        dice=dice(prediction, reference),
        jaccard=jaccard(prediction, reference),
        hd95_pooled_mm=hd95_pooled_mm(distances),
        hd95_max_directed_mm=hd95_max_directed_mm(distances),
        asd_mm=asd_mm(distances),
        assd_mm=assd_mm(distances),
        surface_dice=surface_dice(distances, tolerance_mm),
        tolerance_mm=float(tolerance_mm),
        volume_ml_prediction=predicted_ml,
        volume_ml_reference=reference_ml,
        volume_error_ml=volume_error_ml(predicted_ml, reference_ml),
        volume_error_percent=volume_error_percent(predicted_ml, reference_ml),
        missed=reference_ml > 0 and predicted_ml == 0,
        invented=reference_ml == 0 and predicted_ml > 0,
        **(_voxel_distances(prediction, reference, image_shape) if voxels else {}),
    )


def _voxel_distances(prediction: Mask, reference: Mask, image_shape: tuple[int, ...]) -> dict[str, float]:
    # The functions are named for mm; with a spacing of 1 the same figures are in voxels.
    distances = surface_distances(prediction, reference, (1.0,) * reference.ndim, image_shape=image_shape)
    return {
        "hd95_pooled_voxel": hd95_pooled_mm(distances),
        "hd95_max_directed_voxel": hd95_max_directed_mm(distances),
        "asd_voxel": asd_mm(distances),
        "assd_voxel": assd_mm(distances),
    }
