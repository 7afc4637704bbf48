"""Writing images with all that is known of them: arrays of one .npz file, and the source of a manifest that reads them.

Letters: n images, c channels, x, y pixels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.images.lesion_boxes import boxes_text
from medcontrast.data.images.manifest import CONTAINS, ImageManifest
from medcontrast.data.images.sources import COLUMNS, ImageCase
from medcontrast.data.manifest import KIND
from medcontrast.errors import OutputError
from medcontrast.files import require_free, write_atomically, write_text


def derived_tree(manifest: ImageManifest, suffix: str, description: str) -> dict[str, Any]:
    """The head of a manifest of images made from another's; its splits are still to be filled.

    Args:
        manifest: The other; source, licence, classes and what they contain are taken over.
        suffix: Behind its name.
        description: Of what was made.
    """
    tree = {
        "kind": KIND,
        "name": f"{manifest.name}_{suffix}",
        "description": description,
        "source": manifest.raw.get("source", ""),
        "licence": manifest.raw.get("licence", ""),
        "root": ".",
        "classes": list(manifest.classes),
    }
    if manifest.contains:
        tree[CONTAINS] = {name: list(labels) for name, labels in manifest.contains.items()}
    return tree


def require_new_set(manifest: ImageManifest, path: Path, file: Path, *, overwrite: bool) -> None:
    """Refuses to write a set over what it is made from, and without `overwrite` over any file.

    Args:
        manifest: Of the images that it is made from.
        path: Of its own manifest.
        file: Of its arrays.
        overwrite: Whether files that are there are replaced.

    Raises:
        OutputError: Naming the file.
    """
    require_free(path, file, overwrite=overwrite)
    taken = {each.resolve() for each in (path, file) if each.exists()}
    if not taken:
        return
    files = {case.file for split in manifest.splits() for case in manifest.cases(split)}
    for each in (manifest.path, *sorted(files)):
        if each.resolve() in taken:
            raise OutputError(
                f"{each}: the new set is made from this file, and would replace it; name another with -o."
            )


def write_set(path: Path, file: Path, tree: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Writes the arrays, then the manifest that names them.

    Raises:
        OutputError: A file cannot be written.
    """
    write_atomically(file, lambda stream: np.savez_compressed(stream, **arrays))
    write_text(path, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")


def image_table(
    file: str, prefix: str, images: NDArray[np.uint8], cases: Sequence[ImageCase], classes: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays by name, and the source of a manifest; what is known of no image is left out.

    Args:
        file: The .npz file, as the manifest will name it.
        prefix: Of the arrays' names.
        images: (n, c, x, y) bytes.
        cases: What is known of each; lesion boxes in pixels of these images.
        classes: Names of the targets, which stand in the table.
    """
    arrays: dict[str, NDArray[Any]] = {f"{prefix}_images": np.ascontiguousarray(images.transpose(0, 2, 3, 1))}
    source: dict[str, Any] = {"npz": file, "images": f"{prefix}_images"}
    for column in COLUMNS:
        values = [getattr(case, column) for case in cases]
        if any(value is not None for value in values):
            words = [value if value is None or column != "target" else classes[value] for value in values]
            # a manifest takes an empty word for a value that is not known
            arrays[f"{prefix}_{column}"] = np.array(["" if word is None else str(word) for word in words])
            source[column] = f"{prefix}_{column}"
    if any(case.lesion_boxes for case in cases):
        arrays[f"{prefix}_lesion_boxes"] = np.array([boxes_text(case.lesion_boxes) for case in cases])
        source["lesion_boxes"] = f"{prefix}_lesion_boxes"
    attributes = list(dict.fromkeys(name for case in cases for name in case.attributes))
    for name in attributes:
        # a manifest takes NaN for a number that is not known
        arrays[f"{prefix}_attribute_{name}"] = np.array([case.attributes.get(name, np.nan) for case in cases])
    if attributes:
        source["attributes"] = {name: f"{prefix}_attribute_{name}" for name in attributes}
    return arrays, source
