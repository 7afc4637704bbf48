"""HD95 (both), ASD, ASSD and surface Dice of the left-atrium masks, beside medpy, MONAI and surface-distance.

    python benchmarks/surface_metrics.py          # $MEDCONTRAST_DATA/la2018/train; --cases N for a part

Each mask is scored against a copy whose surface was moved by smooth noise. All sides see the same pair, one after the
other, and get what they need for the same figures; medians over cases. Figures are compared where definitions coincide.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from medpy.metric import binary
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage
from speed_record import write_record
from surface_distance import metrics as deepmind

from medcontrast.metrics.surface import (
    asd_mm,
    assd_mm,
    hd95_max_directed_mm,
    hd95_pooled_mm,
    surface_dice,
    surface_distances,
)

TOLERANCE_MM = 1.0
EQUAL_TO = 1e-6
Figures = dict[str, float]


def moved(mask: np.ndarray, seed: int) -> np.ndarray:
    """The mask with its surface moved by smooth noise of 1.5 voxels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=mask.shape), 4)
    inside = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return inside + 1.5 * noise / noise.std() > 0


def ours(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> Figures:
    """Everything from one pass."""
    distances = surface_distances(prediction, reference, spacing)
    return {
        "hd95_pooled": hd95_pooled_mm(distances),
        "hd95_max_directed": hd95_max_directed_mm(distances),
        "asd": asd_mm(distances),
        "assd": assd_mm(distances),
        "surface_dice": surface_dice(distances, TOLERANCE_MM),
    }


def medpy(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> Figures:
    """hd95 and asd, as the left-atrium papers call them."""
    return {
        "hd95_pooled": float(binary.hd95(prediction, reference, spacing)),
        "asd": float(binary.asd(prediction, reference, spacing)),
    }


def monai(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> Figures:
    """HD95 and the average surface distance; tensors are made outside the clock."""
    predicted, true = (torch.from_numpy(mask[None, None]) for mask in (prediction, reference))
    options: dict[str, Any] = {"include_background": True, "spacing": spacing}
    return {
        "hd95_max_directed": float(compute_hausdorff_distance(predicted, true, percentile=95, **options)),
        "asd": float(compute_average_surface_distance(predicted, true, **options)),
    }


def surface_distance(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> Figures:
    """Weighs by surface area between voxels, so that its figures differ by definition."""
    distances = deepmind.compute_surface_distances(reference, prediction, spacing)
    return {
        "hd95, area-weighted": deepmind.compute_robust_hausdorff(distances, 95),
        "asd, area-weighted": deepmind.compute_average_surface_distance(distances)[1],
        "surface Dice, area-weighted": deepmind.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM),
    }


SIDES: dict[str, Callable[..., Figures]] = {
    "ours": ours,
    "medpy (hd95 + asd)": medpy,
    "MONAI (hd95 + asd)": monai,
    "surface-distance (hd95 + asd + surface Dice)": surface_distance,
}


def main() -> None:
    """Times all sides on all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEDCONTRAST_DATA", "data")))
    parser.add_argument("--cases", type=int, default=80)
    parser.add_argument("--quick", action="store_true", help="Two cases; nothing is recorded.")
    arguments = parser.parse_args()
    files = sorted((arguments.data / "la2018/train").glob("*/label.nii.gz"))[
        : 2 if arguments.quick else arguments.cases
    ]
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    largest: dict[str, float] = dict.fromkeys(SIDES, 0.0)
    for number, file in enumerate(files):
        image = nibabel.load(file)
        spacing = tuple(float(step) for step in image.header.get_zooms()[:3])
        reference = np.ascontiguousarray(np.asarray(image.dataobj) > 0)
        prediction = np.ascontiguousarray(moved(reference, number))
        found: dict[str, Figures] = {}
        for name, side in SIDES.items():
            began = time.perf_counter()
            found[name] = side(prediction, reference, spacing)
            seconds[name].append(time.perf_counter() - began)
        for name, figures in found.items():
            for key in figures.keys() & found["ours"].keys():
                largest[name] = max(largest[name], abs(figures[key] - found["ours"][key]))
    assert all(value < EQUAL_TO for value in largest.values()), largest
    median = {name: statistics.median(values) for name, values in seconds.items()}
    others = {
        name: {"seconds": median[name], "ratio": median[name] / median["ours"], "largest_difference": largest[name]}
        for name in SIDES
        if name != "ours"
    }
    for name, row in others.items():
        print(f"{name}: {row['seconds']:.3f} s, {row['ratio']:.1f} times ours ({median['ours']:.4f} s)")
    if arguments.quick:
        return
    content = {
        "what": f"surface metrics of a left atrium, median of {len(files)}",
        "seconds": median["ours"],
        "others": others,
    }
    write_record("surface_metrics", ["numpy", "scipy", "medpy", "monai", "surface-distance", "edt"], content)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
