"""Tests of MoCo v3: reference (plain loops in float64), by hand, gradient, property, golden run (3 + 3 = 6)."""

from __future__ import annotations

import math

import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.errors import InputError, RecipeError
from medcontrast.methods import build_method
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.settings import recipe_from_tree
from medcontrast.settings.pretraining import MoCoV3Settings

VIT = {"name": "vit", "width": 8, "image_size": 8, "patch": 4, "depth": 1, "heads": 2}


def make(encoder=VIT, **keys):
    torch.manual_seed(0)
    settings = MoCoV3Settings(**{"name": "moco_v3", "hidden_channels": 12, "embedding_channels": 6, **keys})
    return build_method(settings, lambda: build_encoder(**encoder, in_channels=1)).double().train()


def make_batch(rows=5, step=0):
    generator = torch.Generator().manual_seed(step)
    views = {name: torch.rand(rows, 1, 8, 8, generator=generator, dtype=torch.float64) for name in ("first", "second")}
    return {"views": views}


def info(step=0, total=10):
    return StepInfo(step, total, 0, 4)


def contrast(query, key, temperature):
    """Algorithm 1 of the paper over lists of numbers."""
    rows = [[value / math.dist(row, [0.0] * len(row)) for value in row] for row in query.tolist()]
    keys = [[value / math.dist(row, [0.0] * len(row)) for value in row] for row in key.tolist()]
    total = 0.0
    for place, row in enumerate(rows):
        logits = [sum(a * b for a, b in zip(row, other, strict=True)) / temperature for other in keys]
        total += math.log(sum(math.exp(value) for value in logits)) - logits[place]
    return 2.0 * temperature * total / len(rows)


def test_both_terms_equal_plain_loops_and_the_loss_is_their_sum():
    method, batch = make(temperature=0.3), make_batch()
    views = batch["views"]
    encoder, head = method.momentum
    query = {name: method.predictor(method.head(method.student(view))) for name, view in views.items()}
    key = {name: head(encoder(view)) for name, view in views.items()}
    terms = method.losses(batch, info())
    assert float(terms["first"].detach()) == pytest.approx(contrast(query["first"], key["second"], 0.3), rel=1e-9)
    assert float(terms["second"].detach()) == pytest.approx(contrast(query["second"], key["first"], 0.3), rel=1e-9)
    torch.testing.assert_close(terms["loss"], terms["first"] + terms["second"])


def test_a_process_finds_its_own_keys_among_those_of_all(monkeypatch):
    method, generator = make(), torch.Generator().manual_seed(9)
    query, key = (torch.randn(6, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    whole = method._contrast(query, key)
    monkeypatch.setattr("medcontrast.methods.moco_v3.gather", lambda _: key)
    parts = []
    for number in range(2):
        monkeypatch.setattr("medcontrast.methods.moco_v3.rank", lambda number=number: number)
        parts.append(method._contrast(query[3 * number : 3 * number + 3], key[3 * number : 3 * number + 3]))
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_equal_views_give_equal_terms():
    method, batch = make(), make_batch()
    batch["views"]["second"] = batch["views"]["first"]
    terms = method.losses(batch, info())
    torch.testing.assert_close(terms["first"], terms["second"])


@pytest.mark.parametrize("term", ["first", "second"])
def test_each_term_reaches_student_head_and_predictor_and_no_average(term):
    method = make()
    method.losses(make_batch(), info())[term].backward()
    for part in (method.student, method.head, method.predictor):
        assert sum(float(p.grad.norm()) for p in part.parameters() if p.grad is not None) > 0
    assert all(p.grad is None and not p.requires_grad for p in method.momentum.parameters())


def test_the_average_follows_with_a_decay_that_goes_to_one():
    method = make(ema_decay=0.5)
    with torch.no_grad():
        method.student.cls.add_(1.0)
    before, now = method.momentum[0].cls.clone(), method.student.cls.detach()
    method.after_step(info(0))
    torch.testing.assert_close(method.momentum[0].cls, 0.5 * before + 0.5 * now)
    before = method.momentum[0].cls.clone()
    method.after_step(info(5))  # in the middle the cosine is at a half
    torch.testing.assert_close(method.momentum[0].cls, 0.75 * before + 0.25 * now)
    before = method.momentum[0].cls.clone()
    method.after_step(info(10))
    assert torch.equal(method.momentum[0].cls, before)


def test_frozen_patches_stay_and_all_else_moves():
    method = make(freeze_patches=True)
    start = {name: value.clone() for name, value in method.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for step in range(2):
        optimizer.zero_grad()
        method.losses(make_batch(step=step), info(step))["loss"].backward()
        optimizer.step()
        method.after_step(info(step))
    same = [name for name, value in method.student.state_dict().items() if torch.equal(value, start[f"student.{name}"])]
    assert same == ["embed.weight", "embed.bias"]
    assert torch.equal(method.momentum[0].embed.weight, start["student.embed.weight"])


def test_the_average_starts_from_what_the_student_is_given():
    method = make()
    given = {name: torch.full_like(value, 0.5) for name, value in method.student.state_dict().items()}
    assert method.load_student(given) == len(given)
    assert bool((method.momentum[0].cls == 0.5).all()) and bool((method.student.cls == 0.5).all())


def test_a_convolutional_encoder_serves_too_but_has_no_patches_to_freeze():
    resnet = {"name": "resnet20", "width": 4}
    terms = make(resnet).losses(make_batch(), info())
    assert terms["loss"].isfinite()
    with pytest.raises(InputError, match="freeze_patches is for network vit, but the encoder is ResNet20"):
        make(resnet, freeze_patches=True)


def test_a_bfloat16_step_stays_finite():
    method, batch = make().float(), make_batch()
    batch["views"] = {name: view.float() for name, view in batch["views"].items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.losses(batch, info())["loss"]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_six_steps_are_three_and_three_more(tiny, images, tmp_path):
    tree = images.tree({"name": "moco_v3", "hidden_channels": 12, "embedding_channels": 6}, VIT)
    images.require_same_after_resume(tiny, tree, tmp_path)


def test_recipes_that_cannot_be_are_refused(images):
    tree = images.tree({"name": "moco_v3", "freeze_patches": True}, {"name": "resnet20"})
    with pytest.raises(RecipeError, match=r"method.freeze_patches is for network vit, not for resnet20"):
        recipe_from_tree(tree, where="test")
    tree = images.tree({"name": "moco_v3"}, VIT)
    tree["train"]["rows"] = 1
    with pytest.raises(RecipeError, match=r"moco_v3 normalises its heads over the rows .* fewer than 2$"):
        recipe_from_tree(tree, where="test")
    tree = images.tree({"name": "moco_v3"}, VIT)
    tree["augment"]["views"]["second"]["size"] = 10
    with pytest.raises(RecipeError, match=r"augment.views.second has 10 pixels a side, no multiple of network.patch 4"):
        recipe_from_tree(tree, where="test")
