"""What the loop takes its batches from: moved to the device, with their views, on a GPU one ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import torch

from medcontrast.batch import Batch, StepInfo


class Feed:
    """Batches ready for the method, in the order of the loader.

    A GPU computes behind the program that asks it to: `prepare`, called once a step's work is asked for, reads, moves
    and augments the next batch in the meantime. Views are functions of (seed, step, row), so that the batches are the
    same. On a CPU the program is what computes, and nothing is done ahead.

    Args:
        batches: The loader's, on the CPU.
        infos: What step each of them belongs to.
        ready: Moves a batch to the device and gives it its views.
        device: Where the method computes.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        infos: Iterator[StepInfo],
        ready: Callable[[Batch, StepInfo], Batch],
        device: torch.device,
    ) -> None:
        self._made = (ready(batch, info) for info, batch in zip(infos, batches, strict=False))
        self._one_ahead = device.type != "cpu"
        self._waiting: list[Batch] = []

    def __next__(self) -> Batch:
        return self._waiting.pop() if self._waiting else next(self._made)

    def prepare(self) -> None:
        """Makes the next batch, if there is one and this is the time for it."""
        if self._one_ahead and not self._waiting:
            self._waiting.extend(islice(self._made, 1))
