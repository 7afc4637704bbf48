"""Overlap and volume of two masks: Dice, Jaccard, volume error in ml and in percent.

Empty masks: both empty counts as agreement (Dice 1, Jaccard 1, volume error 0); exactly one empty scores 0.
"""

from __future__ import annotations

import numpy as np

from medcontrast.metrics.masks import Mask, Spacing, checked_masks, checked_spacing, voxel_mm3


def dice(prediction: Mask, reference: Mask) -> float:
    """Twice the overlap over the sum of both sizes, 0 to 1.

    Args:
        prediction: (x, y) or (x, y, z).
        reference: Same shape.

    Returns:
        1 if both masks are empty, 0 if exactly one is.

    Raises:
        VolumeError: The shapes differ.
    """
    prediction, reference = checked_masks(prediction, reference)
    total = _count(prediction) + _count(reference)
    return 2 * _count(prediction & reference) / total if total else 1.0


def jaccard(prediction: Mask, reference: Mask) -> float:
    """Intersection over union, 0 to 1.

    Args:
        prediction: (x, y) or (x, y, z).
        reference: Same shape.

    Returns:
        1 if both masks are empty, 0 if exactly one is.

    Raises:
        VolumeError: The shapes differ.
    """
    prediction, reference = checked_masks(prediction, reference)
    union = _count(prediction | reference)
    return _count(prediction & reference) / union if union else 1.0


def volume_ml(mask: Mask, spacing_mm: Spacing) -> float:
    """Volume of a mask in ml (1000 mm^3); a 2D mask counts as 1 mm thick.

    Raises:
        VolumeError: The spacing does not fit the mask.
    """
    return _count(np.asarray(mask)) * voxel_mm3(checked_spacing(spacing_mm, np.ndim(mask))) / 1000


def volume_error_ml(prediction_ml: float, reference_ml: float) -> float:
    """Signed volume error in ml: prediction minus reference, so positive means too large."""
    return prediction_ml - reference_ml


def volume_error_percent(prediction_ml: float, reference_ml: float) -> float:
    """Signed volume error in percent of the reference volume.

    An empty reference has no such percentage: it counts as +100 where something was predicted (the mirror of a
    miss, which is -100) and as 0 where nothing was, so that no case drops out of a mean.
    """
    if reference_ml == 0:
        return 100.0 if prediction_ml > 0 else 0.0
    return 100 * (prediction_ml - reference_ml) / reference_ml


def _count(mask: Mask) -> int:
    # A Python int, so that figures stay plain floats, which JSON takes.
    return int(np.count_nonzero(mask))
