"""Tests of ua_mt beyond what every teacher promises: by hand, property."""

from __future__ import annotations

import math

import torch
from torch import nn

from medcontrast.batch import StepInfo
from medcontrast.methods import build_method
from medcontrast.networks.build import build_network
from medcontrast.networks.output import Output

INFO = StepInfo(step=5, total=10, seed=1)


def make(tiny, *, dropout=0.0, **settings):
    tree = tiny.recipe_tree("ua_mt")
    for key, value in settings.items():
        tree = tiny.set_key(tree, f"method.{key}", value)
    torch.manual_seed(0)
    plain = {"in_channels": 1, "classes": 3, "filters": [4, 8, 8], "dropout": dropout}
    return build_method(tiny.recipe_from(tree).method, lambda: build_network("dynunet", **plain)).train()


class HalfSure(nn.Module):
    """Sure of class 1 in the first half of x, undecided in the second, whatever the image."""

    def forward(self, image):
        logits = torch.zeros(len(image), 3, *image.shape[2:])
        logits[:, 1, : image.shape[2] // 2] = 20.0
        return Output(logits, logits)


def test_only_certain_voxels_count(tiny):
    method, batch = make(tiny, threshold_start=0.75), tiny.make_batch()
    method.teacher = HalfSure()
    terms = method.losses(batch, INFO._replace(step=0))
    student = method.student(batch["views"]["strong"]).logits[2:].softmax(1)[:, :, :8]
    target = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(terms["consistency"], (student - target).square().mean(), rtol=1e-4, atol=1e-6)


def test_the_threshold_ramps_up_to_the_largest_entropy(tiny):
    """Entropy at 0.9 ln C: left out at the start, counted at the end."""
    method, batch = make(tiny, ramp_up_steps=100), tiny.make_batch()
    method._uncertainty = lambda image, *_: torch.full_like(image, 0.9 * math.log(3))
    counted = [bool(method.losses(batch, INFO._replace(step=step))["consistency"] > 0) for step in (0, 100)]
    assert counted == [False, True]


def test_noisy_passes_differ_and_are_drawn_anew(tiny):
    method = make(tiny)
    batch = tiny.make_batch()
    image = batch["image"]
    plain = method.teacher(image).logits.softmax(1)
    seen: list[torch.Tensor] = []
    hook = method.teacher.register_forward_hook(lambda module, args, output: seen.append(args[0] - image))
    for step in (5, 5, 6):
        method._uncertainty(image, batch["index"], INFO._replace(step=step))
    hook.remove()
    assert plain.shape[1] == 3
    assert len(seen) == 6
    first, second, again, _, other, _ = seen
    assert torch.equal(first, again)  # a function of the step and the row, whatever was drawn before
    assert not any(torch.equal(first, noise) for noise in (second, other))
    assert not torch.equal(first[0], first[1])
    assert all(float(noise.abs().max()) <= 0.2 + 1e-5 and 0.08 < float(noise.std()) < 0.1 for noise in seen)


def test_dropout_acts_in_the_noisy_passes_alone(tiny):
    method = make(tiny, dropout=0.5)
    image = tiny.make_batch()["image"]
    modes: list[bool] = []
    layer = next(module for module in method.teacher.modules() if type(module).__name__.startswith("Dropout"))
    hook = layer.register_forward_hook(lambda module, *_: modes.append(module.training))
    method._uncertainty(image, torch.arange(len(image)), INFO)
    method.teacher(image)
    hook.remove()
    assert set(modes[:-1]) == {True}
    assert modes[-1] is False
    assert not any(module.training for module in method.teacher.modules())
