"""What each reported figure means, in words: title, unit, decimals and definition, printed under every table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """One reported figure.

    Attributes:
        title: Short name in tables.
        unit: Unit of the figure; empty for a ratio.
        decimals: Digits printed after the point.
        text: What is computed.
    """

    title: str
    unit: str
    decimals: int
    text: str


_POOLED = "95th percentile of the surface distances of both directions pooled (medpy's hd95)"
_DIRECTED = "larger of the two directions' 95th percentiles (MONAI's)"
_ASD = "mean distance from the prediction's surface to the reference's, one direction (medpy's asd)"
_SURFACE_DICE = "share of both masks' surface voxels within the tolerance, not weighed by area"
_ASSD = "mean distance over both directions pooled (assd of medpy 0.5)"

DEFINITIONS: dict[str, Definition] = {
    "dice": Definition("Dice", "", 4, "twice the overlap over the sum of both sizes"),
    "jaccard": Definition("Jaccard", "", 4, "intersection over union"),
    "surface_dice": Definition("surface Dice", "", 4, _SURFACE_DICE),
    "hd95_pooled_mm": Definition("HD95 pooled", "mm", 2, _POOLED),
    "hd95_max_directed_mm": Definition("HD95 max directed", "mm", 2, _DIRECTED),
    "asd_mm": Definition("ASD", "mm", 2, _ASD),
    "assd_mm": Definition("ASSD", "mm", 2, _ASSD),
    "volume_error_ml": Definition("volume error", "ml", 2, "prediction minus reference, signed"),
    "volume_error_percent": Definition(
        "volume error", "%", 1, "the same in percent of the reference; +100 where the reference is empty"
    ),
    "hd95_pooled_voxel": Definition("HD95 pooled", "voxel", 2, f"{_POOLED}, spacing 1"),
    "hd95_max_directed_voxel": Definition("HD95 max directed", "voxel", 2, f"{_DIRECTED}, spacing 1"),
    "asd_voxel": Definition("ASD", "voxel", 2, f"{_ASD}, spacing 1"),
    "assd_voxel": Definition("ASSD", "voxel", 2, f"{_ASSD}, spacing 1"),
}
"""Field of `TargetScore` -> its definition, in the order of the tables."""

SURFACE_RULE = (
    "Surface voxels: mask voxels with a face neighbour outside the mask; beyond the image border is outside. "
    "Distances run between voxel centres."
)
EMPTY_RULE = (
    "Empty masks: both empty counts as agreement (Dice, Jaccard and surface Dice 1, distances 0). Exactly one empty "
    "scores 0, and its distances are the image diagonal between the centres of opposite corner voxels; it is counted "
    "as missed or invented and stays in every mean."
)
