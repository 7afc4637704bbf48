"""Tests of fba_net with a partner network: by hand, property, gradient."""

from __future__ import annotations

import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.losses.segmentation import dice_cross_entropy, soft_dice_cross_entropy
from medcontrast.methods import build_method
from medcontrast.methods.base import one_hot
from medcontrast.networks.build import build_network
from medcontrast.transforms.copy_paste import exchange_boxes, mix

INFO = StepInfo(step=5, total=10, seed=1)


@pytest.fixture
def make(tiny):
    def build(*, norm="instance", **settings):
        tree = tiny.set_key(tiny.recipe_tree("fba_net"), "method.partner", True)
        for key, value in settings.items():
            tree = tiny.set_key(tree, f"method.{key}", value)
        torch.manual_seed(0)
        plain = {"in_channels": 1, "classes": 3, "filters": [4, 8, 8], "norm": norm}
        return build_method(tiny.recipe_from(tree).method, lambda: build_network("dynunet", **plain)).train()

    return build


def networks(method):
    """Each trained network, its own teacher, and the one that it learns from."""
    return {
        "student": (method.student, method.teacher, method.partner_teacher),
        "partner": (method.partner, method.partner_teacher, method.teacher),
    }


@torch.no_grad()
def move(network, seed=2):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def values(network):
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def gradient(value, network):
    found = torch.autograd.grad(value, list(network.parameters()), retain_graph=True, allow_unused=True)
    return sum(float(each.abs().sum()) for each in found if each is not None)


def test_each_network_learns_from_the_teacher_of_the_other(tiny, make):
    """By hand, with both exchanging the same boxes."""
    method, batch = make(**{"contrast.weight": 0.0, "consistency.weight": 0.7}), tiny.make_batch()
    for seed, network in enumerate((method.teacher, method.partner_teacher)):
        move(network, seed)
    strong, weak, label = batch["views"]["strong"], batch["views"]["weak"], batch["label"][:2]
    rows = batch["index"][2:].tolist()
    boxes = exchange_boxes(strong.shape[2:], 0.667, 0.5, seed=1, step=5, rows=rows)
    assert boxes.any()
    supervised, consistency = [], []
    with torch.no_grad():
        for network, _, other in networks(method).values():
            answer = one_hot(other(weak[2:]).logits.argmax(1, keepdim=True), 3)
            logits = network(torch.cat([strong[:2], mix(strong[:2], strong[2:], boxes)])).logits
            supervised.append(dice_cross_entropy(logits[:2], label))
            consistency.append(soft_dice_cross_entropy(logits[2:], mix(one_hot(label, 3), answer, boxes)))
        terms = method.losses(batch, INFO)
    assert set(terms) == {"loss", "supervised", "consistency"}
    torch.testing.assert_close(terms["supervised"], sum(supervised))
    torch.testing.assert_close(terms["consistency"], sum(consistency))
    torch.testing.assert_close(terms["loss"], sum(supervised) + 0.7 * sum(consistency))


def test_terms_reach_both_networks_and_stop_at_both_teachers(tiny, make):
    """The contrast is the student's alone."""
    method = make()
    terms = method.losses(tiny.make_batch(), INFO)
    for term, value in terms.items():
        assert gradient(value, method.student) > 0, term
        assert (gradient(value, method.partner) > 0) == (term in ("loss", "supervised", "consistency")), term
    terms["loss"].backward()
    for network in (method.teacher, method.partner_teacher):
        assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.grad is not None for network in (method.student, method.partner) for parameter in
               network.parameters())  # fmt: skip


@pytest.mark.parametrize("name", ["student", "partner"])
def test_terms_change_with_each_network_and_with_the_teacher_of_either(tiny, make, name):
    batch = tiny.make_batch()
    for place, expected in ((0, {"supervised", "consistency"}), (2, {"consistency"})):
        method = make()
        with torch.no_grad():
            before = method.losses(batch, INFO)
            move(networks(method)[name][place])
            after = method.losses(batch, INFO)
        changed = {term for term in ("supervised", "consistency") if abs(float(after[term] - before[term])) > 1e-6}
        assert changed == expected


def test_each_teacher_is_an_average_of_its_own_network(tiny, make):
    method, batch = make(ema_decay=0.6), tiny.make_batch()
    assert all(equal(values(network), values(own)) for network, own, _ in networks(method).values())
    before = {name: values(own) for name, (_, own, _) in networks(method).items()}
    assert not equal(before["student"], before["partner"])
    for seed, (network, _, _) in enumerate(networks(method).values()):
        move(network, seed)
    method.losses(batch, INFO)
    assert all(equal(values(own), before[name]) for name, (_, own, _) in networks(method).items())
    method.after_step(INFO)
    for name, (network, own, _) in networks(method).items():
        for key, value in own.state_dict().items():
            torch.testing.assert_close(value, 0.6 * before[name][key] + 0.4 * network.state_dict()[key])


def test_both_teachers_stay_in_evaluation_mode(tiny, make):
    """With batch norm, whose statistics a teacher in training would take from the weak view."""
    method, batch = make(norm="batch"), tiny.make_batch()
    before = [values(own) for _, own, _ in networks(method).values()]
    method.train().losses(batch, INFO)
    for (network, own, _), old in zip(networks(method).values(), before, strict=True):
        assert network.training and not any(module.training for module in own.modules())
        assert equal(old, values(own))


def test_the_student_predicts_and_is_what_a_checkpoint_fills(make):
    method = make()
    partner = values(method.partner)
    tensors = {key: value + 1 for key, value in method.student.state_dict().items()}
    assert method.load_student(tensors) == len(tensors)
    assert method.inference_network() is method.teacher
    assert equal(values(method.student), tensors) and equal(values(method.teacher), tensors)
    assert equal(values(method.partner), partner) and equal(values(method.partner_teacher), partner)
