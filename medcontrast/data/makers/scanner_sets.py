"""A data set seen by five simulated scanners: training images by one of them, all others by each.

What another scanner would have made of an image is known here, which makes such a set the test of counterfactuals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.images.images import Images
from medcontrast.data.images.manifest import ImageManifest, require_apart
from medcontrast.data.images.sources import ImageCase
from medcontrast.data.images.tables import derived_tree, image_table, require_new_set, write_set
from medcontrast.errors import InputError
from medcontrast.transforms.scanners import SCANNERS, SHARES, draw_scanners, render_by_scanner


def write_scanners(
    manifest: ImageManifest,
    folder: Path,
    *,
    size: int,
    shares: Sequence[float] = SHARES,
    exact: bool = False,
    seed: int,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda split: None,
) -> Path:
    """Writes folder/images.npz and folder/manifest.json; the domain of an image is its scanner.

    Target and attributes stay; `patient` is the image that a rendering came from (or that image's patient), so that no
    image can stand in two splits under two scanners.

    Args:
        manifest: Of clean images with a training split; grey is taken of colour.
        folder: Made where it is not there.
        size: Side of the images in pixels.
        shares: How often each of SCANNERS stands in the training split.
        exact: Whether each training image is also written as every other scanner sees it, as its counterfactual.
        seed: Of the order of scanners and of their noise.
        overwrite: Whether files that are there are replaced.
        tell: Called with every split's name.

    Returns:
        The manifest.

    Raises:
        InputError: No training images, or shares that are none.
        ManifestError: Splits that share an image or a patient, which the new set would no longer show.
        OutputError: The files exist, or cannot be written.
    """
    path, file = folder / "manifest.json", folder / "images.npz"
    require_new_set(manifest, path, file, overwrite=overwrite)
    if not manifest.sources["train"]:
        raise InputError(f"{manifest.path}: has no train images to draw scanners for.")
    require_apart(manifest)
    arrays: dict[str, Any] = {}
    description = f"seen by the simulated scanners {', '.join(SCANNERS)}; training images by one of them each"
    tree = derived_tree(manifest, "scanners", description)
    first = 0
    for split in manifest.splits():
        tell(split)
        cases = [replace(case, patient=case.patient or case.name) for case in manifest.originals(split)]
        clean = Images(cases, channels=1, size=size)
        if split == "train":
            drawn = draw_scanners(len(cases), seed=seed, shares=shares)
            parts = {"train": [(number, scanner) for number, scanner in enumerate(drawn)]}
            if exact:
                parts["exact"] = [
                    (number, other) for number, scanner in enumerate(drawn) for other in SCANNERS if other != scanner
                ]
        else:
            parts = {split: [(number, scanner) for number in range(len(cases)) for scanner in SCANNERS]}
        tree[split] = []
        for part, pairs in parts.items():
            images, known = _rendered(clean, pairs, seed=seed, first=first)
            if part == "exact":
                of = [f"{file.name}#train_images[{number}]" for number, _ in pairs]
                known = [replace(case, of=name) for case, name in zip(known, of, strict=True)]
            new, source = image_table(file.name, part, images, known, manifest.classes)
            arrays |= new
            tree[split].append(source)
        first += len(cases)
    write_set(path, file, tree, arrays)
    return path


def _rendered(
    clean: Images, pairs: Sequence[tuple[int, str]], *, seed: int, first: int
) -> tuple[NDArray[np.uint8], list[ImageCase]]:
    """(n, 1, size, size) of each (image, scanner), and what is known of them; images are numbered from `first`."""
    out = np.empty((len(pairs), 1, clean.size, clean.size), np.uint8)
    for place, (number, scanner) in enumerate(pairs):
        seen = render_by_scanner(clean[number][0] / 255.0, scanner, seed=seed, number=first + number)
        out[place, 0] = np.rint(seen * 255.0)
    return out, [replace(clean.case_on_grid(number), domain=scanner, of=None) for number, scanner in pairs]
