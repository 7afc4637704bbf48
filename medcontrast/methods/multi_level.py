"""Multi-level contrast: lesions stand out from healthy tissue in clean and in degraded images, and across both."""

from __future__ import annotations

import torch
from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.losses.multi_level import Mined, level_nce
from medcontrast.methods.momentum import MakeEncoder, MomentumMethod, views_of
from medcontrast.schedules import geometric_pace, linear_pace
from medcontrast.settings.multi_level import MultiLevelSettings

HIGH, LOW = 0, 1
"""Qualities: places in the queue, and values of a batch's `quality`."""


class MultiLevel(MomentumMethod):
    """InfoNCE at three levels, with queues of healthy keys of each quality.

    high: clean patch against clean healthy patches. low: degraded patch against degraded healthy patches, which share
    whatever degradation does and differ in the lesion alone. cross: degraded patch with another,
    clean crop of the lesion as positive, against degraded healthy patches. With `queued: healthy` lesions are nobody's
    negatives. Patches of both qualities, lesion and healthy, go through the student together, so that batch
    normalisation has the same statistics for all of them.

    A row of `quality` 1 has no clean version: its *_high views are not looked at.

    Paper: CoMCL (Hou 2024), from its abstract and public code.
    Deviation: A re-implementation from the description; docs/pretraining.md says what was put in place of what is not
        public.
    """

    def __init__(self, settings: MultiLevelSettings, make_encoder: MakeEncoder) -> None:
        super().__init__(settings, make_encoder, queues=2)
        self.settings = settings

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        """`loss`, the levels `high`, `low` and `cross`, and what mining kept."""
        settings = self.settings
        query_high, key_high, query_low, key_low = views_of(batch, settings.views, settings.name)
        target = batch["target"]
        clean = batch.get("quality", torch.zeros_like(target)) == HIGH
        queries = target > 0 if settings.queries == "lesion" else torch.ones_like(target, dtype=torch.bool)
        query_high, query_low = (each[queries] for each in self.queries(torch.cat([query_high, query_low])).chunk(2))
        key_high, key_low = self.keys(torch.cat([key_high, key_low]), info).chunk(2)
        past = [self.past(HIGH), self.past(LOW)]
        paired = clean[queries]
        cross_past = past[LOW] if settings.cross_negatives == "low" else torch.cat([past[LOW], past[HIGH]])
        levels = {
            "high": self._level(query_high[paired], key_high[queries][paired], past[HIGH], info),
            "low": self._level(query_low, key_low[queries], past[LOW], info),
            "cross": self._level(query_low[paired], key_high[queries][paired], cross_past, info),
        }
        self._remember(key_high, key_low, target, clean)
        weights = {"high": settings.high_weight, "low": settings.low_weight, "cross": settings.cross_weight}
        loss = torch.stack([weights[name] * level.loss for name, level in levels.items()]).sum()
        kept = {
            f"{part}_{name}": getattr(level, part)
            for name, level in levels.items()
            for part in ("negatives_kept", "queries_kept")
        }
        return {"loss": loss, **{name: level.loss for name, level in levels.items()}, **kept}

    def _level(self, query: Tensor, key: Tensor, negatives: Tensor, info: StepInfo) -> Mined:
        by_similarity, by_loss = self.settings.mine_negatives, self.settings.mine_queries
        pace = loss = None
        if by_similarity is not None and info.step < by_similarity.ramp_up_steps:
            pace = linear_pace(info.step, by_similarity.ramp_up_steps, start=by_similarity.start, end=1.0)
        by_cosine = by_similarity is not None and by_similarity.by == "cosine"
        if by_loss is not None:
            loss = geometric_pace(info.epoch, start=by_loss.start, growth=by_loss.growth)
        return level_nce(
            query,
            key,
            negatives,
            temperature=self.settings.temperature,
            similarity_pace=pace if by_cosine else None,
            share_pace=None if by_cosine else pace,
            loss_pace=loss,
            soft=by_loss is not None and by_loss.soft,
        )

    def _remember(self, key_high: Tensor, key_low: Tensor, target: Tensor, clean: Tensor) -> None:
        """Keeps keys for the queues: of healthy patches alone, and clean ones of images that are clean."""
        keep = target == 0 if self.settings.queued == "healthy" else torch.ones_like(target, dtype=torch.bool)
        self.remember(key_high, HIGH, keep & clean)
        self.remember(key_low, LOW, keep)
