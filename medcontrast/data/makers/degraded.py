"""A data set whose test images stand twice: as they are, and degraded; a probe then tells what degradation costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcontrast.data.images.images import Images
from medcontrast.data.images.manifest import ImageManifest, require_apart
from medcontrast.data.images.sources import ImageCase
from medcontrast.data.images.tables import derived_tree, image_table, require_new_set, write_set
from medcontrast.errors import InputError
from medcontrast.settings.degrade import FundusDegradeSettings, XrayDegradeSettings
from medcontrast.transforms.degrade import degrade

_ROWS = 64
_TWICE = "test"
"""The split that stands twice."""


def write_degraded(
    manifest: ImageManifest,
    folder: Path,
    settings: FundusDegradeSettings | XrayDegradeSettings,
    *,
    size: int,
    channels: int,
    seed: int,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda split: None,
) -> Path:
    """Writes folder/images.npz and folder/manifest.json, with quality "high" and, for the degraded ones, "low".

    Training and validation images are written as they are; each test image that is not of low quality already is there
    a second time, degraded by draws of its place in the split. `patient` is the image that one came from (or that
    image's patient), so that an image and its degraded copy count as one. Counterfactuals are left out: a probe takes
    no account of them, and an encoder that learned from them on the clean set can be probed on this one.

    Args:
        manifest: Of images, every one with a target; its counterfactuals, where it has any, are left out.
        folder: Made where it is not there.
        settings: How images are degraded.
        size: Side of the images in pixels.
        channels: 1 or 3.
        seed: Of the degradation.
        overwrite: Whether files that are there are replaced.
        tell: Called with every split's name.

    Returns:
        The manifest.

    Raises:
        InputError: No test images, or an image without a target.
        ManifestError: Splits that share an image or a patient, which the new set would no longer show.
        OutputError: The files exist, or cannot be written.
    """
    path, file = folder / "manifest.json", folder / "images.npz"
    require_new_set(manifest, path, file, overwrite=overwrite)
    if not manifest.sources[_TWICE]:
        raise InputError(f"{manifest.path}: has no {_TWICE} images to degrade.")
    require_apart(manifest)
    arrays: dict[str, Any] = {}
    description = f"test images as they are and degraded ({settings.kind}, severity {settings.severity:g})"
    tree = derived_tree(manifest, "degraded", description)
    for split in manifest.splits():
        tell(split)
        cases = manifest.originals(split)
        images = Images(cases, channels=channels, size=size)
        _require_targets(manifest, split, cases)
        every = list(range(len(images)))
        parts = {"high": (every, np.stack([images[index] for index in every]))}
        # what is of low quality as it is stays so, and is not degraded further: it is no worse copy of a good image
        good = [index for index in every if cases[index].quality != "low"]
        if split == _TWICE and good:
            parts["low"] = good, _worse(images, settings, seed)[good]
        tree[split] = []
        for quality, (places, part) in parts.items():
            on_grid = [images.case_on_grid(index) for index in places]
            known = [
                replace(case, quality="low" if case.quality == "low" else quality, patient=case.patient or case.name)
                for case in on_grid
            ]
            new, source = image_table(file.name, f"{split}_{quality}", part, known, manifest.classes)
            arrays |= new
            tree[split].append(source)
    write_set(path, file, tree, arrays)
    return path


def _require_targets(manifest: ImageManifest, split: str, cases: tuple[ImageCase, ...]) -> None:
    without = [case.name for case in cases if case.target is None]
    if without:
        raise InputError(f"{manifest.path}: image {without[0]} of {split} has no target, which a probe needs.")


def _worse(images: Images, settings: FundusDegradeSettings | XrayDegradeSettings, seed: int) -> NDArray[np.uint8]:
    parts = []
    for start in range(0, len(images), _ROWS):
        rows = range(start, min(start + _ROWS, len(images)))
        worse = degrade(images.load(rows), settings, seed=seed, step=0, rows=rows)
        parts.append((worse * 255.0).round().to(torch.uint8).numpy())
    return np.concatenate(parts)
