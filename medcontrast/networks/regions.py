"""Cutting volumes into cells, so that what is pooled over a volume can be pooled over each of its cells.

Letters: b rows, m cells a row, c channels, x, y, z voxels.
"""

from __future__ import annotations

from torch import Tensor


def split_cells(volume: Tensor, side: int) -> Tensor:
    """Every cell of (b, c, x, y, z) as a row of its own: (b * m, c, side, side, side), the cells of a row in order.

    Args:
        volume: Sides must be multiples of `side`.
        side: Of a cell, in voxels.
    """
    rows, channels = volume.shape[:2]
    counts = [size // side for size in volume.shape[2:]]
    if any(size % side for size in volume.shape[2:]):
        raise ValueError(f"cells of {side} voxels do not fill a volume of {tuple(volume.shape[2:])}")
    cells = volume.reshape(rows, channels, counts[0], side, counts[1], side, counts[2], side)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, channels, side, side, side)
