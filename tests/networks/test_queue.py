"""Tests of the embedding memory: by hand, reference (a plain deque), property."""

from collections import deque

import pytest
import torch

from medcontrast.networks.queue import EmbeddingQueue


def kept(queue, k):
    rows, valid = queue.embeddings(k)
    return sorted(rows[valid, 0].tolist())


def test_the_oldest_goes_first():
    queue = EmbeddingQueue(length=3, classes=1, channels=2)
    assert kept(queue, 0) == []
    queue.enqueue(0, torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    assert kept(queue, 0) == [1.0, 2.0]
    queue.enqueue(0, torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    assert kept(queue, 0) == [2.0, 3.0, 4.0]


def test_more_at_once_than_it_holds_leaves_the_last():
    queue = EmbeddingQueue(length=3, classes=1, channels=1)
    queue.enqueue(0, torch.arange(8.0)[:, None])
    assert kept(queue, 0) == [5.0, 6.0, 7.0]


def test_against_a_plain_deque_a_class():
    torch.manual_seed(0)
    queue = EmbeddingQueue(length=5, classes=3, channels=2)
    expected = [deque(maxlen=5) for _ in range(3)]
    for step in range(12):
        for k in range(3):
            rows = torch.randn((step + k) % 4, 2)
            queue.enqueue(k, rows)
            expected[k].extend(rows[:, 0].tolist())
        assert all(kept(queue, k) == sorted(expected[k]) for k in range(3))


def test_it_is_detached_and_a_later_enqueue_leaves_an_older_graph_alone():
    queue = EmbeddingQueue(length=2, classes=1, channels=2)
    embeddings = torch.randn(2, 2, requires_grad=True)
    queue.enqueue(0, embeddings)
    rows, _ = queue.embeddings(0)
    assert not rows.requires_grad
    loss = (embeddings * rows).sum()
    queue.enqueue(0, torch.zeros(2, 2))
    loss.backward()
    torch.testing.assert_close(embeddings.grad, embeddings.detach())


def test_a_resumed_memory_goes_on_the_same():
    torch.manual_seed(0)
    queue, resumed = (EmbeddingQueue(length=3, classes=2, channels=2) for _ in range(2))
    queue.enqueue(1, torch.randn(2, 2))
    resumed.load_state_dict(queue.state_dict())
    new = torch.randn(2, 2)
    queue.enqueue(1, new)
    resumed.enqueue(1, new)
    assert torch.equal(queue.rows, resumed.rows) and torch.equal(queue.count, resumed.count)


def test_a_length_of_0_keeps_nothing():
    queue = EmbeddingQueue(length=0, classes=1, channels=2)
    queue.enqueue(0, torch.randn(2, 2))
    rows, valid = queue.embeddings(0)
    assert rows.shape == (0, 2) and valid.shape == (0,)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected embeddings \(n, 3\), but got \(4, 2, 3\)"):
        EmbeddingQueue(length=1, classes=2, channels=3).enqueue(0, torch.zeros(4, 2, 3))


def test_after_more_at_once_than_it_holds_the_oldest_still_goes_first():
    queue = EmbeddingQueue(length=3, classes=1, channels=1)
    queue.enqueue(0, torch.arange(8.0)[:, None])
    assert queue.count.tolist() == [8]
    queue.enqueue(0, torch.tensor([[8.0]]))
    assert kept(queue, 0) == [6.0, 7.0, 8.0]
