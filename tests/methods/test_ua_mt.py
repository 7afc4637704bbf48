"""Tests of ua_mt beyond what every teacher promises: by hand, property."""

from __future__ import annotations

import math

import torch
from torch import nn

from medcontrast.batch import StepInfo
from medcontrast.methods import build_method
from medcontrast.networks.build import build_network
from medcontrast.networks.output import Output
from medcontrast.schedules import gaussian_ramp_up

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


def test_the_consistency_is_weighed_by_its_own_ramp(tiny):
    """Of `ramp_up_steps` steps, however long the run is."""
    method, batch = make(tiny, ramp_up_steps=8, consistency_weight=0.7), tiny.make_batch()
    method._uncertainty = lambda image, *_: torch.zeros_like(image)  # every voxel is certain
    for info in (INFO, INFO._replace(total=100), INFO._replace(step=50, total=100)):
        with torch.no_grad():
            terms = method.losses(batch, info)
        assert float(terms["consistency"]) > 1e-4
        expected = terms["supervised"] + 0.7 * gaussian_ramp_up(info.step, 8) * terms["consistency"]
        torch.testing.assert_close(terms["loss"], expected)


def test_the_threshold_ramps_up_to_the_largest_entropy_over_the_whole_run(tiny):
    """Half way the ramp stands at exp(-5 / 4), and the threshold at 0.822 ln C, however short the weight's ramp is."""
    method, batch = make(tiny, threshold_start=0.75, ramp_up_steps=10), tiny.make_batch()
    counted = {}
    for share in (0.8, 0.84, 0.9):
        method._uncertainty = lambda image, *_, share=share: torch.full_like(image, share * math.log(3))
        steps = [INFO._replace(step=step, total=100) for step in (0, 50, 100)]
        terms = [method.losses(batch, info)["consistency"] for info in steps]
        counted[share] = [bool(term > 0) for term in terms]
    assert counted == {0.8: [False, True, True], 0.84: [False, False, True], 0.9: [False, False, True]}


def test_the_teacher_alone_is_asked_and_about_the_weak_view_of_unlabeled_rows(tiny):
    method, batch = make(tiny), tiny.make_batch()
    weak, seen = batch["views"]["weak"][2:], []
    method.teacher.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    method.losses(batch, INFO)
    assert torch.equal(seen[0], weak)  # the target
    assert len(seen) == 3
    for noisy in seen[1:]:
        assert 0 < float((noisy - weak).abs().max()) <= 0.2 + 1e-5


def test_uncertainty_is_the_entropy_of_the_mean_of_the_passes(tiny):
    """Three passes that are sure, one of each class, are together as undecided as can be."""
    method, image = make(tiny, passes=3), tiny.make_batch()["image"]
    answers = iter(20.0 * torch.eye(3))

    def one_class_a_pass(noisy):
        logits = next(answers).view(1, 3, 1, 1, 1).expand(len(noisy), 3, *noisy.shape[2:])
        return Output(logits, logits)

    method.teacher.forward = one_class_a_pass
    found = method._uncertainty(image, torch.arange(len(image)), INFO)
    torch.testing.assert_close(found, torch.full_like(image, math.log(3)))


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


def test_every_row_has_noise_of_its_own(tiny):
    """Rows of one image; as noisy - image of two images, equal noises differ in their rounding."""
    method, seen = make(tiny), []
    image = tiny.make_batch()["image"][:1].expand(2, -1, -1, -1, -1)
    method.teacher.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    method._uncertainty(image, torch.tensor([2, 3]), INFO)
    method._uncertainty(image[:1], torch.tensor([3]), INFO)
    assert not torch.equal(seen[0][0], seen[0][1])
    assert torch.equal(seen[0][1], seen[2][0])  # of two passes each
