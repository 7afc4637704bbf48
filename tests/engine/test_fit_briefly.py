"""Tests of the small training: reference (AdamW in plain floats, from the equations), by hand (sentences, calls)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medcontrast.engine.fit_briefly import fit_briefly
from medcontrast.errors import NonFiniteLossError


class Weight(nn.Module):
    """One number."""

    def __init__(self, start):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(start, dtype=torch.float64))


def fit(made, loss_at, **settings):
    fit_briefly(made, loss_at, what="It", advice="do that", **settings)


def test_equals_adamw_with_warm_up_and_half_a_cosine_in_plain_floats():
    steps, lr, decay, targets = 23, 0.1, 0.3, [math.sin(step) for step in range(23)]
    made = Weight(2.0)
    fit(made, lambda step: (made.value - targets[step]) ** 2, steps=steps, lr=lr, weight_decay=decay)
    value, mean, square = 2.0, 0.0, 0.0
    for step, target in enumerate(targets):
        rate = lr * 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / 2)  # a tenth of 23 is 2
        gradient = 2 * (value - target)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        value *= 1 - rate * decay
        value -= rate * (mean / (1 - 0.9 ** (step + 1))) / (math.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8)
    assert float(made.value.detach()) == pytest.approx(value, rel=1e-12)


def test_every_step_is_told_with_its_loss():
    made, told = Weight(1.0), []
    fit(made, lambda step: made.value * (step + 1), steps=3, lr=1e-9, tell=lambda *what: told.append(what))
    assert [(step, round(float(loss), 3), loss.requires_grad) for step, loss in told] == [
        (0, 1.0, False),
        (1, 2.0, False),
        (2, 3.0, False),
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_it_before_the_weights_move(bad):
    made = Weight(1.0)
    before = []

    def loss_at(step):
        before.append(float(made.value.detach()))
        return made.value * (bad if step == 2 else 1.0)

    with pytest.raises(NonFiniteLossError, match=r"^It: the loss is not finite at step 2; do that\.$"):
        fit(made, loss_at, steps=5, lr=0.1)
    assert len(before) == 3 and float(made.value.detach()) == before[-1]
