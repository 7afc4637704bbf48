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
        x, y, z = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        mask[place, 0, x, y, z] = True
    return mask


def exchange_boxes(
    patch: Sequence[int],
    fraction: float,
    probability: float,
    *,
    seed: int,
    step: int,
    rows: Tensor | Sequence[int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Where each row takes another's voxels: inside its box, outside it, or nowhere.

    Paper: BCP (Bai et al. 2023, section 3.1): both directions of the exchange.
    Deviation: each row draws its direction, where BCP makes both from every pair; and some rows stay whole.

    Args:
        patch: Sides (x, y, z) in voxels.
        fraction: Side of the box as a share of the patch's side.
        probability: Share of rows that exchange anything.
        seed: Seed of the run.
        step: Optimiser step.
        rows: (b,) global row numbers; each mask depends on (seed, step, row) alone.
        device: Where the mask is made.

    Returns:
        (b, 1, x, y, z) bool, True where the other row's voxels go.
    """
    boxes = paste_boxes(patch, fraction, seed=seed, step=step, rows=rows, device=device)
    draws = [row_generator(seed, step, int(row), "exchange").random(2) for row in rows]
    exchanged = torch.tensor([bool(chance < probability) for chance, _ in draws], device=device)
    outside = torch.tensor([bool(side < 0.5) for _, side in draws], device=device)
    return (boxes ^ outside.view(-1, 1, 1, 1, 1)) & exchanged.view(-1, 1, 1, 1, 1)


def mix(inside: Tensor, outside: Tensor, mask: Tensor) -> Tensor:
    """Takes `inside` where the mask is True and `outside` elsewhere.

    Args:
        inside: (b, c, x, y, z), images, labels or probabilities.
        outside: The same shape and type.
        mask: (b, 1, x, y, z) bool.
    """
    return torch.where(mask, inside, outside)
