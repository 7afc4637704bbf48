"""MoCo v3: two views predict each other's keys among all keys of the batch; no queue."""

from __future__ import annotations

import torch
from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.distributed import gather, rank
from medcontrast.errors import InputError
from medcontrast.losses.info_nce import info_nce
from medcontrast.methods.averaged import AveragedMethod
from medcontrast.methods.momentum import MakeEncoder, views_of
from medcontrast.networks.projection import DeepHead
from medcontrast.networks.vit2d import ViT
from medcontrast.settings.pretraining import MoCoV3Settings


class MoCoV3(AveragedMethod):
    """Each view's prediction finds the other view's key; the terms are `first` and `second`, by the query's view.

    Both are multiplied by twice the temperature, which keeps the gradient's scale when the temperature changes.

    Attributes:
        predictor: The head of queries alone.

    Paper: Chen 2021 (MoCo v3), algorithm 1, and section 4.2 for `freeze_patches`.
    Deviation: over several processes batch normalisation keeps each process's own statistics, where the paper's are
        global; position embeddings are learned, where the paper's are fixed.
    """

    def __init__(self, settings: MoCoV3Settings, make_encoder: MakeEncoder) -> None:
        encoder = make_encoder()
        if settings.freeze_patches:
            if not isinstance(encoder, ViT):
                raise InputError(f"freeze_patches is for network vit, but the encoder is {type(encoder).__name__}.")
            encoder.freeze_patches()
        hidden, out = settings.hidden_channels, settings.embedding_channels
        head = DeepHead(encoder.feature_channels, hidden, out, layers=3)
        super().__init__(encoder, head, ema_decay=settings.ema_decay, rising=True)
        self.predictor = DeepHead(out, hidden, out, layers=2)
        self.settings = settings

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        views = views_of(batch, self.settings.views, self.settings.name)
        first, second = (self.predictor(self.head(self.student(view))) for view in views)
        first_key, second_key = (self.averaged(view) for view in views)
        terms = {"first": self._contrast(first, second_key), "second": self._contrast(second, first_key)}
        return {"loss": terms["first"] + terms["second"], **terms}

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        temperature, keys = self.settings.temperature, gather(key)
        own = torch.arange(len(query), device=query.device) + rank() * len(query)
        targets = own[:, None] == torch.arange(len(keys), device=query.device)[None, :]
        return 2.0 * temperature * info_nce(query, keys, targets, temperature=temperature)
