"""Batches with their views: in the loader's order, one ahead on a GPU, and the same there."""

from __future__ import annotations

import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.engine import loop
from medcontrast.engine.feed import Feed

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def feed_of(numbers, device):
    """A feed of numbers in place of batches, and which of them were made."""
    made = []

    def ready(batch, info):
        made.append(batch)
        return batch, info.step

    infos = (StepInfo(step, 10) for step in range(len(numbers)))
    return Feed(iter(numbers), infos, ready, device), made


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_batches_come_in_order_each_with_its_own_step(device):
    feed, _ = feed_of([10, 11, 12], device)
    given = []
    for _ in range(3):
        given.append(next(feed))
        feed.prepare()
    assert given == [(10, 0), (11, 1), (12, 2)]
    with pytest.raises(StopIteration):
        next(feed)


def test_a_gpu_has_one_batch_made_ahead_and_no_more():
    feed, made = feed_of([10, 11, 12], GPU)
    next(feed)
    assert made == [10]
    feed.prepare()
    feed.prepare()
    assert made == [10, 11]
    assert next(feed) == (11, 1)
    assert made == [10, 11]


def test_a_cpu_has_none():
    feed, made = feed_of([10, 11], CPU)
    next(feed)
    feed.prepare()
    assert made == [10]


def test_a_batch_that_cannot_be_made_says_so_where_it_is_made():
    def batches():
        yield 10
        raise ValueError("damaged")

    feed = Feed(batches(), iter([StepInfo(0, 2), StepInfo(1, 2)]), lambda batch, info: batch, GPU)
    next(feed)
    with pytest.raises(ValueError, match="damaged"):
        feed.prepare()


@pytest.mark.parametrize("method", ["fba_net", "ua_mt"])
def test_training_is_the_same_with_batches_made_ahead(tiny, tmp_path, monkeypatch, method):
    tree = tiny.recipe_tree(method, steps=4, accumulate=2, labeled_rows=2, unlabeled_rows=2)
    plain, ahead = (tiny.make_run(tmp_path, tree, name=name) for name in ("plain", "ahead"))
    tiny.train(plain)
    made = []

    class Ahead(Feed):
        def __init__(self, batches, infos, ready, device):
            super().__init__(batches, infos, ready, GPU)

        def prepare(self):
            super().prepare()
            made.append(len(self._waiting))

    monkeypatch.setattr(loop, "Feed", Ahead)
    tiny.train(ahead)
    assert made == [1] * 7 + [0]
    assert tiny.read_log(plain) == tiny.read_log(ahead)
    for old, new in zip(*(torch.load(run.resume_file)["method"].values() for run in (plain, ahead)), strict=True):
        assert torch.equal(old, new)
