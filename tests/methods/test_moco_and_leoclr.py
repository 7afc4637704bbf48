"""Tests of SimCLR, MoCo v2 and LeOCLR: reference, by hand, property, gradient, golden run (3 + resume + 3 = 6)."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.errors import InputError
from medcontrast.methods.moco import LeOCLR, MoCo
from medcontrast.methods.simclr import SimCLR
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.settings.pretraining import LeOCLRSettings, MoCoSettings, SimCLRSettings

VIEWS = ("anchor", "first", "second", "query", "key")
KINDS = {
    "simclr": (SimCLR, SimCLRSettings, {}),
    "moco_v2": (MoCo, MoCoSettings, {"queue": 8}),
    "leoclr": (LeOCLR, LeOCLRSettings, {"queue": 8}),
}


def make(name, *, norm="group", **keys):
    torch.manual_seed(0)
    method, settings, plain = KINDS[name]
    chosen = settings(**{"name": name, "embedding_channels": 6, **plain, **keys})
    return method(chosen, lambda: build_encoder("resnet20", in_channels=1, width=4, norm=norm)).train()


def make_batch(step=0, rows=4):
    generator = torch.Generator().manual_seed(step)
    return {"views": {name: torch.rand(rows, 1, 12, 12, generator=generator) for name in VIEWS}}


def info(step=0):
    return StepInfo(step, 10, 0, 4)


def fill(method, seed=3):
    """With past keys, and a momentum encoder that is not the student's twin."""
    with torch.no_grad():
        for weight in method.momentum.parameters():
            weight.mul_(1.1).add_(0.01)
    method.queue.enqueue(0, torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)))
    return method


def embed(networks, image):
    encoder, head = networks
    return torch.nn.functional.normalize(head(encoder(image)).double(), dim=1)


def plain_info_nce(query, key, past, temperature):
    """Row by row, from the equation, in float64."""
    total = 0.0
    for row in range(len(query)):
        positive = math.exp(float(query[row] @ key[row]) / temperature)
        negatives = sum(math.exp(float(query[row] @ other) / temperature) for other in past)
        total -= math.log(positive / (positive + negatives))
    return total / len(query)


def unit_past(method):
    return torch.nn.functional.normalize(method.queue.rows[0].double(), dim=1)


def test_moco_is_its_equation():
    method, batch = fill(make("moco_v2")), make_batch()
    with torch.no_grad():
        query = embed((method.student, method.head), batch["views"]["query"])
        key = embed(method.momentum, batch["views"]["key"])
    expected = plain_info_nce(query, key, unit_past(method), 0.2)
    assert float(method.losses(batch, info())["loss"].detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("roles", ["anchor_query", "crops_query"])
def test_leoclr_pulls_the_original_and_each_crop_together_and_no_crops(roles):
    method, batch = fill(make("leoclr", roles=roles)), make_batch()
    views, student = batch["views"], (method.student, method.head)
    with torch.no_grad():
        for name in ("first", "second"):
            query, key = ("anchor", name) if roles == "anchor_query" else (name, "anchor")
            expected = plain_info_nce(
                embed(student, views[query]), embed(method.momentum, views[key]), unit_past(method), 0.2
            )
            assert float(method.losses(batch, info())[name]) == pytest.approx(expected, rel=1e-5)
    terms = method.losses(batch, info())
    torch.testing.assert_close(terms["loss"], (terms["first"] + terms["second"]) / 2)


def gradient(method, loss):
    method.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for part in (method.student, method.head) for p in part.parameters()])


def test_leoclr_of_two_equal_crops_is_moco_by_the_mean_and_twice_moco_by_the_sum():
    batch = make_batch()
    batch["views"] |= {"second": batch["views"]["first"], "query": batch["views"]["anchor"]}
    batch["views"]["key"] = batch["views"]["first"]
    moco = fill(make("moco_v2"))
    expected = moco.losses(batch, info())["loss"]
    slope = gradient(moco, expected)
    for reduction, factor in (("mean", 1.0), ("sum", 2.0)):
        method = fill(make("leoclr", reduction=reduction))
        loss = method.losses(batch, info())["loss"]
        torch.testing.assert_close(loss.detach(), factor * expected.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient(method, loss), factor * slope, rtol=1e-3, atol=1e-6)


