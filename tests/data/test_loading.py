"""Tests of the loader's workers: property (real processes, real signals)."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch
from torch.utils.data import Dataset

from medcontrast.data.loading import batch_loader, reading
from medcontrast.data.sampler import TwoStreamSampler
from medcontrast.errors import ImageError

CPU = torch.device("cpu")


class Numbers(Dataset):
    def __getitem__(self, key):
        return float(key.case_index)


class Unreadable(Dataset):
    def __getitem__(self, key):
        raise ImageError("a.png: cannot be read.\nTwo lines: yes.")


def make_loader(workers, dataset=None):
    sampler = TwoStreamSampler(4, 0, 2, 0, seed=0, steps=20)
    return batch_loader(dataset or Numbers(), sampler, torch.tensor, workers=workers)


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM)])
def test_workers_outlive_the_signals_that_ask_training_to_stop_and_end_with_it(signals):
    with reading(make_loader(2), CPU) as batches:
        found = [next(batches), next(batches)]  # one of each worker: both have begun
        workers = [worker.pid for worker in multiprocessing.active_children()]
        for number in signals:
            for worker in workers:
                os.kill(worker, number)
        found += [next(batches) for _ in range(10)]
    assert not any(map(is_alive, workers))
    with reading(make_loader(0), CPU) as batches:
        assert all(torch.equal(one, next(batches)) for one in found)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_ours_reads_the_same_from_a_worker(workers):
    with pytest.raises(ImageError) as caught, reading(make_loader(workers, Unreadable()), CPU) as batches:
        next(batches)
    assert str(caught.value) == "a.png: cannot be read.\nTwo lines: yes."


def test_workers_end_with_an_error_too():
    with pytest.raises(ValueError, match="somewhere else"), reading(make_loader(2), CPU) as batches:
        next(batches)
        workers = [worker.pid for worker in multiprocessing.active_children()]
        raise ValueError("somewhere else")
    assert not any(map(is_alive, workers))


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("mps", False), ("cuda:1", True)])
def test_memory_is_page_locked_for_a_gpu_alone_whatever_the_machine_has(monkeypatch, device, pinned):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", lambda loader: iter([loader.pin_memory]))
    with reading(make_loader(0), torch.device(device)) as batches:
        assert next(batches) is pinned
