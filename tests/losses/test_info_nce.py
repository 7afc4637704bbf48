"""Tests of InfoNCE and its cases: reference (plain loops), by hand, property, gradient."""

from __future__ import annotations

import math
import re

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.info_nce import info_nce, nt_xent, queue_nce


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(anchor, candidates, targets, temperature, allowed):
    """The equation, anchor by anchor and candidate by candidate."""
    losses = []
    for i in range(len(anchor)):
        cosines = [
            float(anchor[i] @ candidates[j] / anchor[i].norm() / candidates[j].norm()) / temperature
            for j in range(len(candidates))
        ]
        share = [float(targets[i, j]) if allowed[i, j] else 0.0 for j in range(len(candidates))]
        if sum(share) == 0:
            continue
        bottom = sum(math.exp(cosines[j]) for j in range(len(candidates)) if allowed[i, j])
        losses.append(-sum(t / sum(share) * (c - math.log(bottom)) for t, c in zip(share, cosines, strict=True) if t))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_against_the_equation(seed):
    anchor, candidates = random(5, 7, seed=seed), random(9, 7, seed=seed + 10)
    targets = random(5, 9, seed=seed + 20).clamp_min(0)
    allowed = random(5, 9, seed=seed + 30) > -0.5
    found = info_nce(anchor, candidates, targets, temperature=0.3, allowed=allowed)
    assert float(found) == pytest.approx(plain(anchor, candidates, targets, 0.3, allowed), rel=1e-10)


def test_nt_xent_against_the_equation_and_symmetric():
    first, second = random(4, 6), random(4, 6, seed=1)
    views = torch.cat([first, second])
    targets = torch.zeros(8, 8)
    for i in range(4):
        targets[i, i + 4] = targets[i + 4, i] = 1
    expected = plain(views, views, targets, 0.1, ~torch.eye(8, dtype=torch.bool))
    assert float(nt_xent(first, second, temperature=0.1)) == pytest.approx(expected, rel=1e-10)
    torch.testing.assert_close(nt_xent(second, first, temperature=0.1), nt_xent(first, second, temperature=0.1))


@pytest.mark.parametrize(("pairs", "expected"), [(2, 1.0986), (256, 6.2364)])
def test_nt_xent_of_equal_embeddings_is_the_logarithm_of_its_candidates(pairs, expected):
    ones = torch.ones(pairs, 3)
    assert float(nt_xent(ones, ones, temperature=0.1)) == pytest.approx(math.log(2 * pairs - 1), rel=1e-5)
    assert math.log(2 * pairs - 1) == pytest.approx(expected, abs=1e-4)


def test_nt_xent_of_aligned_pairs_that_are_orthogonal_to_each_other():
    pair = torch.eye(2, dtype=torch.float64)
    assert float(nt_xent(pair, pair, temperature=0.1)) == pytest.approx(9.0796e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("queued", "temperature", "expected"), [(65536, 0.2, 6.0926), (4096, 0.1, 0.17055), (7200, 0.07, 0.004489)]
)
def test_queue_nce_of_a_perfect_positive_and_orthogonal_negatives(queued, temperature, expected):
    query, queue = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]).expand(queued, 2)
    assert float(queue_nce(query, query, queue, temperature=temperature)) == pytest.approx(expected, rel=1e-3)


def test_queue_nce_of_flat_similarities():
    ones = torch.ones(3, 4)
    assert float(queue_nce(ones, ones, torch.ones(7200, 4), temperature=0.07)) == pytest.approx(8.8820, abs=1e-3)


def test_queue_nce_is_info_nce_with_one_positive_and_sends_gradient_to_the_query_alone():
    query, key, queue = (random(*shape, seed=i).requires_grad_() for i, shape in enumerate([(3, 5), (3, 5), (6, 5)]))
    loss = queue_nce(query, key, queue, temperature=0.2)
    losses = []
    for i in range(3):
        candidates = torch.cat([key[i : i + 1], queue])
        targets = torch.zeros(1, 7)
        targets[0, 0] = 1
        losses.append(plain(query[i : i + 1].detach(), candidates.detach(), targets, 0.2, targets >= 0))
    assert float(loss.detach()) == pytest.approx(sum(losses) / 3, rel=1e-10)
    loss.backward()
    assert float(query.grad.norm()) > 0
    assert key.grad is None and queue.grad is None


@pytest.mark.parametrize("queue", [torch.zeros(0, 5), torch.ones(4, 5)])
def test_without_negatives_loss_and_gradient_are_0(queue):
    query = random(3, 5).float().requires_grad_()
    none = torch.zeros(3, len(queue), dtype=torch.bool)
    loss = queue_nce(query, random(3, 5, seed=1).float(), queue, temperature=0.2, negatives=none)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(query.grad.abs().max()) == pytest.approx(0.0, abs=1e-6)


def test_masked_negatives_stand_in_no_denominator():
    query, key, queue = random(3, 5), random(3, 5, seed=1), random(6, 5, seed=2)
    keep = torch.tensor([True, False, True, True, False, True])
    masked = queue_nce(query, key, queue, temperature=0.2, negatives=keep.expand(3, 6))
    torch.testing.assert_close(masked, queue_nce(query, key, queue[keep], temperature=0.2))


def test_several_positives_are_the_mean_over_each_alone():
    anchor, candidates = random(1, 5), random(4, 5, seed=1)
    both = info_nce(anchor, candidates, torch.tensor([[1, 1, 0, 0]]), temperature=0.5)
    alone = [info_nce(anchor, candidates, torch.tensor([row]), temperature=0.5) for row in ([1, 0, 0, 0], [0, 1, 0, 0])]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


