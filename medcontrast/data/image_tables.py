"""Writing images with all that is known of them: arrays of one .npz file, and the source of a manifest that reads them.

Letters: n images, c channels, x, y pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.image_sources import ImageCase

_COLUMNS = ("target", "domain", "quality", "patient", "text", "of")


def image_table(
    file: str, prefix: str, images: NDArray[np.uint8], cases: Sequence[ImageCase]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays by name, and the source of a manifest; what is known of no image is left out.

    Args:
        file: The .npz file, as the manifest will name it.
        prefix: Of the arrays' names.
        images: (n, c, x, y) bytes.
        cases: What is known of each.
    """
    arrays: dict[str, NDArray[Any]] = {f"{prefix}_images": np.ascontiguousarray(images.transpose(0, 2, 3, 1))}
    source: dict[str, Any] = {"npz": file, "images": f"{prefix}_images"}
    for column in _COLUMNS:
        values = [getattr(case, column) for case in cases]
        if any(value is not None for value in values):
            # a manifest takes an empty word for a value that is not known
            whole = column == "target" and None not in values
            arrays[f"{prefix}_{column}"] = np.array(values if whole else ["" if v is None else str(v) for v in values])
            source[column] = f"{prefix}_{column}"
    # an attribute that some images lack has no number to stand for it
    shared = [name for name in cases[0].attributes if all(name in case.attributes for case in cases)]
    for name in shared:
        arrays[f"{prefix}_{name}"] = np.array([case.attributes[name] for case in cases])
    if shared:
        source["attributes"] = {name: f"{prefix}_{name}" for name in shared}
    return arrays, source