def test_leoclr_is_symmetric_in_its_crops_and_the_first_term_alone_is_moco():
    method, batch = fill(make("leoclr")), make_batch()
    swapped = copy.deepcopy(batch)
    swapped["views"] |= {"first": batch["views"]["second"], "second": batch["views"]["first"]}
    terms, other = method.losses(batch, info()), method.losses(swapped, info())
    torch.testing.assert_close(terms["loss"], other["loss"], rtol=1e-5, atol=1e-6)
    batch["views"] |= {"query": batch["views"]["anchor"], "key": batch["views"]["first"]}
    moco = fill(make("moco_v2"))
    torch.testing.assert_close(moco.losses(batch, info())["loss"], terms["first"], rtol=1e-5, atol=1e-6)


def plane():
    """Two crops' directions, and LeOCLR on embeddings themselves; past keys pull nowhere out of the crops' plane."""
    method, every = make("leoclr", reduction="sum", temperature=0.2), torch.eye(6)
    method.queue.enqueue(0, torch.cat([every[2:], -every[2:]]))
    method.queries, method.keys = (lambda image: image), (lambda image, *_: image)
    crops = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2, 0, 0, 0, 0], [0.1, 0.9, 0, 0, 0, 0]]), dim=1)

    def loss_of(anchor):
        return method.losses({"views": {"anchor": anchor, "first": crops[:1], "second": crops[1:]}}, info())["loss"]

    return method, crops, loss_of


def test_the_best_anchor_lies_in_the_mean_direction_of_its_crops():
    _, crops, loss_of = plane()
    anchor = torch.nn.functional.normalize(torch.tensor([[0.3, -0.4, 0.8, 0.2, 0.0, 0.0]]), dim=1)
    for _ in range(1500):
        anchor.requires_grad_()
        (slope,) = torch.autograd.grad(loss_of(anchor), anchor)
        anchor = torch.nn.functional.normalize((anchor - 0.05 * slope).detach(), dim=1)
    mean = crops.sum(0) / crops.sum(0).norm()
    torch.testing.assert_close(anchor[0], mean, atol=1e-3, rtol=0)


def test_the_anchor_s_gradient_by_the_equation():
    """(1/T) sum over crops of [sum_j p_j n_j - (1 - p_+) v] along the sphere; p: soft-max over crop and past keys."""
    method, crops, loss_of = plane()
    anchor = torch.nn.functional.normalize(torch.tensor([[0.3, -0.4, 0.8, 0.2, 0.1, -0.3]]), dim=1).requires_grad_()
    (found,) = torch.autograd.grad(loss_of(anchor), anchor)
    past, expected = method.past(), torch.zeros(6)
    for crop in crops:
        share = (torch.cat([crop[None], past]) @ anchor[0].detach() / 0.2).softmax(0)
        expected += (share[1:] @ past - (1 - share[0]) * crop) / 0.2
    radial = anchor[0].detach()
    torch.testing.assert_close(found[0], expected - (expected @ radial) * radial, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("queue", "temperature", "similarity", "expected"),
    [(65536, 0.2, 0.0, 11.0904), (65536, 0.2, 1.0, 6.0926), (4096, 0.1, 1.0, 0.17055)],
)
def test_values_of_the_fact_sheet(queue, temperature, similarity, expected):
    from medcontrast.losses.info_nce import queue_nce

    query = torch.tensor([[1.0, 0.0, 0.0]])
    key = torch.tensor([[similarity, math.sqrt(1 - similarity**2), 0.0]])
    past = torch.tensor([[0.0, 0.0, 1.0]]).expand(queue, 3)
    assert float(queue_nce(query, key, past, temperature=temperature)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("queue", "temperature", "similarity", "expected"),
    [(65536, 0.2, 0.0, 22.1807), (65536, 0.2, 1.0, 12.1852), (4096, 0.1, 1.0, 0.3411)],
)
def test_sums_of_the_fact_sheet(queue, temperature, similarity, expected):
    method = make("leoclr", reduction="sum", temperature=temperature, queue=queue, embedding_channels=3)
    method.queries, method.keys = (lambda image: image), (lambda image, *_: image)
    method.queue.enqueue(0, torch.tensor([[0.0, 0.0, 1.0]]).expand(queue, 3))
    crop = torch.tensor([[similarity, math.sqrt(1 - similarity**2), 0.0]])
    views = {"anchor": torch.tensor([[1.0, 0.0, 0.0]]), "first": crop, "second": crop}
    assert float(method.losses({"views": views}, info())["loss"]) == pytest.approx(expected, abs=2e-4)


