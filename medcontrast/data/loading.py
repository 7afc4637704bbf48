"""The one way in which a loader is made: batches decided by the sampler alone, whatever the number of workers."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from medcontrast.batch import Batch
from medcontrast.data.sampler import TwoStreamSampler
from medcontrast.errors import MedcontrastError

Row = TypeVar("Row")


def _leave_signals_to_training(worker: int) -> None:
    """A job's end and Ctrl-C reach every process of a group; a worker that dies of them takes the clean stop away."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _said_plainly(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches; an error of ours in a worker says what it says here, without the worker's traceback."""
    try:
        yield from batches
    except MedcontrastError as error:
        kind = type(error)
        _, found, message = str(error).rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")
        raise kind(message.rstrip()) if found else error from None


@contextmanager
def reading(loader: DataLoader[Any], device: torch.device) -> Iterator[Iterator[Batch]]:
    """The loader's batches; its workers end with the block, where nothing else ends those of a loader read in part.

    Args:
        loader: Of `batch_loader`.
        device: Where the batches go. Only a GPU copies from page-locked memory, and locking pages opens CUDA, which
            would take memory of a GPU that a run on the CPU leaves to others.
    """
    loader.pin_memory = device.type == "cuda"
    batches = iter(loader)
    try:
        yield _said_plainly(batches)
    finally:
        end = getattr(batches, "_shutdown_workers", None)
        if end is not None:
            end()


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
        worker_init_fn=_leave_signals_to_training,
        # forked processes share the memory cache instead of copying it
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # its own generator: a loader draws from the global one when it starts, which would move dropout's draws
        generator=torch.Generator(),
    )
