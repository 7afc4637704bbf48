"""Tests of cps and mc_net, whose networks teach each other: by hand, property, gradient."""

from __future__ import annotations

import pytest
import torch
from leaks import require_blind_to_unlabeled

from medcontrast.batch import StepInfo
from medcontrast.losses.segmentation import dice_cross_entropy
from medcontrast.methods import build_method
from medcontrast.networks.build import build_network

INFO = StepInfo(step=5, total=10, seed=1)
MUTUAL = ("cps", "mc_net")


@pytest.fixture
def make(tiny):
    def build(name, **settings):
        tree = tiny.recipe_tree(name)
        for key, value in settings.items():
            tree = tiny.set_key(tree, f"method.{key}", value)
        decoders = 3 if name == "mc_net" else 1
        torch.manual_seed(0)
        plain = {"in_channels": 1, "classes": 3, "filters": [4, 8, 8], "decoders": decoders}
        return build_method(tiny.recipe_from(tree).method, lambda: build_network("dynunet", **plain)).train()

    return build


def trained(method):
    """Parameters of everything that learns by itself: both networks, or the own layers of every decoder."""
    if hasattr(method, "partner"):
        networks = {"first": [method.student], "second": [method.partner]}
    else:
        networks = {f"decoder {number + 2}": [each] for number, each in enumerate(method.student.others)}
        networks["decoder 1, last step up"] = [method.student.body.upsample]
        networks["decoder 1, last layer"] = [method.student.final]
        networks["encoder"] = [method.student.body.downsample]
    return {name: [value for each in found for value in each.parameters()] for name, found in networks.items()}


def gradient(value, parameters):
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return sum(float(each.abs().sum()) for each in found if each is not None)


def answers(method, batch):
    """Logits of both networks, or of all decoders, on the strong view."""
    strong = batch["views"]["strong"]
    if hasattr(method, "partner"):
        return [method.student(strong).logits, method.partner(strong).logits]
    return [output.logits for output in method.student.decode_all(strong)]


def test_cps_is_what_each_network_loses_to_the_other(tiny, make):
    method, batch = make("cps", consistency_weight=0.3), tiny.make_batch()
    first, second = answers(method, batch)
    terms = method.losses(batch, INFO)
    expected = dice_cross_entropy(first[2:], second[2:].argmax(1, keepdim=True)) + dice_cross_entropy(
        second[2:], first[2:].argmax(1, keepdim=True)
    )
    torch.testing.assert_close(terms["consistency"], expected)
    supervised = sum(dice_cross_entropy(each[:2], batch["label"][:2]) for each in (first, second))
    torch.testing.assert_close(terms["supervised"], supervised)
    torch.testing.assert_close(terms["loss"], supervised + 0.3 * expected)


def test_cps_begins_with_two_different_networks_of_which_the_first_predicts(make):
    method = make("cps")
    pairs = zip(method.student.parameters(), method.partner.parameters(), strict=True)
    assert any(not torch.equal(first, second) for first, second in pairs)
    assert method.inference_network() is method.student


def test_cps_initialises_the_first_network_alone(make):
    method = make("cps")
    before = [value.clone() for value in method.partner.state_dict().values()]
    tensors = {key: value + 1 for key, value in method.student.state_dict().items()}
    assert method.load_student(tensors) == len(tensors)
    assert all(torch.equal(a, b) for a, b in zip(before, method.partner.state_dict().values(), strict=True))


def test_mc_net_is_the_sum_over_ordered_pairs_of_decoders(tiny, make):
    method, batch = make("mc_net", temperature=0.5, consistency_weight=0.7), tiny.make_batch()
    logits = answers(method, batch)
    terms = method.losses(batch, INFO)
    probabilities = [each.softmax(1) for each in logits]
    sharpened = [(each**2 / (each**2).sum(1, keepdim=True)).detach() for each in probabilities]
    expected = sum((probabilities[i] - sharpened[j]).square().mean() for i in range(3) for j in range(3) if i != j)
    torch.testing.assert_close(terms["consistency"], expected)
    supervised = sum(dice_cross_entropy(each[:2], batch["label"][:2]) for each in logits) / 3
    torch.testing.assert_close(terms["loss"], supervised + 0.7 * expected)
    parameters = list(method.student.parameters())
    found, by_hand = (torch.autograd.grad(each, parameters) for each in (terms["loss"], supervised + 0.7 * expected))
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MUTUAL)
def test_every_term_reaches_every_trained_tensor(tiny, make, name):
    method = make(name)
    terms = method.losses(tiny.make_batch(), INFO)
    for network, parameters in trained(method).items():
        for term, value in terms.items():
            assert gradient(value, parameters) > 0, (network, term)
    terms["loss"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize("name", MUTUAL)
def test_every_term_changes_with_each_trained_part(tiny, make, name):
    batch = tiny.make_batch()
    for network in trained(make(name)):
        method = make(name)
        with torch.no_grad():
            before = method.losses(batch, INFO)
            for parameter in trained(method)[network]:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            after = method.losses(batch, INFO)
        for term in before:
            assert abs(float(after[term] - before[term])) > 1e-6, (network, term)


def test_each_network_of_cps_learns_from_a_constant_answer_of_the_other(tiny, make):
    """The gradient of the consistency is that of each network's own loss, to labels that depend on nothing."""
    method, batch = make("cps"), tiny.make_batch()
    first, second = answers(method, batch)
    labels = [each.detach()[2:].argmax(1, keepdim=True) for each in (first, second)]
    consistency = method.losses(batch, INFO)["consistency"]
    for network, logits, label in ((method.student, first, labels[1]), (method.partner, second, labels[0])):
        parameters = list(network.parameters())
        expected = torch.autograd.grad(dice_cross_entropy(logits[2:], label), parameters)
        found = torch.autograd.grad(consistency, parameters, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_without_consistency_a_step_of_cps_is_a_supervised_step(tiny, make):
    batch, moved = tiny.make_batch(), []
    for method in (make("cps", consistency_weight=0.0), make("supervised")):
        method.losses(batch, INFO)["loss"].backward()
        moved.append({name: value.detach() - 0.1 * value.grad for name, value in method.student.named_parameters()})
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MUTUAL)
def test_weights_ramp_up_from_next_to_nothing(tiny, make, name):
    batch = tiny.make_batch()
    with torch.no_grad():
        shares = []
        for number in (0, 1, 2):
            terms = make(name).losses(batch, INFO._replace(step=number))
            shares.append(float(terms["loss"] - terms["supervised"]))
        plain = make(name, consistency_weight=0.0).losses(batch, INFO)
    assert 0 < shares[0] < shares[1] < shares[2]
    assert torch.equal(plain["loss"], plain["supervised"])


@pytest.mark.parametrize("name", MUTUAL)
def test_labels_of_unlabeled_rows_change_nothing(tiny, make, name):
    require_blind_to_unlabeled(make(name), tiny.make_batch(), INFO)


@pytest.mark.parametrize("name", MUTUAL)
def test_a_bfloat16_step_stays_finite(tiny, make, name):
    method = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.losses(tiny.make_batch(), INFO)
    terms["loss"].backward()
    assert all(bool(torch.isfinite(value)) and value.dtype == torch.float32 for value in terms.values())
    assert all(bool(torch.isfinite(p.grad).all()) for p in method.parameters() if p.grad is not None)