def test_how_the_crops_stand_to_each_other_does_not_matter():
    """The second crop turns about the anchor: its cosine with the first changes, with the anchor and the past not."""
    method, every = make("leoclr", reduction="sum", temperature=0.2), torch.eye(6)
    method.queue.enqueue(0, every[4:])
    method.queries, method.keys = (lambda image: image), (lambda image, *_: image)
    found = []
    for turn in (0.0, 1.0, 2.5):
        second = 0.6 * every[0] + 0.8 * (math.cos(turn) * every[1] + math.sin(turn) * every[2])
        views = {"anchor": every[:1], "first": (0.6 * every[0] + 0.8 * every[1])[None], "second": second[None]}
        assert float(views["first"] @ views["second"].T) == pytest.approx(0.36 + 0.64 * math.cos(turn), abs=1e-6)
        found.append(float(method.losses({"views": views}, info())["loss"]))
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


def test_the_first_crop_s_keys_enter_the_queue():
    method, batch = make("leoclr"), make_batch()
    method.losses(batch, info())
    method.after_step(info())
    with torch.no_grad():
        first, second = (embed(method.momentum, batch["views"][name]) for name in ("first", "second"))
    # the momentum encoder has its student's weights, so that the step did not move it
    torch.testing.assert_close(method.past().double(), first, rtol=1e-4, atol=1e-5)
    assert float((method.past().double() - second).abs().max()) > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_the_student_is_what_a_run_leaves_behind(name):
    method = make(name)
    assert method.inference_network() is method.student


@pytest.mark.parametrize("name", KINDS)
def test_every_term_reaches_the_student_and_nothing_else(name):
    method, batch = make(name), make_batch()
    if name != "simclr":
        fill(method)
    terms = method.losses(batch, info())
    for key, term in terms.items():
        found = gradient(method, method.losses(batch, info())[key])
        assert float(found.norm()) > 1e-4, key
        assert float(term.detach()) > 0
    if name != "simclr":
        assert all(p.grad is None and not p.requires_grad for p in method.momentum.parameters())
        assert not method.queue.rows.requires_grad
    with torch.no_grad():
        method.student.stem[0].weight.mul_(-1.0)
    moved = method.losses(batch, info())
    assert all(abs(float(moved[key].detach() - term.detach())) > 1e-4 for key, term in terms.items())


@pytest.mark.parametrize("name", ["moco_v2", "leoclr"])
def test_the_momentum_encoder_starts_as_the_student_and_keeps_its_share_from_the_first_step(name):
    method = make(name, norm="batch", ema_decay=0.9)
    taught = [*method.student.parameters(), *method.head.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(method.momentum.parameters(), taught, strict=True))
    before = [p.detach().clone() for p in method.momentum.parameters()]
    with torch.no_grad():
        for p in taught:
            p.add_(1.0)
    method.losses(make_batch(), info())  # its own statistics of batch norm move
    own = [b.clone() for b in method.momentum[0].buffers()]
    method.after_step(info())
    for old, start in zip(method.momentum.parameters(), before, strict=True):
        torch.testing.assert_close(old, start + 0.1, rtol=0, atol=1e-6)
    assert all(torch.equal(old, new) for old, new in zip(method.momentum[0].buffers(), own, strict=True))
    statistics = dict(method.student.named_buffers())
    moved = [not torch.equal(b, statistics[n]) for n, b in method.momentum[0].named_buffers() if "running" in n]
    assert any(moved)


