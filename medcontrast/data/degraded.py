"""A data set whose test images stand twice: as they are, and degraded; a probe then tells what degradation costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcontrast.data.image_manifest import KIND, ImageManifest
from medcontrast.data.image_sources import ImageCase
from medcontrast.data.images import Images
from medcontrast.data.listing import refuse_existing
from medcontrast.errors import InputError
from medcontrast.files import write_atomically, write_text
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

    Training and validation images are written as they are; each test image is there a second time, degraded by draws
    of its place in the split.

    Args:
        manifest: Of images, every one with a target.
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
        OutputError: The files exist, or cannot be written.
    """
    path, file = folder / "manifest.json", folder / "images.npz"
    for made in (path, file):
        refuse_existing(made, overwrite=overwrite)
    if not manifest.sources[_TWICE]:
        raise InputError(f"{manifest.path}: has no {_TWICE} images to degrade.")
    arrays: dict[str, Any] = {}
    tree: dict[str, Any] = {
        "kind": KIND,
        "name": f"{manifest.name}_degraded",
        "description": f"test images as they are and degraded ({settings.kind}, severity {settings.severity:g})",
        "source": manifest.raw.get("source", ""),
        "licence": manifest.raw.get("licence", ""),
        "root": ".",
        "classes": list(manifest.classes),
    }
    for split in manifest.splits():
        tell(split)
        cases = manifest.cases(split)
        images = Images(cases, channels=channels, size=size)
        arrays[f"{split}_targets"] = _targets(manifest, split, cases)
        arrays[f"{split}_high"] = _last_channel(np.stack([images[index] for index in range(len(images))]))
        tree[split] = [_source(file, split, "high")]
        if split == _TWICE:
            arrays[f"{split}_low"] = _last_channel(_worse(images, settings, seed))
            tree[split].append(_source(file, split, "low"))
    write_atomically(file, lambda stream: np.savez_compressed(stream, **arrays))
    write_text(path, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    return path


def _source(file: Path, split: str, quality: str) -> dict[str, str]:
    return {"npz": file.name, "images": f"{split}_{quality}", "target": f"{split}_targets", "quality": quality}


def _targets(manifest: ImageManifest, split: str, cases: tuple[ImageCase, ...]) -> NDArray[np.int64]:
    without = [case.name for case in cases if case.target is None]
    if without:
        raise InputError(f"{manifest.path}: image {without[0]} of {split} has no target, which a probe needs.")
    return np.array([case.target for case in cases], dtype=np.int64)


def _worse(images: Images, settings: FundusDegradeSettings | XrayDegradeSettings, seed: int) -> NDArray[np.uint8]:
    parts = []
    for start in range(0, len(images), _ROWS):
        rows = range(start, min(start + _ROWS, len(images)))
        worse = degrade(images.load(rows), settings, seed=seed, step=0, rows=rows)
        parts.append((worse * 255.0).round().to(torch.uint8).numpy())
    return np.concatenate(parts)


def _last_channel(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, c, x, y) as (n, x, y, c)."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
