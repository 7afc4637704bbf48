"""Scores of a segmentation: overlap, volume, surface distances in mm, and reports over cases."""

from medcontrast.metrics.bootstrap import Interval, bootstrap_intervals
from medcontrast.metrics.case import TargetScore, score_case
from medcontrast.metrics.definitions import DEFINITIONS, EMPTY_RULE, SURFACE_RULE, Definition
from medcontrast.metrics.masks import diagonal_mm
from medcontrast.metrics.overlap import dice, jaccard, volume_error_ml, volume_error_percent, volume_ml
from medcontrast.metrics.paired import paired_differences
from medcontrast.metrics.pooling import pool_reports
from medcontrast.metrics.report import Report, TargetSummary
from medcontrast.metrics.surface import (
    SurfaceDistances,
    asd_mm,
    assd_mm,
    hd95_max_directed_mm,
    hd95_pooled_mm,
    surface_dice,
    surface_distances,
    surface_voxels,
)

__all__ = [
    "DEFINITIONS",
    "EMPTY_RULE",
    "SURFACE_RULE",
    "Definition",
    "Interval",
    "Report",
    "SurfaceDistances",
    "TargetScore",
    "TargetSummary",
    "asd_mm",
    "assd_mm",
    "bootstrap_intervals",
    "diagonal_mm",
    "dice",
    "hd95_max_directed_mm",
    "hd95_pooled_mm",
    "jaccard",
    "paired_differences",
    "pool_reports",
    "score_case",
    "surface_dice",
    "surface_distances",
    "surface_voxels",
    "volume_error_ml",
    "volume_error_percent",
    "volume_ml",
]
