"""Tests of an objective under a bound: reference (plain floats), by hand, property, gradient."""

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.lagrangian import ascended, lagrangian


def number(value, gradient=False):
    return torch.tensor(value, dtype=torch.float64, requires_grad=gradient)


@pytest.mark.parametrize("damping", [0.0, 0.7, 10.0])
@pytest.mark.parametrize("multiplier", [0.0, 0.4, 25.0])
@pytest.mark.parametrize("value", [0.9, 1.1652, 2.0])
def test_against_plain_floats_with_gradients_by_hand(value, multiplier, damping):
    bound, objective = 1.1652, 3.5
    parts = number(objective, True), number(value, True), number(multiplier, True)
    found = lagrangian(parts[0], parts[1], bound=number(bound), multiplier=parts[2], damping=damping)
    slack = bound - value
    assert found.item() == pytest.approx(objective - (multiplier - damping * slack) * slack)
    by_objective, by_value, by_multiplier = (each.item() for each in torch.autograd.grad(found, parts))
    assert by_objective == 1.0
    assert by_value == pytest.approx(multiplier - 2 * damping * slack)
    assert by_multiplier == pytest.approx(value - bound)


def test_gradient():
    parts = number(0.3, True), number(1.4, True), number(0.8, True)
    assert torch.autograd.gradcheck(
        lambda objective, value, multiplier: lagrangian(
            objective, value, bound=number(1.0), multiplier=multiplier, damping=0.5
        ),
        parts,
    )


def test_the_multiplier_rises_just_where_the_value_exceeds_its_bound_and_never_below_0():
    generator = torch.Generator().manual_seed(0)
    multiplier, bound, rate = number(0.0), number(1.1652), 0.1
    seen = set()
    for value in 1.1652 + 0.5 * torch.randn(200, generator=generator, dtype=torch.float64):
        moved = ascended(multiplier, value, bound=bound, rate=rate)
        assert bool(moved > multiplier) is bool(value > bound)
        assert moved.item() == pytest.approx(max(0.0, multiplier.item() + rate * (value.item() - 1.1652)))
        assert moved >= 0.0
        seen.add((bool(value > bound), bool(moved == 0.0)))
        multiplier = moved
    assert seen == {(True, False), (False, False), (False, True)}


def test_ascent_follows_the_derivative_of_the_undamped_lagrangian():
    multiplier, value, bound = number(0.5, True), number(1.3), number(1.0)
    lagrangian(number(0.0), value, bound=bound, multiplier=multiplier).backward()
    assert ascended(multiplier.detach(), value, bound=bound, rate=2.0).item() == pytest.approx(
        0.5 + 2.0 * multiplier.grad.item()
    )


def test_descent_and_ascent_find_the_bounded_minimum():
    """min (x - 3)^2 with x <= 1: x = 1, and the multiplier is the slope there, 4."""
    x, multiplier, bound = number(0.0, True), number(0.0), number(1.0)
    for _ in range(2000):
        loss = lagrangian((x - 3.0) ** 2, x, bound=bound, multiplier=multiplier, damping=1.0)
        (slope,) = torch.autograd.grad(loss, x)
        x = (x - 0.02 * slope).detach().requires_grad_()
        multiplier = ascended(multiplier, x.detach(), bound=bound, rate=0.1)
    assert x.item() == pytest.approx(1.0, abs=1e-3) and multiplier.item() == pytest.approx(4.0, abs=1e-2)


def test_runs_in_float32_under_autocast():
    low = torch.tensor(1.2, dtype=torch.bfloat16)
    found = lagrangian(low, low, bound=torch.tensor(1.0), multiplier=torch.tensor(2.0))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(low.item() + 2.0 * (low.item() - 1.0))


def test_what_is_refused():
    one = torch.tensor(1.0)
    with pytest.raises(InputError, match=r"damping must be 0 or above, but got -1\.0"):
        lagrangian(one, one, bound=one, multiplier=one, damping=-1.0)
