"""Tests of the scale of a generator's grey values: by hand, property, limit."""

import math

import pytest
import torch

from medcontrast.networks.grey_scale import off_scale, on_scale

SCALES = ("linear", "logit")


def test_grey_values_on_the_scale_by_hand():
    share = torch.tensor([0.0, 0.5, 1.0, 0.25])
    assert on_scale(share, "linear").tolist() == [-1.0, 0.0, 1.0, -0.5]
    quarter = math.log(0.275 / 0.725) / math.log(0.95 / 0.05)
    torch.testing.assert_close(on_scale(share, "logit"), torch.tensor([-1.0, 0.0, 1.0, quarter]))


@pytest.mark.parametrize("scale", SCALES)
def test_there_and_back_keeps_every_grey_level(scale):
    levels = torch.arange(256) / 255
    assert (off_scale(on_scale(levels, scale), scale) * 255).round().tolist() == list(range(256))
    torch.testing.assert_close(off_scale(on_scale(levels, scale), scale), levels, rtol=0, atol=1e-6)


def test_a_power_is_nearly_a_shift_of_logits_at_faint_edges():
    faint = torch.tensor([0.02, 0.05, 0.1, 0.2])
    change = {scale: on_scale(faint.sqrt(), scale) - on_scale(faint, scale) for scale in SCALES}
    spread = {scale: float(moved.std() / moved.mean()) for scale, moved in change.items()}
    assert spread["logit"] < 0.08 < 0.2 < spread["linear"]
