"""Tests of DINO: reference (plain loops in float64), by hand, gradient, property, golden run (3 + resume + 3 = 6)."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from medcontrast.batch import StepInfo
from medcontrast.errors import InputError, RecipeError
from medcontrast.methods import build_method
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.networks.projection import PrototypeHead
from medcontrast.settings import recipe_from_tree
from medcontrast.settings.pretraining import DINOSettings

VIT = {"name": "vit", "width": 8, "image_size": 8, "patch": 4, "depth": 1, "heads": 2}
SMALL = {"name": "dino", "local_views": 2, "prototypes": 7, "hidden_channels": 12, "bottleneck_channels": 6}


def make(encoder=VIT, **keys):
    torch.manual_seed(0)
    settings = DINOSettings(**{**SMALL, **keys})
    return build_method(settings, lambda: build_encoder(**encoder, in_channels=1)).double().train()


def make_batch(rows=3, step=0, local=2):
    generator = torch.Generator().manual_seed(step)
    sides = {"global_first": 8, "global_second": 8, **{f"local_{number + 1}": 4 for number in range(local)}}
    views = {
        name: torch.rand(rows, 1, side, side, generator=generator, dtype=torch.float64) for name, side in sides.items()
    }
    return {"views": views}


def info(step=0, total=10, epoch=1):
    return StepInfo(step, total, epoch, 4)


def softmax(values):
    weights = [math.exp(value) for value in values]
    return [weight / sum(weights) for weight in weights]


def test_the_loss_equals_plain_loops_over_pairs_of_views():
    method, batch = make(student_temperature=0.2, teacher_temperature=0.05), make_batch()
    with torch.no_grad():
        method.center.copy_(torch.linspace(-0.2, 0.3, 7))
        encoder, head = method.momentum
        student = {name: method.head(method.student(view)).tolist() for name, view in batch["views"].items()}
        teacher = {name: head(encoder(batch["views"][name])).tolist() for name in ("global_first", "global_second")}
        center = method.center.tolist()
    terms = []
    for seen, targets in teacher.items():
        for other, guesses in student.items():
            if other == seen:
                continue
            for target, guess in zip(targets, guesses, strict=True):
                p = softmax([(t - c) / 0.05 for t, c in zip(target, center, strict=True)])
                q = softmax([g / 0.2 for g in guess])
                terms.append(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
    assert len(terms) == 2 * 3 * 3
    loss = method.losses(batch, info())["loss"]
    assert float(loss.detach()) == pytest.approx(sum(terms) / len(terms), rel=1e-9)


def test_logits_are_cosines_with_the_prototypes_whatever_their_length():
    method = make()
    features = method.student(make_batch()["views"]["global_first"])
    bottleneck, prototypes = method.head.layers(features), method.head.prototypes
    expected = torch.nn.functional.cosine_similarity(bottleneck[:, None], prototypes[None], dim=-1)
    torch.testing.assert_close(method.head(features), expected)
    with torch.no_grad():
        prototypes.mul_(3.0)
    torch.testing.assert_close(method.head(features), expected)


def test_cosines_are_float32_under_autocast():
    torch.manual_seed(0)
    head, features = PrototypeHead(8, 12, 6, 7), torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, bottleneck = head(features), head.layers(features)
    expected = torch.nn.functional.cosine_similarity(bottleneck.float()[:, None], head.prototypes[None], dim=-1)
    assert bottleneck.dtype == torch.bfloat16 and logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected)


def test_gradient_reaches_student_and_head_and_no_teacher():
    method = make()
    terms = method.losses(make_batch(), info())
    terms["loss"].backward()
    for name, parameter in [*method.student.named_parameters(), *method.head.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert all(p.grad is None and not p.requires_grad for p in method.momentum.parameters())
    assert not terms["teacher_entropy"].requires_grad and not terms["center_norm"].requires_grad


def test_the_student_learns_from_local_views_and_the_teacher_does_not_see_them():
    method, batch = make(), make_batch()
    before = method.losses(batch, info())
    batch["views"]["local_2"] = 1.0 - batch["views"]["local_2"]
    after = method.losses(batch, info())
    assert float(after["loss"].detach()) != pytest.approx(float(before["loss"].detach()), abs=1e-9)
    torch.testing.assert_close(after["teacher_entropy"], before["teacher_entropy"])
    alone = make(local_views=0).losses(make_batch(local=0), info())
    assert alone["loss"].isfinite()


def test_prototypes_rest_in_the_first_epochs():
    method = make()
    parts = method.parts()
    assert parts["prototypes"] == [method.head.prototypes]
    trained = {id(each) for each in method.parameters() if each.requires_grad}
    assert {id(each) for part in parts.values() for each in part} == trained
    assert len(trained) == sum(len(part) for part in parts.values())
    assert [method.rate("prototypes", 0.1, info(epoch=epoch)) for epoch in (0, 1)] == [0.0, 0.1]
    assert [method.rate("network", 0.1, info(epoch=epoch)) for epoch in (0, 1)] == [0.1, 0.1]


def test_the_centre_moves_once_a_step_by_the_mean_of_its_micro_batches():
    method, parts = make(center_momentum=0.6), [make_batch(step=step) for step in (0, 1)]
    with torch.no_grad():
        method.center.fill_(0.2)
        encoder, head = method.momentum
        seen = [head(encoder(part["views"][name])) for part in parts for name in ("global_first", "global_second")]
        expected = 0.6 * method.center + 0.4 * torch.cat(seen).mean(0)
    for part in parts:
        method.losses(part, info())
    assert torch.equal(method.center, torch.full_like(method.center, 0.2))
    method.after_step(info())
    torch.testing.assert_close(method.center, expected)
    method.eval().losses(parts[0], info())
    method.after_step(info())
    torch.testing.assert_close(method.center, expected)  # evaluation leaves it


def test_the_teachers_temperature_ramps_up_and_a_warmer_teacher_is_less_sure():
    method = make(teacher_temperature_start=0.04, teacher_temperature=0.4, teacher_ramp_up_steps=10)
    entropies = [float(method.losses(make_batch(), info(step, 20))["teacher_entropy"]) for step in (0, 5, 10, 15)]
    assert entropies[0] < entropies[1] < entropies[2] == pytest.approx(entropies[3])


def test_the_teacher_follows_with_a_decay_that_goes_to_one_and_is_what_remains():
    method = make(ema_decay=0.8)
    with torch.no_grad():
        method.student.cls.add_(1.0)
    before, now = method.momentum[0].cls.clone(), method.student.cls.detach()
    method.after_step(info(0))
    torch.testing.assert_close(method.momentum[0].cls, 0.8 * before + 0.2 * now)
    assert method.inference_network() is method.momentum[0]
    before = method.momentum[0].cls.clone()
    method.after_step(info(10))
    assert torch.equal(method.momentum[0].cls, before)


def test_the_centre_keeps_the_teacher_from_one_answer():
    """With sharpening alone the soft-max runs to one prototype; a centre at the mean spreads what all rows share."""
    method = make(teacher_temperature_start=0.04)
    with torch.no_grad():
        method.momentum[1].layers[-1].bias.add_(5.0)  # all rows look the same way
    method.losses(make_batch(rows=8), info())
    without = float(method.losses(make_batch(rows=8), info())["teacher_entropy"])
    method.settings = method.settings.model_copy(update={"center_momentum": 0.0})
    method.after_step(info(10, 10))
    assert float(method.losses(make_batch(rows=8), info())["teacher_entropy"]) > without + 0.5


def test_a_bfloat16_step_stays_finite():
    method, batch = make().float(), make_batch()
    batch["views"] = {name: view.float() for name, view in batch["views"].items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.losses(batch, info())["loss"]
    loss.backward()
    method.after_step(info())
    assert loss.dtype == torch.float32 and loss.isfinite() and method.center.isfinite().all()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_six_steps_are_three_and_three_more(tiny, images, tmp_path):
    tree = images.tree(SMALL, VIT)
    for number in (1, 2):
        tree["augment"]["views"][f"local_{number}"]["size"] = 8
    images.require_same_after_resume(tiny, tree, tmp_path)


def test_missing_and_needless_views_are_refused(images):
    tree = images.tree(SMALL, VIT)
    del tree["augment"]["views"]["local_2"]
    with pytest.raises(RecipeError, match=r"method dino needs augment.views.local_2"):
        recipe_from_tree(tree, where="test")
    tree = images.tree({**SMALL, "local_views": 3}, VIT)
    tree["method"]["local_views"] = 2
    with pytest.raises(RecipeError, match=r"augment.views.local_3 is made for nothing"):
        recipe_from_tree(tree, where="test")
    with pytest.raises(InputError, match=r"dino needs the views global_first, .* but the batch lacks local_1"):
        make().losses(make_batch(local=0), info())


def test_a_first_temperature_without_a_ramp_is_refused():
    with pytest.raises(ValidationError, match="teacher_temperature_start does nothing without teacher_ramp_up_steps"):
        make(teacher_temperature_start=0.01)
    make(teacher_temperature_start=0.01, teacher_ramp_up_steps=1)
    make(teacher_temperature_start=0.07, teacher_temperature=0.07)
