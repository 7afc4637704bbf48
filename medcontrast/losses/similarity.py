"""Cosine similarity between two sets of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST_NORM = 1e-8


def unit(embeddings: Tensor) -> Tensor:
    """Embeddings (..., d) at length 1; one of length 0 stays 0 and gets no gradient.

    Scaling by an epsilon instead would hand such an embedding a gradient of 1 / epsilon.
    """
    # Written so that NaN stays NaN and is seen.
    alive = ~(embeddings.detach().norm(dim=-1, keepdim=True) <= _SMALLEST_NORM)
    kept = torch.where(alive, embeddings, torch.zeros_like(embeddings))
    return kept / kept.norm(dim=-1, keepdim=True).clamp_min(_SMALLEST_NORM)


def cosine_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each of `first` (n, d) with each of `second` (m, d): (n, m) in -1..1."""
    return unit(first) @ unit(second).T
