"""What a checkpoint's header keeps of the scans that a network was trained on, for `infer` to hold new ones against."""

from __future__ import annotations

from typing import Any

from medcontrast.data import seen_values, voxel_sizes
from medcontrast.data.manifest import Manifest
from medcontrast.settings import Recipe


def with_scan_facts(header: dict[str, Any], manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
    """The header of a checkpoint, and what one of before does not say of its scans; they are read where it lacks any.

    Raises:
        VolumeError: As `scan_facts`.
    """
    wanted = {"trained_on", voxel_sizes.HEADER_KEY}
    wanted |= {seen_values.HEADER_KEY} if seen_values.units_count(recipe.data.intensity) else set()
    said = {name: kept for name, kept in header.items() if name != voxel_sizes.HEADER_KEY or "extent" in kept}
    return header if wanted <= said.keys() else {**scan_facts(manifest, recipe), **said}


def scan_facts(manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
    """Entries of a header: names of the training scans, their voxel sizes, and values of labeled ones unless z-scored.

    Raises:
        VolumeError: A scan is missing, or cannot be used.
    """
    labeled, unlabeled = manifest.labeled, manifest.unlabeled if recipe.train.unlabeled_rows else ()
    facts: dict[str, Any] = {
        "trained_on": {
            "labeled": [case.name for case in labeled],
            "unlabeled": [case.name for case in unlabeled],
        },
        voxel_sizes.HEADER_KEY: voxel_sizes.VoxelSizes.of((*labeled, *unlabeled)).to_json(),
    }
    values = seen_values.SeenValues.of(labeled, recipe.data.intensity)
    return facts if values is None else {**facts, seen_values.HEADER_KEY: values.to_json()}
