"""A memory of past embeddings, a ring a class, that resumes with the run."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EmbeddingQueue(nn.Module):
    """The last `length` embeddings of each class, detached; all of it is in state_dict.

    With several processes, gather the embeddings first (distributed.gather), so that every process keeps the same.

    Attributes:
        rows: (classes, length, channels) float32.
        count: (classes,) int64, embeddings taken in so far.
    """

    rows: Tensor
    count: Tensor

    def __init__(self, length: int, classes: int, channels: int) -> None:
        """An empty memory; a length of 0 keeps nothing."""
        super().__init__()
        self.register_buffer("rows", torch.zeros(classes, length, channels))
        self.register_buffer("count", torch.zeros(classes, dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, k: int, embeddings: Tensor) -> None:
        """Takes in embeddings (n, channels) of class k, oldest first, over the oldest."""
        channels = self.rows.shape[2]
        if embeddings.ndim != 2 or embeddings.shape[1] != channels:
            raise ValueError(f"expected embeddings (n, {channels}), but got {tuple(embeddings.shape)}")
        length = self.rows.shape[1]
        if length == 0:
            return
        end = self.count[k] + len(embeddings)
        new = embeddings[-length:]
        place = torch.arange(len(new), device=self.rows.device) + end - len(new)
        self.rows[k, place % length] = new.to(self.rows)
        self.count[k] = end

    def embeddings(self, k: int) -> tuple[Tensor, Tensor]:
        """Class k's embeddings (length, channels), in no order, and which of them are valid (length,) bool.

        A copy: a later `enqueue` leaves a graph that holds it alone.
        """
        rows = self.rows[k].clone()
        return rows, torch.arange(len(rows), device=rows.device) < self.count[k]
