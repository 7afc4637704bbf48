"""The one way in which a loader is made: batches decided by the sampler alone, whatever the number of workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from medcontrast.batch import Batch
from medcontrast.data.sampler import TwoStreamSampler

Row = TypeVar("Row")


def batch_loader(
    dataset: Dataset[Row], sampler: TwoStreamSampler, collate: Callable[[Sequence[Any]], Batch], *, workers: int
) -> DataLoader[Row]:
    """A loader that gives one Batch a micro-batch.

    Args:
        dataset: Takes a RowKey.
        sampler: Says which rows.
        collate: Makes a Batch of rows.
        workers: Processes; 0 loads in this one.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        # forked processes share the memory cache instead of copying it
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # its own generator: a loader draws from the global one when it starts, which would move dropout's draws
        generator=torch.Generator(),
    )
