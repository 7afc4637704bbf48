"""Tests of one level of multi-level contrast: reference (plain loops), by hand, property, gradient."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.info_nce import queue_nce
from medcontrast.losses.multi_level import level_nce, self_paced_weights


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def level(queries=5, negatives=8):
    query = random(queries, 6)
    return query, query + 0.7 * random(queries, 6, seed=1), random(negatives, 6, seed=2)


def plain(query, key, negatives, temperature, similarity_pace=2.0, loss_pace=math.inf, soft=False):
    """The equations, query by query and negative by negative: loss, kept pairs, weights."""

    def cosine(first, second):
        dot = sum(float(a) * float(b) for a, b in zip(first, second, strict=True))
        return dot / math.sqrt(sum(float(a) ** 2 for a in first) * sum(float(b) ** 2 for b in second))

    losses, kept = [], 0
    for i in range(len(query)):
        top = math.exp(cosine(query[i], key[i]) / temperature)
        bottom = top
        for negative in negatives:
            similarity = cosine(query[i], negative)
            if similarity <= similarity_pace:
                kept += 1
                bottom += math.exp(similarity / temperature)
        losses.append(-math.log(top / bottom))
    if soft:
        weights = [max(0.0, 1.0 - loss / loss_pace) for loss in losses]
    else:
        weights = [1.0 if loss < loss_pace else 0.0 for loss in losses]
    total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    return total / sum(weights) if sum(weights) else 0.0, kept, weights


@pytest.mark.parametrize("similarity_pace", [None, -0.3, 0.0, 0.4])
@pytest.mark.parametrize(("loss_pace", "soft"), [(None, False), (0.91, False), (0.91, True), (9.0, False)])
def test_against_the_equations(similarity_pace, loss_pace, soft):
    query, key, negatives = level()
    given = {} if similarity_pace is None else {"similarity_pace": similarity_pace}
    given |= {} if loss_pace is None else {"loss_pace": loss_pace, "soft": soft}
    found = level_nce(query, key, negatives, temperature=0.4, **given)
    loss, kept, weights = plain(query, key, negatives, 0.4, **given)
    assert float(found.loss) == pytest.approx(loss, rel=1e-10)
    assert float(found.negatives_kept) == pytest.approx(kept / 40)
    assert float(found.queries_kept) == pytest.approx(sum(weights) / 5)


def test_the_cases_above_leave_out_some_and_keep_some():
    query, key, negatives = level()
    assert 0 < plain(query, key, negatives, 0.4, similarity_pace=0.0)[1] < 40
    assert 0 < sum(plain(query, key, negatives, 0.4, loss_pace=0.91)[2]) < 5


def test_without_mining_it_is_mocos_loss():
    query, key, negatives = level()
    expected = queue_nce(query, key, negatives, temperature=0.07)
    for given in ({}, {"similarity_pace": 1.0 + 1e-9, "loss_pace": math.inf}):
        torch.testing.assert_close(level_nce(query, key, negatives, temperature=0.07, **given).loss, expected)


@pytest.mark.parametrize("given", [{"similarity_pace": -1.1}, {"loss_pace": 0.0}, {"loss_pace": 0.0, "soft": True}, {}])
def test_nothing_kept_gives_0_and_a_gradient_of_0(given):
    query, key, negatives = level()
    query.requires_grad_()
    found = level_nce(query, key, negatives if given else negatives[:0], temperature=0.07, **given)
    found.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(0.0, abs=1e-12)
    assert float(query.grad.abs().max()) == pytest.approx(0.0, abs=1e-12)


def test_no_query_gives_0():
    query, key, negatives = level(queries=0)
    found = level_nce(query, key, negatives, temperature=0.07, similarity_pace=0.5, loss_pace=1.0)
    assert [float(value) for value in found] == [0.0, 1.0, 1.0]


def test_flat_and_perfect_by_hand():
    ones = torch.ones(2, 4)
    assert float(level_nce(ones, ones, torch.ones(7200, 4), temperature=0.07).loss) == pytest.approx(8.8820, abs=1e-3)
    query, negatives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]).expand(7200, 2)
    found = float(level_nce(query, query, negatives, temperature=0.07).loss)
    assert found == pytest.approx(0.0044890, rel=1e-3)


def test_a_negative_at_the_pace_stays_and_one_above_it_goes():
    query = torch.tensor([[1.0, 0.0]])
    negatives = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    found = level_nce(query, query, negatives, temperature=1.0, similarity_pace=0.7)
    assert float(found.loss) == pytest.approx(-math.log(math.e / (math.e + math.exp(0.6))), rel=1e-5)
    assert float(found.negatives_kept) == 0.5


def test_the_loss_grows_with_the_pace_of_negatives():
    query, key, negatives = level(4, 40)
    found = [level_nce(query, key, negatives, temperature=0.2, similarity_pace=p / 10) for p in range(-10, 11)]
    for less, more in itertools.pairwise(found):
        assert float(less.loss) <= float(more.loss) and float(less.negatives_kept) <= float(more.negatives_kept)
    assert float(found[0].loss) < float(found[-1].loss)


def test_a_share_keeps_the_least_similar_negatives_of_each_query():
    query, key, negatives = level(4, 10)
    cosines = torch.nn.functional.normalize(query, dim=1) @ torch.nn.functional.normalize(negatives, dim=1).T
    for share, count in ((0.0, 0), (0.3, 3), (0.31, 4), (1.0, 10)):
        found = level_nce(query, key, negatives, temperature=0.2, share_pace=share)
        rows = [
            level_nce(query[[i]], key[[i]], negatives[cosines[i].argsort()[:count]], temperature=0.2) for i in range(4)
        ]
        torch.testing.assert_close(found.loss, torch.stack([row.loss for row in rows]).mean())
        assert float(found.negatives_kept) == pytest.approx(count / 10)
    assert float(level_nce(query, key, negatives[:0], temperature=0.2, share_pace=0.5).loss) == 0.0


def test_weights_are_the_minimum_of_the_objective_by_brute_force():
    losses = random(9).abs()
    for pace in (0.2, 0.8, 1.5):
        found = self_paced_weights(losses, pace)

        def objective(weights, pace=pace):
            return sum(v * float(loss) for v, loss in zip(weights, losses, strict=True)) - pace * sum(weights)

        best = min(itertools.product((0.0, 1.0), repeat=9), key=objective)
        assert found.tolist() == list(best)
        soft = self_paced_weights(losses, pace, soft=True)
        for v, loss in zip(soft.tolist(), losses.tolist(), strict=True):
            values = [t / 1000 for t in range(1001)]
            nearest = min(values, key=lambda t: t * loss + pace * (t * t / 2 - t))
            assert v == pytest.approx(nearest, abs=1e-3)


def test_more_pace_keeps_every_sample_that_less_pace_kept():
    losses = random(50).abs()
    for soft in (False, True):
        kept = [self_paced_weights(losses, pace / 10, soft=soft) for pace in range(1, 30)]
        assert all(bool((less <= more).all()) for less, more in itertools.pairwise(kept))


def test_gradient_reaches_the_query_alone_and_not_through_what_is_kept():
    query, key, negatives = (tensor.requires_grad_() for tensor in level())
    given = {"similarity_pace": 0.2, "loss_pace": 0.91}
    level_nce(query, key, negatives, temperature=0.4, **given).loss.backward()
    assert float(query.grad.norm()) > 0 and key.grad is None and negatives.grad is None
    assert torch.autograd.gradcheck(
        lambda q: level_nce(q, key, negatives, temperature=0.4, soft=False, **given).loss,
        query.detach().requires_grad_(),
    )
    # soft weights depend on the query, but are held: the gradient is that with the weights as given numbers
    leaf = query.detach().requires_grad_()
    level_nce(leaf, key, negatives, temperature=0.4, loss_pace=0.91, soft=True).loss.backward()
    weights = torch.tensor(plain(*(t.detach() for t in (leaf, key, negatives)), 0.4, 2.0, 0.91, True)[2]).double()
    held = query.detach().requires_grad_()
    queue_nce(held, key, negatives, temperature=0.4, anchor_weight=weights).backward()
    torch.testing.assert_close(leaf.grad, held.grad)


def test_bfloat16_is_promoted():
    query, key, negatives = (tensor.bfloat16() for tensor in level())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = level_nce(query, key, negatives, temperature=0.07, similarity_pace=0.5, loss_pace=9.0)
    assert found.loss.dtype == torch.float32
    assert float(found.loss) == pytest.approx(plain(query, key, negatives, 0.07, 0.5, 9.0)[0], rel=1e-4)


def test_a_negative_whose_cosine_is_the_pace_stays():
    query, negatives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    found = level_nce(query, query, negatives, temperature=1.0, similarity_pace=0.0)
    assert float(found.negatives_kept) == 0.5
    assert float(found.loss) == pytest.approx(-math.log(math.e / (math.e + 1.0)), rel=1e-5)


def test_a_share_of_whole_negatives_is_not_rounded_up_by_floating_point():
    query, key, negatives = level(4, 25)
    assert 0.28 * 25 > 7  # in floating point
    found = level_nce(query, key, negatives, temperature=0.2, share_pace=0.28)
    assert float(found.negatives_kept) == pytest.approx(0.28)


def test_a_loss_at_the_pace_does_not_count():
    assert self_paced_weights(torch.tensor([0.5, 1.0, 1.5]), 1.0).tolist() == [1.0, 0.0, 0.0]


def test_an_argument_that_does_not_fit_is_named_as_the_caller_knows_it():
    query, key, negatives = level()
    with pytest.raises(InputError, match="negatives must have as many channels as query, 6, but got 5"):
        level_nce(query, key, negatives[:, :5], temperature=0.2)
    with pytest.raises(InputError, match=re.escape("key must have shape (5, 6), that of query, but got (4, 6)")):
        level_nce(query, key[:4], negatives, temperature=0.2)
