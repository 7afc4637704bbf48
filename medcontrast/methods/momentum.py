"""What the pre-training methods with a momentum encoder share: keys, their queue, and its update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medcontrast.batch import Batch, StepInfo
from medcontrast.distributed import gather
from medcontrast.errors import InputError
from medcontrast.losses.similarity import unit
from medcontrast.methods.base import Method
from medcontrast.networks.ema import make_teacher, update_teacher
from medcontrast.networks.encoders2d import Encoder
from medcontrast.networks.projection import ProjectionHead
from medcontrast.networks.queue import EmbeddingQueue
from medcontrast.transforms.draws import row_generator

MakeEncoder = Callable[[], Encoder]


class MomentumMethod(Method):
    """Queries by the student, keys by an average of its past weights, and a queue of keys.

    The momentum encoder runs in the student's mode, so that batch normalisation takes the statistics of its own batch
    and keeps its own running ones. Its decay is the same from the first step on. Keys go through it in another order
    than their queries, so that statistics of parts of a batch (norm: split_batch) are not shared by a pair.

    Attributes:
        student: The encoder that is trained and kept.
        head: Its projection.
        momentum: Copies of both.
        queue: Keys of past steps, a ring a class.

    Paper: He 2020 (MoCo), section 3.2.
    Deviation: the queue starts empty, where MoCo fills it with noise; the first step has no negatives and no gradient.
    """

    student: Encoder

    def __init__(
        self, make_encoder: MakeEncoder, *, embedding_channels: int, ema_decay: float, queue: int, queues: int = 1
    ) -> None:
        super().__init__()
        self.student = make_encoder()
        self.head = ProjectionHead(self.student.feature_channels, embedding_channels)
        self.momentum = make_teacher(nn.ModuleList([self.student, self.head]))
        self.queue = EmbeddingQueue(queue, queues, embedding_channels)
        self.ema_decay = ema_decay
        self._fresh: list[tuple[int, Tensor]] = []

    def after_step(self, info: StepInfo) -> None:
        """Moves the momentum encoder, and this step's keys into the queue."""
        student = nn.ModuleList([self.student, self.head])
        update_teacher(self.momentum, student, self.ema_decay, None, buffers="own")
        for place, keys in self._fresh:
            self.queue.enqueue_class(place, keys)
        self._fresh.clear()

    def load_student(self, tensors: dict[str, Tensor]) -> int:
        loaded = super().load_student(tensors)
        self.momentum[0].load_state_dict(self.student.state_dict())
        return loaded

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
        encoder, head = self.momentum
        shuffled = unit(head(encoder(image[order])).float())
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
