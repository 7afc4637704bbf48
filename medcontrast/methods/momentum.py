"""What the pre-training methods with a queue share: queries, keys, and the queue of past keys."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.distributed import gather
from medcontrast.errors import InputError
from medcontrast.losses.similarity import unit
from medcontrast.methods.averaged import AveragedMethod
from medcontrast.networks.encoders2d import Encoder
from medcontrast.networks.projection import ProjectionHead
from medcontrast.networks.queue import EmbeddingQueue
from medcontrast.settings.multi_level import MultiLevelSettings
from medcontrast.settings.pretraining import LeOCLRSettings, MoCoSettings
from medcontrast.transforms.draws import row_generator

MakeEncoder = Callable[[], Encoder]


class MomentumMethod(AveragedMethod):
    """Queries by the student, keys by an average of its past weights, and a queue of keys.

    The decay is the same from the first step on. Keys go through the momentum encoder in another order than their
    queries, so that statistics of parts of a batch (norm: split_batch) are not shared by a pair.

    Attributes:
        queue: Keys of past steps, a ring a class.

    Paper: He 2020 (MoCo), section 3.2.
    Deviation: the queue starts empty, where MoCo fills it with noise; the first step has no negatives and no gradient.
    """

    def __init__(
        self,
        settings: MoCoSettings | LeOCLRSettings | MultiLevelSettings,
        make_encoder: MakeEncoder,
        *,
        queues: int = 1,
    ) -> None:
        encoder = make_encoder()
        head = ProjectionHead(encoder.feature_channels, settings.embedding_channels)
        super().__init__(encoder, head, ema_decay=settings.ema_decay, rising=False)
        self.queue = EmbeddingQueue(settings.queue, queues, settings.embedding_channels)
        self._fresh: list[tuple[int, Tensor]] = []

    def after_step(self, info: StepInfo) -> None:
        """Moves the momentum encoder, and this step's keys into the queue."""
        super().after_step(info)
        for place, keys in self._fresh:
            self.queue.enqueue(place, keys)
        self._fresh.clear()

    def queries(self, image: Tensor) -> Tensor:
        """Embeddings (b, d) of a view, with gradient."""
        embedding: Tensor = self.head(self.student(image))
        return embedding

    @torch.no_grad()
    def keys(self, image: Tensor, info: StepInfo, stream: str = "key order") -> Tensor:
        """Embeddings (b, d) of unit length by the momentum encoder, without gradient.

        Args:
            image: (b, c, x, y).
            info: Draws the order in which rows go through.
            stream: What the keys are of; two views draw separately.
        """
        order = torch.from_numpy(row_generator(info.seed, info.step, 0, stream).permutation(len(image)))
        order = order.to(image.device)
        shuffled = unit(self.averaged(image[order]).float())
        return torch.empty_like(shuffled).index_copy_(0, order, shuffled)

    def past(self, place: int = 0) -> Tensor:
        """The keys in one ring of the queue (q, d)."""
        rows, known = self.queue.embeddings(place)
        return rows[known]

    def remember(self, keys: Tensor, place: int = 0, keep: Tensor | None = None) -> None:
        """Keeps keys of all processes for the queue; they enter it after the step, and only in training.

        Args:
            keys: (b, d).
            place: Which ring.
            keep: (b,) bool, which of them; default all.
        """
        if not self.training:
            return
        joined = gather(keys)
        self._fresh.append((place, joined if keep is None else joined[gather(keep)]))


def views_of(batch: Batch, names: tuple[str, ...], method: str) -> list[Tensor]:
    """The views that a method learns from, in the order of `names`.

    Raises:
        InputError: One is not in the batch.
    """
    views = batch.get("views", {})
    missing = [name for name in names if name not in views]
    if missing:
        raise InputError(f"{method} needs the views {', '.join(names)}, but the batch lacks {missing[0]}.")
    return [views[name] for name in names]
