"""Tests of the generator's method: by hand, property, gradient, golden run (3 + resume + 3 = 6)."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medcontrast.batch import StepInfo
from medcontrast.errors import InputError
from medcontrast.losses.elbo import discretised_log_likelihood, free_energy, gaussian_kl
from medcontrast.methods import build_method
from medcontrast.networks.hvae import HVAE
from medcontrast.networks.parents import Parent, Parents
from medcontrast.settings.generator import HVAESettings

PARENTS = (Parent("domain", ("a", "b")), Parent("age", mean=2.0, std=0.5))
KINDS = {"domain": "category", "age": "number"}


def network():
    plain = {"filters": (8, 8, 16), "latent_channels": (0, 2, 4), "encoder_blocks": (1, 1, 1)}
    return HVAE(Parents(PARENTS, 8), in_channels=1, sides=(8, 8), decoder_blocks=(1, 1, 1), **plain)


def make(*, seed=0, awake=True, **settings):
    """The method; `awake` takes the zeros of its last convolutions away."""
    torch.manual_seed(seed)
    method = build_method(HVAESettings(name="hvae", parents=KINDS, **settings), network)
    if awake:
        with torch.no_grad():
            for parameter in method.student.parameters():
                if parameter.requires_grad and (parameter == 0).all():
                    parameter.copy_(0.2 * torch.randn_like(parameter))
        method.teacher.load_state_dict(method.student.state_dict())
    return method.train()


def make_batch(seed=0, rows=4):
    generator = torch.Generator().manual_seed(seed)
    numbers = Parents(PARENTS).encode([{"domain": "ab"[row % 2], "age": 1.5 + row / 2} for row in range(rows)])
    image = torch.rand(rows, 1, 8, 8, generator=generator)
    return {"image": image, "case": [""] * rows, "index": torch.arange(rows), "attributes": numbers}


def info(step=0):
    return StepInfo(step, 10)


def losses(method, batch, step=0):
    torch.manual_seed(step)
    return method.losses(batch, info(step))


def test_the_terms_are_the_free_energy_of_one_pass():
    method, batch = make(beta=3.0, likelihood="logistic"), make_batch()
    terms = losses(method, batch)
    torch.manual_seed(0)
    found = method.student(batch["image"], batch["attributes"])
    likelihood = discretised_log_likelihood(2 * batch["image"] - 1, found.mean, found.scale, form="logistic")
    kl = [gaussian_kl(each.mean, each.scale, each.prior_mean, each.prior_scale) for each in found.latents]
    expected = free_energy(likelihood, kl, beta=3.0)
    torch.testing.assert_close(terms["loss"], expected.loss)
    torch.testing.assert_close(terms["kl"], expected.kl)
    torch.testing.assert_close(terms["loss"], terms["negative_log_likelihood"] + 3 * terms["kl"])
    assert float(terms["kl"].detach()) > 1e-3


def test_beta_rises_in_equal_steps_and_free_bits_take_the_pull_away():
    method, batch = make(beta=2.0, beta_warm_up_steps=4), make_batch()
    for step, beta in ((0, 0.5), (1, 1.0), (3, 2.0), (9, 2.0)):
        terms = losses(method, batch, step)
        torch.testing.assert_close(terms["loss"], terms["negative_log_likelihood"] + beta * terms["kl"])
    free = losses(make(free_nats=1e6), batch)
    channels = 2 + 4
    torch.testing.assert_close(free["loss"], free["negative_log_likelihood"] + channels * 1e6 / 64)


def test_a_first_beta_goes_to_the_last_in_equal_ratios():
    method, batch = make(beta=2.0, beta_first=32.0, beta_warm_up_steps=4), make_batch()
    for step, beta in ((0, 32.0), (1, 16.0), (2, 8.0), (4, 2.0), (9, 2.0)):
        terms = losses(method, batch, step)
        torch.testing.assert_close(terms["loss"], terms["negative_log_likelihood"] + beta * terms["kl"])
    for wrong in ({"beta_first": 8.0}, {"beta_first": 8.0, "beta_warm_up_steps": 4, "beta": 0.0}):
        with pytest.raises(ValidationError, match="beta_first needs beta_warm_up_steps and a beta above 0"):
            make(**wrong)


def test_fresh_weights_have_no_kl_and_another_parent_changes_nothing_yet():
    method, batch = make(awake=False), make_batch()
    terms = losses(method, batch)
    assert float(terms["kl"].detach()) == 0.0
    method.student.eval()
    own, other = batch["attributes"], batch["attributes"].flip(0)
    image = batch["image"]
    torch.testing.assert_close(method.student.counterfactual(image, own, other), image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["loss", "negative_log_likelihood", "kl"])
def test_every_term_reaches_the_student_and_none_the_teacher(name):
    method, batch = make(), make_batch()
    losses(method, batch)[name].backward()
    assert sum(float(p.grad.norm()) for p in method.student.parameters() if p.grad is not None) > 0
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_the_averaged_weights_make_the_images():
    method = make(ema_decay=0.75)
    before = {name: tensor.clone() for name, tensor in method.teacher.state_dict().items()}
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(1.0)
    method.after_step(info(step=9))  # past the warm-up of the decay
    assert method.inference_network() is method.teacher and not method.teacher.training
    name = "decoder.narrow.0.weight"
    torch.testing.assert_close(method.teacher.state_dict()[name], before[name] + 0.25)


def test_a_discriminator_of_latents_by_hand():
    """Its loss is the mean over values of the mean cross-entropy, and latents take its gradient reversed."""
    method, batch = make(independence=0.25), make_batch(rows=4)
    batch["attributes"] = batch["attributes"][[0, 0, 0, 1]]
    terms = losses(method, batch)
    torch.manual_seed(0)
    latents = [each.value for each in method.student(batch["image"], batch["attributes"]).latents]
    assert method.student.latent_width == sum(each.shape[1] for each in latents) == 2 + 4
    (logits,) = method.discriminator(latents)
    each = -logits.log_softmax(1)[range(4), [0, 0, 0, 1]]
    expected = (each[:3].mean() + each[3]) / 2
    torch.testing.assert_close(terms["discriminator"], expected)
    torch.testing.assert_close(
        terms["loss"], terms["negative_log_likelihood"] + terms["kl"] + terms["discriminator"], rtol=1e-5, atol=1e-6
    )
    encoder, judge = list(method.student.encoder.parameters()), list(method.discriminator.parameters())
    found = torch.autograd.grad(terms["discriminator"], encoder + judge)
    plain = torch.autograd.grad(expected, encoder + judge)
    for place, (one, other) in enumerate(zip(found, plain, strict=True)):
        torch.testing.assert_close(one, -0.25 * other if place < len(encoder) else other)
    assert max(float(each.abs().max()) for each in plain[: len(encoder)]) > 1e-6
    assert make().discriminator is None and "discriminator" not in losses(make(), make_batch())


def test_independence_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="independence is of categories, but parents names none"):
        HVAESettings(name="hvae", parents={"age": "number"}, independence=0.1)


@pytest.mark.parametrize("more", [{}, {"independence": 0.1}])
def test_a_bfloat16_step_stays_finite(more):
    method = make(**more)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses(method, make_batch())["loss"]
    loss.backward()
    assert loss.dtype == torch.float32 and math.isfinite(float(loss.detach()))
    assert all(bool(torch.isfinite(p.grad).all()) for p in method.student.parameters() if p.grad is not None)


def test_a_batch_without_attributes_is_refused():
    batch = make_batch()
    del batch["attributes"]
    with pytest.raises(InputError, match="needs the attributes of every image"):
        make().losses(batch, info())


def run(method, optimizer, steps):
    found = []
    for step in steps:
        terms = losses(method, make_batch(step), step)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        method.after_step(info(step))
        found.append(float(terms["loss"].detach()))
    return found


def test_steps_on_one_batch_lower_its_loss():
    method, optimizer = fresh(lr=0.003)
    found = []
    for step in range(25):
        terms = losses(method, make_batch(), step)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        found.append(float(terms["loss"].detach()))
    assert np.mean(found[-5:]) < 0.9 * np.mean(found[:5])


def fresh(lr=0.01, **settings):
    method = make(awake=False, **settings)
    return method, torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)


@pytest.mark.parametrize("more", [{}, {"independence": 0.1}])
def test_three_steps_and_a_resume_and_three_are_six(more):
    whole, optimizer = fresh(**more)
    expected = run(whole, optimizer, range(6))
    first, optimizer = fresh(**more)
    found = run(first, optimizer, range(3))
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second, optimizer = fresh(**more)
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    found += run(second, optimizer, range(3, 6))
    assert found == expected
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
