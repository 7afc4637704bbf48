"""Images moved by whole pixels.

Letters: b rows, c channels, x, y pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def shifted(image: Tensor, share: float, generators: Sequence[np.random.Generator]) -> Tensor:
    """Each row moved along both axes by up to a share of the side; the edge's pixels fill what is uncovered.

    Args:
        image: (b, c, x, y).
        share: Of each side, from 0 to below 1; the largest move, rounded to whole pixels. 0 leaves the images as
            they are.
        generators: One for each row.

    Returns:
        (b, c, x, y), on the image's device.
    """
    sides = image.shape[2:]
    most = [round(share * side) for side in sides]
    padded = functional.pad(image, (most[1], most[1], most[0], most[0]), mode="replicate")
    rows = []
    for row, generator in zip(padded, generators, strict=True):
        x, y = (int(generator.integers(0, 2 * limit + 1)) for limit in most)
        rows.append(row[:, x : x + sides[0], y : y + sides[1]])
    return torch.stack(rows)
