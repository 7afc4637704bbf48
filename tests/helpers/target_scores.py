"""Scores of a target whose other figures follow from its Dice, for tests of what is made of scores."""

from __future__ import annotations

from medcontrast.metrics import TargetScore


def score(dice: float, *, target: str = "left atrium", tolerance_mm: float = 2.0, **changes: object) -> TargetScore:
    fields = {
        "target": target,
        "dice": dice,
        "jaccard": dice / (2 - dice),
        "hd95_pooled_mm": 10 * (1 - dice),
        "hd95_max_directed_mm": 12 * (1 - dice),
        "asd_mm": 1 - dice,
        "assd_mm": 1 - dice,
        "surface_dice": dice,
        "tolerance_mm": tolerance_mm,
        "volume_ml_prediction": 50.0,
        "volume_ml_reference": 40.0,
        "volume_error_ml": 10.0,
        "volume_error_percent": 25.0,
        "missed": False,
        "invented": False,
    }
    return TargetScore(**{**fields, **changes})
