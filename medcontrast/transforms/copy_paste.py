"""Boxes that are exchanged between two batches of patches.

Letters: b rows, c channels, x, y, z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medcontrast.transforms.draws import row_generator


def paste_boxes(
    patch: Sequence[int],
    fraction: float,
    *,
    seed: int,
    step: int,
    rows: Tensor | Sequence[int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """One random axis-parallel box a row, anywhere inside the patch.

    Paper: BCP (Bai et al. 2023, Bidirectional Copy-Paste, section 3.1): a box of 2/3 of each side.
    Deviation: a box a row, where the paper's code draws one for the whole batch.

    Args:
        patch: Sides (x, y, z) in voxels.
        fraction: Side of the box as a share of the patch's side, above 0 and at most 1.
        seed: Seed of the run.
        step: Optimiser step.
        rows: (b,) global row numbers; each box depends on (seed, step, row) alone.
        device: Where the mask is made.

    Returns:
        (b, 1, x, y, z) bool, True inside the box.
    """
    numbers = [int(row) for row in rows]
    mask = torch.zeros(len(numbers), 1, *patch, dtype=torch.bool, device=device)
    sides = [min(side, max(1, round(fraction * side))) for side in patch]
    for place, row in enumerate(numbers):
        generator = row_generator(seed, step, row, "paste box")
        starts = [int(generator.integers(side - box + 1)) for side, box in zip(patch, sides, strict=True)]
        box = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        mask[(place, 0, *box)] = True
    return mask


def mix(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """Takes `inside` where the mask is True and `outside` elsewhere.

    Args:
        inside: (b, c, x, y, z), images, labels or probabilities.
        outside: The same shape and type.
        mask: (b, 1, x, y, z) bool.
    """
    return torch.where(mask, inside, outside)
