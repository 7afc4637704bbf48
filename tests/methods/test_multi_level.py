"""Tests of multi-level contrast: by hand, property, gradient, golden run (3 + resume + 3 = 6)."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.errors import InputError
from medcontrast.losses.info_nce import queue_nce
from medcontrast.losses.multi_level import level_nce
from medcontrast.methods.multi_level import HIGH, LOW, MultiLevel
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.settings.multi_level import MultiLevelSettings

LEVELS = ("high", "low", "cross")


def make(**keys):
    torch.manual_seed(0)
    settings = MultiLevelSettings(
        **{"name": "multi_level", "queue": 8, "embedding_channels": 6, "mine_negatives": None, **keys}
    )
    method = MultiLevel(settings, lambda: build_encoder("resnet20", in_channels=1, width=4, norm="group"))
    return method.train()


def make_batch(step=0, target=(1, 0, 2, 0), **keys):
    generator = torch.Generator().manual_seed(step)
    rows = len(target)
    names = ("query_high", "key_high", "query_low", "key_low")
    views = {name: torch.rand(rows, 1, 12, 12, generator=generator) for name in names}
    return {"target": torch.tensor(target), "views": views, **keys}


def info(step=0, epoch=0):
    return StepInfo(step, 10, epoch, 4)


def fill(method, seed=3):
    """Keys in both queues, different ones."""
    generator = torch.Generator().manual_seed(seed)
    for quality in (HIGH, LOW):
        method.queue.enqueue(quality, torch.randn(8, 6, generator=generator))
    return method


def keys_of(method, image):
    encoder, head = method.momentum
    return head(encoder(image))


def steps(method, numbers, optimizer):
    terms = []
    for step in numbers:
        found = method.losses(make_batch(step), info(step))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        method.after_step(info(step))
        terms.append({name: float(value.detach()) for name, value in found.items()})
    return terms


@pytest.mark.parametrize(("queries", "rows"), [("all", [0, 1, 2, 3]), ("lesion", [0, 2])])
@pytest.mark.parametrize("name", LEVELS)
def test_each_term_is_mocos_loss_of_its_level_and_reaches_the_student_alone(name, queries, rows):
    method, batch = fill(make(queries=queries)), make_batch()
    views = batch["views"]
    query = method.head(method.student(views["query_high" if name == "high" else "query_low"]))[rows]
    key = keys_of(method, views["key_low" if name == "low" else "key_high"])[rows]
    negatives = method.queue.rows[HIGH if name == "high" else LOW]
    expected = queue_nce(query, key, negatives, temperature=0.07)
    term = method.losses(batch, info())[name]
    torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-5)
    term.backward()
    for part in (method.student, method.head):
        assert sum(float(p.grad.norm()) for p in part.parameters()) > 0
    assert all(p.grad is None and not p.requires_grad for p in method.momentum.parameters())
    with torch.no_grad():
        method.student.stem[0].weight.mul_(-1.0)
    assert float(method.losses(batch, info())[name].detach()) != pytest.approx(float(term.detach()), rel=1e-3)


def test_the_loss_is_the_weighted_sum_and_without_the_others_the_high_level_alone():
    terms = fill(make(high_weight=1.0, low_weight=0.5, cross_weight=2.0)).losses(make_batch(), info())
    torch.testing.assert_close(terms["loss"], terms["high"] + 0.5 * terms["low"] + 2 * terms["cross"])
    alone = fill(make(low_weight=0.0, cross_weight=0.0)).losses(make_batch(), info())
    torch.testing.assert_close(alone["loss"], alone["high"])


def test_without_degradation_and_with_the_same_negatives_all_levels_are_equal():
    method, batch = fill(make()), make_batch()
    batch["views"] |= {f"{kind}_low": batch["views"][f"{kind}_high"] for kind in ("query", "key")}
    method.queue.rows[LOW] = method.queue.rows[HIGH]
    terms = method.losses(batch, info())
    for name in ("low", "cross"):
        torch.testing.assert_close(terms[name], terms["high"], rtol=1e-5, atol=1e-6)


def test_all_keys_queued_and_one_level_is_moco():
    method, batch = fill(make(queued="all", low_weight=0.0, cross_weight=0.0)), make_batch()
    query = method.head(method.student(batch["views"]["query_high"]))
    key = keys_of(method, batch["views"]["key_high"])
    expected = queue_nce(query, key, method.queue.rows[HIGH], temperature=0.07)
    torch.testing.assert_close(method.losses(batch, info())["loss"], expected, rtol=1e-4, atol=1e-5)
    method.after_step(info())
    assert method.queue.count.tolist() == [12, 12]


def test_the_queues_hold_healthy_keys_alone_and_clean_ones_of_clean_images_alone():
    method = make(queue=5)  # 2 healthy rows a step: the ring closes in the middle of a step
    seen = {HIGH: [], LOW: []}
    for step in range(4):
        batch = make_batch(step, quality=torch.tensor([0, 0, 0, step % 2]))
        with torch.no_grad():
            healthy = [1] if step % 2 else [1, 3]
            seen[HIGH] += list(keys_of(method, batch["views"]["key_high"])[healthy])
            seen[LOW] += list(keys_of(method, batch["views"]["key_low"])[[1, 3]])
        method.losses(batch, info(step))
        method.after_step(info(step))
    assert method.queue.count.tolist() == [6, 8]
    for quality, keys in seen.items():
        expected = torch.nn.functional.normalize(torch.stack(keys[-5:]), dim=1)
        found = method.queue.rows[quality]
        # every key that should be there is there, in any place
        assert float((expected @ found.T).amax(1).min()) == pytest.approx(1.0, abs=1e-5)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(5))


def test_evaluation_leaves_the_queue_alone():
    method = make().eval()
    method.losses(make_batch(), info())
    method.after_step(info())
    assert method.queue.count.tolist() == [0, 0]


def test_a_row_of_low_quality_has_no_clean_terms():
    method = fill(make())
    batch = make_batch(quality=torch.tensor([1, 0, 0, 0]))
    terms = method.losses(batch, info())
    changed = make_batch(quality=torch.tensor([1, 0, 0, 0]))
    changed["views"]["query_high"][0], changed["views"]["key_high"][0] = 0.3, 0.6
    for name in LEVELS:
        torch.testing.assert_close(method.losses(changed, info())[name], terms[name], rtol=1e-5, atol=1e-6)
    changed["views"]["query_low"][0] = 0.3
    moved = method.losses(changed, info())
    assert float(moved["low"].detach()) != pytest.approx(float(terms["low"].detach()), abs=1e-5)
    torch.testing.assert_close(moved["high"], terms["high"], rtol=1e-5, atol=1e-6)


def test_flat_similarities_give_the_logarithm_of_the_queue():
    method = make()
    with torch.no_grad():
        for head in (method.head, method.momentum[1]):
            head.last.weight.zero_()
            head.last.bias.fill_(1.0)
    for quality in (HIGH, LOW):
        method.queue.enqueue(quality, torch.ones(8, 6))
    for name, value in method.losses(make_batch(), info()).items():
        if name in LEVELS:
            assert float(value.detach()) == pytest.approx(math.log(1 + 8), abs=1e-5)


@pytest.mark.parametrize("target", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_a_batch_of_one_kind_stays_finite(target):
    method = make()
    terms = method.losses(make_batch(target=target), info())
    terms["loss"].backward()
    assert float(terms["loss"].detach()) == 0.0
    assert all(bool(torch.isfinite(p.grad).all()) for p in method.student.parameters())
    method.after_step(info())
    assert method.queue.count.tolist() == [4 * (target[0] == 0)] * 2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mining", [{"by": "cosine", "start": -0.5}, {"by": "share", "start": 0.25}])
def test_mining_lets_in_more_negatives_step_by_step_and_more_queries_epoch_by_epoch(mining, level):
    method = fill(make(mine_negatives={**mining, "ramp_up_steps": 6}))
    found = [method.losses(make_batch(), info(step)) for step in range(7)]
    kept = [float(terms[f"negatives_kept_{level}"]) for terms in found]
    assert kept == sorted(kept) and kept[0] < kept[-1] == 1.0
    losses = [float(terms[level].detach()) for terms in found]
    assert losses == sorted(losses) and losses[0] < losses[-1]
    method = fill(make(mine_queries={"start": 1e-6, "growth": 30.0}))
    kept = [float(method.losses(make_batch(), info(0, epoch))[f"queries_kept_{level}"]) for epoch in range(10)]
    assert kept == sorted(kept) and kept[0] == 0.0 and kept[-1] == 1.0


def test_cross_negatives_of_both_qualities_are_more():
    low, both = (fill(make(cross_negatives=kind)).losses(make_batch(), info())["cross"] for kind in ("low", "both"))
    assert float(both.detach()) > float(low.detach())
    method, views = fill(make(cross_negatives="both")), make_batch()["views"]
    query, key = method.head(method.student(views["query_low"])), keys_of(method, views["key_high"])
    expected = queue_nce(query, key, torch.cat([method.past(HIGH), method.past(LOW)]), temperature=0.07)
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_mined_queries_count_hard_or_soft_by_the_setting(soft):
    views, plain = make_batch()["views"], fill(make())
    with torch.no_grad():
        query, key = plain.head(plain.student(views["query_high"])), keys_of(plain, views["key_high"])
        past = plain.past(HIGH)
        own = [queue_nce(query[r : r + 1], key[r : r + 1], past, temperature=0.07) for r in range(len(query))]
        pace = 1.02 * float(max(own))  # the hardest query counts for nearly nothing in the soft form
        hard, weighed = (
            level_nce(query, key, past, temperature=0.07, loss_pace=pace, soft=form).loss for form in (False, True)
        )
    assert float(abs(hard / weighed - 1)) > 0.02
    method = fill(make(mine_queries={"start": pace, "growth": 1.1, "soft": soft}))
    found = method.losses(make_batch(), info())["high"]
    torch.testing.assert_close(found, weighed if soft else hard, rtol=1e-4, atol=0)


def test_a_bfloat16_step_stays_finite():
    method = fill(make())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.losses(make_batch(), info())["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(bool(torch.isfinite(p.grad).all()) for p in method.student.parameters())


def test_three_steps_and_a_resume_and_three_are_six():
    def fresh():
        method = make(ema_decay=0.5, mine_negatives={"ramp_up_steps": 5})
        return method, torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01, momentum=0.9)

    whole, optimizer = fresh()
    expected = steps(whole, range(6), optimizer)
    first, optimizer = fresh()
    found = steps(first, range(3), optimizer)
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second, optimizer = fresh()
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    found += steps(second, range(3, 6), optimizer)
    assert found == expected
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(whole.momentum[0].stem[0].weight, whole.student.stem[0].weight)


def test_missing_views_and_no_level_are_refused():
    batch = make_batch()
    del batch["views"]["key_low"]
    with pytest.raises(InputError, match="the batch lacks key_low"):
        make().losses(batch, info())
    with pytest.raises(ValueError, match=r"a share of the negatives is above 0, but got -0\.2"):
        make(mine_negatives={"start": -0.2})
    with pytest.raises(ValueError, match="must be above 0"):
        make(high_weight=0.0, low_weight=0.0, cross_weight=0.0)


def test_healthy_patches_share_the_batch_statistics_of_the_lesions():
    """Else what all lesions share would be subtracted with the mean."""
    torch.manual_seed(0)
    settings = MultiLevelSettings(name="multi_level", queue=8, embedding_channels=6, queries="lesion")
    method = MultiLevel(settings, lambda: build_encoder("resnet20", in_channels=1, width=4, norm="batch")).train()
    seen = []
    method.student.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    method.losses(make_batch(target=(1, 0, 0, 0)), info())
    assert seen == [8]  # all rows in both qualities