def test_an_anchor_without_target_does_not_count():
    anchor, candidates = random(3, 5), random(4, 5, seed=1)
    targets = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])
    some = info_nce(anchor[[0, 2]], candidates, targets[[0, 2]], temperature=0.5)
    torch.testing.assert_close(info_nce(anchor, candidates, targets, temperature=0.5), some)
    leaf = anchor.clone().requires_grad_()
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    loss = info_nce(leaf, candidates, targets, temperature=0.5, allowed=nothing)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_weights_of_anchors():
    anchor, candidates, targets = random(3, 5), random(3, 5, seed=1), torch.eye(3)
    alone = [info_nce(anchor[i : i + 1], candidates, targets[i : i + 1], temperature=0.5) for i in range(3)]
    weighed = info_nce(anchor, candidates, targets, temperature=0.5, anchor_weight=torch.tensor([1.0, 0.0, 3.0]))
    torch.testing.assert_close(weighed, (alone[0] + 3 * alone[2]) / 4)
    none = info_nce(anchor, candidates, targets, temperature=0.5, anchor_weight=torch.zeros(3))
    assert float(none) == 0.0
    targets[2] = 0  # without a target an anchor counts as little as without weight
    some = info_nce(anchor, candidates, targets, temperature=0.5, anchor_weight=torch.tensor([1.0, 0.0, 3.0]))
    torch.testing.assert_close(some, alone[0])


def test_queue_nce_weighs_queries():
    query, key, queue = random(3, 5), random(3, 5, seed=1), random(6, 5, seed=2)
    alone = [queue_nce(query[i : i + 1], key[i : i + 1], queue, temperature=0.2) for i in range(3)]
    weighed = queue_nce(query, key, queue, temperature=0.2, anchor_weight=torch.tensor([1.0, 0.0, 3.0]))
    torch.testing.assert_close(weighed, (alone[0] + 3 * alone[2]) / 4)


def test_scale_of_embeddings_and_order_of_candidates_change_nothing():
    anchor, candidates, targets = random(4, 5), random(6, 5, seed=1), random(4, 6, seed=2).abs()
    before = info_nce(anchor, candidates, targets, temperature=0.3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(info_nce(7 * anchor, 0.1 * candidates, targets, temperature=0.3), before)
    torch.testing.assert_close(info_nce(anchor, candidates[order], targets[:, order], temperature=0.3), before)


def test_gradients_are_right():
    anchor, candidates = random(3, 4).requires_grad_(), random(5, 4, seed=1).requires_grad_()
    targets, allowed = random(3, 5, seed=2).abs(), random(3, 5, seed=3) > -1
    function = lambda a, c: info_nce(a, c, targets, temperature=0.4, allowed=allowed)  # noqa: E731
    assert torch.autograd.gradcheck(function, (anchor, candidates))


def test_bfloat16_is_computed_in_float32():
    anchor = random(8, 16).bfloat16()
    loss = nt_xent(anchor, anchor, temperature=0.07)
    assert loss.dtype == torch.float32
    assert bool(torch.isfinite(loss))


def test_faults_are_named():
    anchor, candidates = random(2, 3), random(4, 3)
    with pytest.raises(InputError, match=r"targets must have shape \(2, 4\), anchors x candidates, but got \(4, 2\)"):
        info_nce(anchor, candidates, torch.ones(4, 2), temperature=0.1)
    with pytest.raises(InputError, match="temperature must be above 0, but got 0"):
        nt_xent(anchor, anchor, temperature=0)


@pytest.mark.parametrize(
    ("sentence", "call"),
    [
        ("second must have shape (4, 8), that of first, but got (3, 8).", lambda a, b: nt_xent(a, b, temperature=0.1)),
        (
            "key must have shape (4, 8), that of query, but got (3, 8).",
            lambda a, b: queue_nce(a, b, b, temperature=0.1),
        ),
        (
            "queue must have as many channels as query, 8, but got 7.",
            lambda a, b: queue_nce(a, a, b[:, :7], temperature=0.1),
        ),
        (
            "key must have the type of query, torch.float64, but got torch.float32.",
            lambda a, b: queue_nce(a, a.float(), b, temperature=0.1),
        ),
        (
            "second must have the type of first, torch.float64, but got torch.bfloat16.",
            lambda a, b: nt_xent(a, a.bfloat16(), temperature=0.1),
        ),
        (
            "negatives must have shape (4, 3), queries x queue, but got (3, 4).",
            lambda a, b: queue_nce(a, a, b, temperature=0.1, negatives=torch.ones(3, 4, dtype=torch.bool)),
        ),
        (
            "negatives must be bool, but got torch.float32.",
            lambda a, b: queue_nce(a, a, b, temperature=0.1, negatives=torch.ones(4, 3)),
        ),
        (
            "candidates must have the type of anchor, torch.float64, but got torch.float32.",
            lambda a, b: info_nce(a, b.float(), torch.ones(4, 3), temperature=0.1),
        ),
        (
            "allowed must be bool, but got torch.float32.",
            lambda a, b: info_nce(a, b, torch.ones(4, 3), temperature=0.1, allowed=torch.ones(4, 3)),
        ),
        (
            "anchor_weight must have shape (4,), one an anchor, but got (4, 1).",
            lambda a, b: info_nce(a, b, torch.ones(4, 3), temperature=0.1, anchor_weight=torch.ones(4, 1)),
        ),
    ],
)
def test_an_argument_that_does_not_fit_is_named_as_the_caller_knows_it(sentence, call):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        call(random(4, 8), random(3, 8))


def test_a_queue_of_another_precision_is_taken_as_the_keys():
    query, key, queue = random(3, 5), random(3, 5, seed=1), random(6, 5, seed=2)
    found = queue_nce(query, key, queue.float(), temperature=0.2)
    torch.testing.assert_close(found, queue_nce(query, key, queue.float().double(), temperature=0.2))
