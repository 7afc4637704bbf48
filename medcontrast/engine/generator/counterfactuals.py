"""Counterfactuals of a manifest's training images: an .npz file of them, and a manifest that names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcontrast.data.images.images import Images
from medcontrast.data.images.manifest import BOXES, ImageManifest
from medcontrast.data.images.sources import ImageCase, without_counterfactuals
from medcontrast.data.images.tables import image_table, require_new_set, write_set
from medcontrast.engine.generator.generator import Action, Generator
from medcontrast.errors import InputError
from medcontrast.files import relative_name

ROWS = 128
"""Images in one forward pass."""
FILES = ("counterfactuals.npz", "manifest.json")


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        manifest: The manifest.
        images: Training images.
        by_domain: Counterfactuals of each domain.
    """

    manifest: Path
    images: int
    by_domain: dict[str, int]


def write_counterfactuals(
    generator: Generator,
    manifest: ImageManifest,
    folder: Path,
    wanted: Sequence[Action],
    *,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda name: None,
) -> Written:
    """Writes FILES: the manifest's own sources, and behind the training images their counterfactuals, with `of`.

    Only training images get any: images that encoders are judged by must not be learned from in another guise.
    An intervention that leaves an image's parents as they are gives none. Values are rounded to 8 bits, as those of the
    images are.

    Args:
        generator: Makes them.
        manifest: Of the images; its counterfactuals, where it has any, are left out.
        folder: Made where it is not there.
        wanted: Interventions; each gives an image at most one counterfactual.
        overwrite: Whether files that are there are replaced.
        tell: Called with the first image's name of every pass.

    Raises:
        InputError: An image lacks a parent, or the interventions change no image.
        OutputError: The files exist, are those of the manifest itself, or cannot be written.
    """
    require_new_set(manifest, folder / FILES[1], folder / FILES[0], overwrite=overwrite)
    cases = manifest.originals("train")
    numbers = generator.numbers(cases, manifest.classes, where=f"{manifest.path}: train")
    data = generator.recipe.data
    images = Images(cases, channels=data.channels, size=data.size)
    made: list[NDArray[np.uint8]] = []
    known: list[ImageCase] = []
    for start in range(0, len(cases), ROWS):
        places = range(start, min(start + ROWS, len(cases)))
        tell(cases[start].name)
        part, own = images.load(places), numbers[start : places.stop]
        for action in wanted:
            changed = action.on_numbers(generator, own)
            rows = (changed != own).any(dim=1).nonzero()[:, 0]
            if len(rows):
                found = generator.counterfactual(part[rows], own[rows], changed[rows])
                made.append((found * 255.0).round().to(torch.uint8).numpy())
                of = [images.case_on_grid(start + row) for row in rows.tolist()]
                known += [replace(case, of=case.name, **action.on_facts(case, manifest.classes)) for case in of]
    if not known:
        raise InputError(f"{manifest.path}: the intervention leaves every training image as it is; name another value.")
    file = relative_name((folder / FILES[0]).resolve(), manifest.root.resolve())
    arrays, source = image_table(file, "train", np.concatenate(made), known, manifest.classes)
    tree = _tree(manifest, folder, source, generator)
    write_set(folder / FILES[1], folder / FILES[0], tree, arrays)
    counts = Counter(case.domain or "(none)" for case in known)
    return Written(folder / FILES[1], len(cases), dict(sorted(counts.items())))


def _tree(manifest: ImageManifest, folder: Path, source: dict[str, Any], generator: Generator) -> dict[str, Any]:
    """The manifest with one more training source; its paths still start from the images' own folder."""
    tree = dict(manifest.raw)
    tree["name"] = f"{manifest.name}_counterfactuals"
    tree["root"] = relative_name(manifest.root.resolve(), folder.resolve())
    tree["train"] = [*_originals(manifest), source]
    if BOXES in tree:
        gone = {case.name for case in manifest.cases("train") if case.of is not None}
        tree[BOXES] = {name: boxes for name, boxes in tree[BOXES].items() if name not in gone}
    made_by = f"counterfactuals by {generator.file.absolute().parent.name}/{generator.file.name}, step {generator.step}"
    tree["description"] = "; ".join(part for part in (tree.get("description"), made_by) if part)
    return tree


def _originals(manifest: ImageManifest) -> list[dict[str, Any]]:
    """The training sources without their counterfactuals, which the rows of a table may be too."""
    where = f"{manifest.path}: train"
    sources = [
        without_counterfactuals(source, manifest.root, manifest.classes, where=f"{where}[{number}]")
        for number, source in enumerate(manifest.sources["train"])
    ]
    return [source for source in sources if source is not None]
