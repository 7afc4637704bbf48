"""Multi-level contrast: lesions stand out from healthy tissue in clean and in degraded images, and across both."""

from __future__ import annotations

from collections.abc import Callable
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn

from medcontrast.batch import StepInfo
from medcontrast.distributed import gather
from medcontrast.errors import InputError
from medcontrast.losses.multi_level import Mined, level_nce
from medcontrast.losses.similarity import unit
from medcontrast.networks.ema import make_teacher, update_teacher
from medcontrast.networks.encoders2d import Encoder
from medcontrast.networks.queue import EmbeddingQueue
from medcontrast.schedules import geometric_pace, linear_pace
from medcontrast.settings.multi_level import MultiLevelSettings
from medcontrast.transforms.draws import row_generator

HIGH, LOW = 0, 1
"""Qualities: places in the queue, and values of a batch's `quality`."""
VIEWS = ("query_high", "key_high", "query_low", "key_low")


class PatchBatch(TypedDict):
    """What a step needs of its b rows.

    Attributes:
        target: (b,) int64, 0 for patches of healthy images, else a class of lesion.
        quality: (b,) int64, 1 for images that are of low quality as they are; default 0 everywhere. Such a row has no
            clean version: its *_high views are not looked at, and its *_low views should not be degraded further.
        views: `VIEWS`, each (b, c, x, y): two crops of the clean image, and the same crops of the degraded one.
    """

    target: Tensor
    quality: NotRequired[Tensor]
    views: dict[str, Tensor]


class MultiLevel(nn.Module):
    """InfoNCE at three levels, with queues of healthy keys of each quality.

    high: clean lesion against clean healthy patches. low: degraded lesion against degraded healthy patches, which share
    whatever degradation does and differ in the lesion alone. cross: degraded lesion with its clean version as positive,
    against degraded healthy patches. Queries of both qualities go through the student together, so that batch
    normalisation cannot tell them apart by giving each its own statistics; keys go through the momentum encoder in
    another order than their queries.

    Attributes:
        student: The encoder that is trained and kept.
        head: Its two-layer projection.

    Paper: CoMCL (Hou 2024), from its abstract and public code.
    Deviation: A re-implementation from the description; docs/methods.md says what was put in place of what is not
        public. The momentum starts as the student (decay ramps up as in networks/ema.py).
    """

    def __init__(self, settings: MultiLevelSettings, make_network: Callable[[], Encoder]) -> None:
        super().__init__()
        self.settings = settings
        self.student = make_network()
        channels = self.student.feature_channels
        self.head = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, settings.embedding_channels)
        )
        self.momentum = make_teacher(nn.ModuleList([self.student, self.head]))
        self.queue = EmbeddingQueue(settings.queue, 2, settings.embedding_channels)
        self._fresh: list[tuple[int, Tensor]] = []

    def losses(self, batch: PatchBatch, info: StepInfo) -> dict[str, Tensor]:
        """`loss`, the levels `high`, `low` and `cross`, and what mining kept."""
        settings, views = self.settings, batch["views"]
        target = batch["target"]
        clean = batch.get("quality", torch.zeros_like(target)) == HIGH
        queries = target > 0 if settings.queued == "healthy" else torch.ones_like(target, dtype=torch.bool)
        query_high, query_low = self._queries(views, queries)
        with torch.no_grad():
            key_high, key_low = self._keys(views, info)
        past = [rows[known] for rows, known in (self.queue.embeddings(HIGH), self.queue.embeddings(LOW))]
        paired = clean[queries]
        cross_past = past[LOW] if settings.cross_negatives == "low" else torch.cat([past[LOW], past[HIGH]])
        levels = {
            "high": self._level(query_high[paired], key_high[queries][paired], past[HIGH], info),
            "low": self._level(query_low, key_low[queries], past[LOW], info),
            "cross": self._level(query_low[paired], key_high[queries][paired], cross_past, info),
        }
        if self.training:
            self._remember(key_high, key_low, target, clean)
        weights = {"high": settings.high_weight, "low": settings.low_weight, "cross": settings.cross_weight}
        loss = torch.stack([weights[name] * level.loss for name, level in levels.items()]).sum()
        kept = {
            f"{part}_{name}": getattr(level, part)
            for name, level in levels.items()
            for part in ("negatives_kept", "queries_kept")
        }
        return {"loss": loss, **{name: level.loss for name, level in levels.items()}, **kept}

    def after_step(self, info: StepInfo) -> None:
        """Moves the momentum encoder, and this step's keys into the queues; once per optimiser step."""
        student = nn.ModuleList([self.student, self.head])
        update_teacher(self.momentum, student, self.settings.ema_decay, info.step)
        for quality, keys in self._fresh:
            self.queue.enqueue_class(quality, keys)
        self._fresh.clear()

    def inference_network(self) -> nn.Module:
        """The encoder."""
        return self.student

    def _queries(self, views: dict[str, Tensor], queries: Tensor) -> tuple[Tensor, Tensor]:
        missing = [name for name in VIEWS if name not in views]
        if missing:
            raise InputError(f"multi_level needs the views {', '.join(VIEWS)}, but the batch lacks {missing[0]}.")
        if not bool(queries.any()):
            # nothing to learn from, but every parameter keeps its place in the graph
            empty = self.head(self.student(views["query_low"]))[:0]
            return empty, empty
        both = torch.cat([views["query_high"][queries], views["query_low"][queries]])
        high, low = self.head(self.student(both)).chunk(2)
        return high, low

    def _keys(self, views: dict[str, Tensor], info: StepInfo) -> tuple[Tensor, Tensor]:
        both = torch.cat([views["key_high"], views["key_low"]])
        order = torch.from_numpy(row_generator(info.seed, info.step, 0, "key order").permutation(len(both)))
        order = order.to(both.device)
        encoder, head = self.momentum
        shuffled = unit(head(encoder(both[order])).float())
        keys = torch.empty_like(shuffled).index_copy_(0, order, shuffled)
        high, low = keys.chunk(2)
        return high, low

    def _level(self, query: Tensor, key: Tensor, negatives: Tensor, info: StepInfo) -> Mined:
        by_similarity, by_loss = self.settings.mine_negatives, self.settings.mine_queries
        similarity = loss = None
        if by_similarity is not None and info.step < by_similarity.ramp_up_steps:
            similarity = linear_pace(info.step, by_similarity.ramp_up_steps, start=by_similarity.start, end=1.0)
        if by_loss is not None:
            loss = geometric_pace(info.epoch, start=by_loss.start, growth=by_loss.growth)
        return level_nce(
            query,
            key,
            negatives,
            temperature=self.settings.temperature,
            similarity_pace=similarity,
            loss_pace=loss,
            soft=by_loss is not None and by_loss.soft,
        )

    def _remember(self, key_high: Tensor, key_low: Tensor, target: Tensor, clean: Tensor) -> None:
        """Keeps keys for the queues: of healthy patches alone, and clean ones of images that are clean."""
        keep = target == 0 if self.settings.queued == "healthy" else torch.ones_like(target, dtype=torch.bool)
        keep, clean = gather(keep), gather(clean)
        self._fresh.append((HIGH, gather(key_high)[keep & clean]))
        self._fresh.append((LOW, gather(key_low)[keep]))