@pytest.mark.parametrize(("keys", "count"), [({}, 4), ({"enqueue": "both"}, 8), ({"roles": "crops_query"}, 4)])
def test_keys_enter_the_queue_after_the_step_and_as_many_as_asked_for(keys, count):
    method = make("leoclr", **keys)
    loss = method.losses(make_batch(), info())["loss"]
    assert float(loss.detach()) == 0.0  # no past yet: nothing to be told from
    assert method.queue.count.tolist() == [0]
    method.after_step(info())
    assert method.queue.count.tolist() == [count]
    torch.testing.assert_close(method.past().norm(dim=1), torch.ones(count))
    assert float(method.losses(make_batch(1), info(1))["loss"].detach()) > 0
    method.eval().losses(make_batch(2), info(2))
    method.after_step(info(2))
    assert method.queue.count.tolist() == [2 * count]


def test_keys_go_through_in_another_order_and_come_back_in_theirs():
    method = make("moco_v2", norm="split_batch")
    seen = []
    method.momentum[0].register_forward_pre_hook(lambda module, images: seen.append(images[0].clone()))
    images = make_batch(rows=16)["views"]["key"]
    method.eval()
    keys = method.keys(images, info())
    assert not torch.equal(seen[0], images)
    torch.testing.assert_close(seen[0].sum(0), images.sum(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(keys.double(), embed(method.momentum, images).detach(), rtol=1e-4, atol=1e-5)


def test_one_step_costs_three_forward_passes_of_leoclr_and_two_of_moco():
    kinds = (
        ("moco_v2", {}, (1, 1)),
        ("leoclr", {}, (1, 2)),
        ("leoclr", {"roles": "crops_query"}, (2, 1)),
    )
    for name, keys, expected in kinds:
        method, passes = fill(make(name, **keys)), [0, 0]
        for place, network in enumerate((method.student, method.momentum[0])):
            network.register_forward_hook(
                lambda *_, place=place, passes=passes: passes.__setitem__(place, passes[place] + 1)
            )
        method.losses(make_batch(), info())
        assert tuple(passes) == expected


def test_simclr_is_its_equation():
    method, batch = make("simclr"), make_batch()
    with torch.no_grad():
        both = torch.cat([embed((method.student, method.head), batch["views"][name]) for name in ("first", "second")])
    total = 0.0
    for row in range(8):
        others = sum(math.exp(float(both[row] @ both[other]) / 0.2) for other in range(8) if other != row)
        total -= math.log(math.exp(float(both[row] @ both[(row + 4) % 8]) / 0.2) / others)
    assert float(method.losses(batch, info())["loss"].detach()) == pytest.approx(total / 8, rel=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_a_missing_view_is_named(name):
    batch = make_batch()
    del batch["views"]["first"], batch["views"]["key"]
    with pytest.raises(InputError, match=rf"^{name} needs the views .*, but the batch lacks (first|key)\.$"):
        make(name).losses(batch, info())


@pytest.mark.parametrize("name", KINDS)
def test_a_bfloat16_step_stays_finite(name):
    method = make(name)
    if name != "simclr":
        fill(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.losses(make_batch(), info())["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(bool(p.grad.isfinite().all()) for p in method.student.parameters())


@pytest.mark.parametrize("name", KINDS)
def test_three_steps_and_three_more_from_the_state_are_six(name):
    def steps(method, optimizer, numbers):
        found = []
        for step in numbers:
            loss = method.losses(make_batch(step), info(step))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.after_step(info(step))
            found.append(float(loss.detach()))
        return found

    def fresh():
        method = make(name, norm="batch")
        return method, torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)

    whole = steps(*fresh(), range(6))
    assert len(set(whole)) >= 5
    method, optimizer = fresh()
    first = steps(method, optimizer, range(3))
    again, other = fresh()
    again.load_state_dict(method.state_dict())
    other.load_state_dict(optimizer.state_dict())
    assert first + steps(again, other, range(3, 6)) == whole


def test_every_step_and_view_has_an_order_of_its_own():
    method, image, seen = make("moco_v2"), torch.arange(1.0, 17.0).view(16, 1), []
    method.averaged = lambda rows: seen.append(rows.flatten().tolist()) or rows
    for step, stream in ((0, "first"), (1, "first"), (0, "second"), (0, "first")):
        method.keys(image, info(step), stream)
    first, later, other, again = seen
    assert first == again
    assert first != later and first != other
