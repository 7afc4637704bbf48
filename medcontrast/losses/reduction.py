"""Means over voxels and rows that stay finite where nothing counts."""

from __future__ import annotations

import torch
from torch import Tensor


def row_means(values: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weighted mean of values (b, k, *spatial) over a row's channels and voxels.

    Args:
        values: (b, k, *spatial).
        weight: (b, 1, *spatial), at least 0, or None for 1 everywhere.

    Returns:
        The means (b,), 0 where a row has no weight, and which rows have any (b,) bool.
    """
    if weight is None:
        return values.flatten(1).mean(1), torch.ones(len(values), dtype=torch.bool, device=values.device)
    weight = weight.to(values.dtype).expand(-1, 1, *values.shape[2:])
    total = weight.flatten(1).sum(1)
    counted = total > 0
    divisor = values.shape[1] * total.masked_fill(~counted, 1.0)
    return (values * weight).flatten(1).sum(1) / divisor, counted


def mean_over(rows: Tensor, counted: Tensor) -> Tensor:
    """Mean of `rows` (b,) over those that count (b,) bool; 0, with the graph attached, where none does."""
    return (rows * counted).sum() / counted.sum().clamp_min(1)
