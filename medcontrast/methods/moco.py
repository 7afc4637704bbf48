"""MoCo v2 and LeOCLR: queries against keys of a momentum encoder, and a queue of past keys as negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.losses.info_nce import queue_nce
from medcontrast.methods.momentum import MakeEncoder, MomentumMethod, views_of
from medcontrast.settings.pretraining import LeOCLRSettings, MoCoSettings


class MoCo(MomentumMethod):
    """One view's query finds the other view's key among past keys.

    Paper: He 2020 (MoCo), algorithm 1; Chen 2020 (MoCo v2) for head and views.
    """

    def __init__(self, settings: MoCoSettings, make_encoder: MakeEncoder) -> None:
        super().__init__(settings, make_encoder)
        self.settings = settings

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        query, key = views_of(batch, self.settings.views, self.settings.name)
        keys = self.keys(key, info)
        loss = queue_nce(self.queries(query), keys, self.past(), temperature=self.settings.temperature)
        self.remember(keys)
        return {"loss": loss}


class LeOCLR(MomentumMethod):
    """The original image is pulled to each of two crops of it; the crops are never compared with one another.

    The terms are `first` and `second`. In the paper's roles the original is the query, so that gradients flow through
    it alone; the other roles make the crops queries of one key, the original's. Keys of this step enter the queue after
    its loss, so none is a negative of its own image.

    Paper: Alkhalefi 2024 (LeOCLR), from its abstract and a summary; see docs/pretraining.md for what was decided.
    Deviation: the mean of the two terms by default, where the paper's sum doubles the gradient; the second crop's keys
        do not enter the queue by default, so that it holds as many images as MoCo's.
    """

    def __init__(self, settings: LeOCLRSettings, make_encoder: MakeEncoder) -> None:
        super().__init__(settings, make_encoder)
        self.settings = settings

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        anchor, first, second = views_of(batch, self.settings.views, self.settings.name)
        past = self.past()
        if self.settings.roles == "anchor_query":
            query = self.queries(anchor)
            keys = [self.keys(crop, info, f"key order {name}") for name, crop in (("first", first), ("second", second))]
            pairs = [(query, key) for key in keys]
        else:
            keys = [self.keys(anchor, info, "key order anchor")]
            pairs = [(self.queries(crop), keys[0]) for crop in (first, second)]
        terms = [queue_nce(query, key, past, temperature=self.settings.temperature) for query, key in pairs]
        for key in keys if self.settings.enqueue == "both" else keys[:1]:
            self.remember(key)
        both = torch.stack(terms)
        loss = both.sum() if self.settings.reduction == "sum" else both.mean()
        return {"loss": loss, "first": terms[0], "second": terms[1]}
