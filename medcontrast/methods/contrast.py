"""Foreground/background contrast with its head and its memory; used by methods that have class maps.

Letters: b rows, k foreground classes, c feature channels, d embedding channels, m cells a row, n embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcontrast.distributed import gather, gather_chosen
from medcontrast.losses.foreground_background import pull, push
from medcontrast.networks.heads import Embeddings, ForegroundBackgroundHead
from medcontrast.networks.queue import EmbeddingQueue
from medcontrast.networks.regions import split_cells
from medcontrast.settings.methods import ContrastSettings

_LEAST_SHARE = 0.15
"""Of a cell: less inside or outside than this is too few voxels to stand for a kind."""


class ForegroundBackgroundContrast(nn.Module):
    """Embeds the inside and the outside of every class map, and gives pull and push of them.

    With `region` 0 each row gives one foreground and one background a class. With a region, every cell of that side
    which a class border runs through gives a pair: the inside and the outside there are neighbours and look alike, so
    that telling them apart asks something of the features. Terms and memory are over the cells of all processes.

    Paper: FBA-Net (Chung 2023), L_pull and L_push.
    Deviation: Cells instead of whole patches. One vector a patch is separated within a hundred steps by the head alone
        and gives the decoder no gradient from then on (docs/findings.md). Push is taken in both directions, and
        embeddings of labeled rows of past steps serve as further references.
    """

    def __init__(self, settings: ContrastSettings, *, feature_channels: int, classes: int) -> None:
        super().__init__()
        self.settings, self.classes = settings, classes
        least = _LEAST_SHARE * settings.region**3 if settings.region else 1.0
        self.head = ForegroundBackgroundHead(feature_channels, settings.embedding_channels, minimum_voxels=least)
        self.foreground_memory = EmbeddingQueue(settings.memory, classes, settings.embedding_channels)
        self.background_memory = EmbeddingQueue(settings.memory, classes, settings.embedding_channels)
        self._fresh: list[tuple[int, Tensor, Tensor]] = []

    def forward(
        self,
        features: Tensor,
        maps: Tensor,
        known: Tensor,
        *,
        labeled_rows: int,
        confidence: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`pull_foreground`, `pull_background` and `push`, averaged over the classes that have a cell with both kinds.

        Args:
            features: (b, c, x, y, z), from the student.
            maps: (b, k, x, y, z) in 0..1, one a foreground class.
            known: (b, 1, x, y, z) bool; cells with an unknown voxel are left out.
            labeled_rows: How many rows, the first ones, have true maps; the memory keeps theirs alone. With several
                processes each has as many rows, and as many of these.
            confidence: (b, 1, x, y, z) in 0..1, how much each voxel counts in its embedding; default 1.
        """
        embeddings, valid, true = self._embed(features, maps, known, labeled_rows, confidence)
        sums = {
            name: features.new_zeros((), dtype=torch.float32) for name in ("pull_foreground", "pull_background", "push")
        }
        # all processes choose among all cells, in the order that one process would have them in: labeled rows first
        kinds = gather(torch.cat([valid, true[:, None]], dim=1))
        order = torch.argsort(~kinds[:, -1], stable=True)
        present = kinds[:, :-1].any(dim=0).sum().clamp_min(1)
        for k in range(self.classes):
            chosen = order[self._choose(kinds[order, k])]
            foreground = gather_chosen(embeddings.foreground[:, k], chosen)
            background = gather_chosen(embeddings.background[:, k], chosen)
            counts, labeled = kinds[chosen, k], kinds[chosen, -1]
            for name, value in self._terms(k, foreground, background, counts).items():
                sums[name] = sums[name] + value / present
            if self.settings.memory and self.training:
                keep = counts & labeled
                self._fresh.append((k, foreground[keep].detach(), background[keep].detach()))
        return sums

    def remember(self) -> None:
        """Moves this step's embeddings into the memory; once per optimiser step."""
        for k, foreground, background in self._fresh:
            for memory, new in ((self.foreground_memory, foreground), (self.background_memory, background)):
                memory.enqueue(k, new)
        self._fresh.clear()

    def _embed(
        self, features: Tensor, maps: Tensor, known: Tensor, labeled_rows: int, confidence: Tensor | None
    ) -> tuple[Embeddings, Tensor, Tensor]:
        """Embeddings of every cell (b * m, k, d), which of them hold both kinds (b * m, k), and which are labeled."""
        rows, side = len(features), self.settings.region
        if side:
            features, maps, known = (split_cells(volume, side) for volume in (features, maps, known))
            confidence = None if confidence is None else split_cells(confidence, side)
        embeddings = self.head(features, maps, confidence)
        valid = embeddings.foreground_valid & embeddings.background_valid & known.flatten(1).all(dim=1, keepdim=True)
        true = torch.arange(len(features), device=features.device) < labeled_rows * (len(features) // rows)
        return embeddings, valid, true

    def _choose(self, valid: Tensor) -> Tensor:
        """Indices of `regions` cells, the valid ones first and evenly spread."""
        wanted = min(self.settings.regions, len(valid))
        order = torch.argsort(~valid, stable=True)
        count = int(valid.sum())
        if count <= wanted:
            return order[:wanted]
        return order[torch.linspace(0, count - 1, wanted, device=valid.device).round().long()]

    def _terms(self, k: int, foreground: Tensor, background: Tensor, valid: Tensor) -> dict[str, Tensor]:
        settings = self.settings
        (old_foreground, foreground_known), (old_background, background_known) = (
            memory.embeddings(k) for memory in (self.foreground_memory, self.background_memory)
        )
        foregrounds, backgrounds = torch.cat([foreground, old_foreground]), torch.cat([background, old_background])
        foregrounds_valid, backgrounds_valid = (
            torch.cat([valid, foreground_known]),
            torch.cat([valid, background_known]),
        )
        return {
            "pull_foreground": self._pull(foreground, valid, old_foreground, foreground_known),
            "pull_background": self._pull(background, valid, old_background, background_known),
            "push": 0.5
            * (
                push(
                    foreground,
                    backgrounds,
                    rank_decay=settings.push_rank_decay,
                    foreground_valid=valid,
                    background_valid=backgrounds_valid,
                )
                + push(
                    background,
                    foregrounds,
                    rank_decay=settings.push_rank_decay,
                    foreground_valid=valid,
                    background_valid=foregrounds_valid,
                )
            ),
        }

    def _pull(self, embeddings: Tensor, valid: Tensor, old: Tensor, old_valid: Tensor) -> Tensor:
        decay = self.settings.pull_rank_decay
        now = pull(embeddings, rank_decay=decay, valid=valid)
        if not bool(old_valid.any()):
            return now
        past = pull(embeddings, old, rank_decay=decay, valid=valid, reference_valid=old_valid)
        return 0.5 * (now + past)
