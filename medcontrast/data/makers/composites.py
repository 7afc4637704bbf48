"""Composite images: two objects of different classes on one canvas, so that a crop may miss one of them.

Letters: n images, c channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.images.images import Images
from medcontrast.data.images.manifest import CONTAINS, ImageManifest, require_apart
from medcontrast.data.images.sources import ImageCase
from medcontrast.data.images.tables import derived_tree, require_new_set, write_set
from medcontrast.errors import InputError
from medcontrast.transforms.draws import row_generator

GREY = 128
"""Of the canvas where no object lies."""


def write_composites(
    manifest: ImageManifest,
    folder: Path,
    *,
    canvas: int,
    side: int,
    channels: int,
    seed: int,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda split: None,
) -> Path:
    """Writes folder/composites.npz and folder/manifest.json; an image's target is a pair of classes and contains both.

    Every split has as many composites as images, counterfactuals aside. Each holds two images of its split and of
    different classes, reduced to `side` pixels, one in each half of the canvas (left and right, or top and bottom, by
    chance), anywhere in it. A composite's patient is that of the image that it is led by, where patients are known; its
    partner may be of another one.

    Args:
        manifest: Of single objects, every one with a target.
        folder: Made where it is not there.
        canvas: Side of a composite in pixels.
        side: Of an object in it; at most half the canvas.
        channels: 1 or 3.
        seed: Decides pairs and places.
        overwrite: Whether files that are there are replaced.
        tell: Called with every split's name.

    Returns:
        The manifest.

    Raises:
        InputError: Objects that do not fit, an image without a target, fewer than three classes, or a split of one.
        ManifestError: Splits that share an image or a patient, which composites would no longer show.
        OutputError: The files exist, or cannot be written.
    """
    if not 1 <= side <= canvas // 2:
        raise InputError(f"--side {side}: an object takes at most half the canvas, {canvas // 2} pixels.")
    path, arrays = folder / "manifest.json", folder / "composites.npz"
    require_new_set(manifest, path, arrays, overwrite=overwrite)
    require_apart(manifest)
    pairs = list(combinations(range(len(manifest.classes)), 2))
    if len(pairs) < 2:
        raise InputError(
            f"{manifest.path}: has {len(manifest.classes)} classes, which make one pair at most; it takes 3."
        )
    found: dict[str, Any] = {}
    description = f"two objects of {side} pixels on a canvas of {canvas}; the target is the pair of classes"
    tree = derived_tree(manifest, "pairs", description)
    tree["classes"] = [f"{manifest.classes[a]} and {manifest.classes[b]}" for a, b in pairs]
    held = [manifest.contains.get(name, (name,)) for name in manifest.classes]
    both = [list(dict.fromkeys([*held[a], *held[b]])) for a, b in pairs]
    tree[CONTAINS] = dict(zip(tree["classes"], both, strict=True))
    for split in manifest.splits():
        tell(split)
        cases = manifest.originals(split)
        images, targets = _composites(manifest, cases, pairs, canvas, side, channels, seed, split)
        found |= {f"{split}_images": images, f"{split}_pairs": np.array(tree["classes"])[targets]}
        source = {"npz": arrays.name, "images": f"{split}_images", "target": f"{split}_pairs"}
        if any(case.patient for case in cases):
            found[f"{split}_patients"] = np.array([case.patient or case.name for case in cases])
            source["patient"] = f"{split}_patients"
        tree[split] = [source]
    write_set(path, arrays, tree, found)
    return path


def _composites(
    manifest: ImageManifest,
    cases: Sequence[ImageCase],
    pairs: Sequence[tuple[int, int]],
    canvas: int,
    side: int,
    channels: int,
    seed: int,
    split: str,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(n, canvas, canvas, c) and (n,) pairs; image i holds case i and a partner."""
    targets = np.array([-1 if case.target is None else case.target for case in cases])
    if (targets < 0).any():
        name = cases[int(np.flatnonzero(targets < 0)[0])].name
        raise InputError(f"{manifest.path}: image {name} of {split} has no target; composites need one of every image.")
    if len(np.unique(targets)) < 2:
        raise InputError(f"{manifest.path}: {split} holds one class alone; a composite shows two.")
    objects = Images(cases, channels=channels, size=side)
    numbers = {pair: number for number, pair in enumerate(pairs)}
    out = np.full((len(cases), canvas, canvas, channels), GREY, dtype=np.uint8)
    chosen = np.empty(len(cases), dtype=np.int64)
    for index in range(len(cases)):
        draw = row_generator(seed, 0, index, f"composite {split}")
        others = np.flatnonzero(targets != targets[index])
        partner = int(others[draw.integers(len(others))])
        places = _places(canvas, side, draw)
        for place, number in zip(places, (index, partner), strict=True):
            top, left = place
            out[index, top : top + side, left : left + side] = objects[number].transpose(1, 2, 0)
        low, high = sorted((int(targets[index]), int(targets[partner])))
        chosen[index] = numbers[low, high]
    return out, chosen


def _places(canvas: int, side: int, draw: np.random.Generator) -> list[tuple[int, int]]:
    """Upper left corners of two objects, one in each half, which half being the first's by chance."""
    half = canvas // 2
    along = [int(draw.integers(half - side + 1)), half + int(draw.integers(canvas - half - side + 1))]
    across = [int(value) for value in draw.integers(canvas - side + 1, size=2)]
    places = list(zip(along, across, strict=True))
    if draw.random() < 0.5:
        places = [(second, first) for first, second in places]
    return places[::-1] if draw.random() < 0.5 else places
