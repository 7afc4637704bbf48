"""Tests of bfloat16 without units for it: reference (float64, rounded), property."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medcontrast.bfloat16 import RoundedToBfloat16, rounds_bfloat16

LAYERS = {
    "conv3d": (lambda: nn.Conv3d(8, 16, 3, padding=1), (2, 8, 6, 7, 8)),
    "strided": (lambda: nn.Conv3d(8, 16, 3, padding=1, stride=2), (2, 8, 6, 7, 8)),
    "up": (lambda: nn.ConvTranspose3d(16, 8, 2, 2), (2, 16, 4, 3, 5)),
    "conv2d": (lambda: nn.Conv2d(8, 16, 3, padding=1), (2, 8, 9, 8)),
    "linear": (lambda: nn.Linear(64, 32), (5, 64)),
}


def autocast(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_the_exact_ones_rounded(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, x = make(), torch.randn(shape, requires_grad=True)
    with autocast(), RoundedToBfloat16():
        y = layer(x)
    assert y.dtype == torch.bfloat16
    up = torch.randn_like(y)
    y.backward(up)
    exact = copy.deepcopy(layer).double()
    for parameter in exact.parameters():
        parameter.data = parameter.data.bfloat16().double()
    inside = x.detach().bfloat16().double().requires_grad_()
    expected = exact(inside)
    expected.backward(up.double())
    ours = [y, x.grad, *(parameter.grad for parameter in layer.parameters())]
    theirs = [expected, inside.grad, *(parameter.grad for parameter in exact.parameters())]
    for mine, true in zip(ours, theirs, strict=True):
        assert mine.float().equal(mine.bfloat16().float())
        same = mine.bfloat16() == true.bfloat16()
        assert same.float().mean() > 0.995
        torch.testing.assert_close(mine.double(), true.bfloat16().double(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize(
    "multiply", [torch.matmul, torch.mm, lambda a, b: a @ b, lambda a, b: torch.einsum("ij,jk", a, b)]
)
def test_products_are_rounded(multiply):
    torch.manual_seed(0)
    a, b = torch.randn(7, 300), torch.randn(300, 5)
    with autocast(), RoundedToBfloat16():
        found = multiply(a, b)
    expected = (a.bfloat16().double() @ b.bfloat16().double()).bfloat16()
    assert found.dtype == torch.bfloat16
    assert (found == expected).float().mean() > 0.9
    assert not found.float().equal(a @ b)


def test_what_autocast_leaves_alone_is_left_alone():
    layer, x = nn.Conv2d(1, 2, 3), torch.randn(1, 1, 5, 5)
    with RoundedToBfloat16():
        assert layer(x).equal(layer(x.clone())) and layer(x).dtype == torch.float32
        with autocast():
            assert (x * x).dtype == torch.float32 and (x * x).equal(x.square())
            with autocast(enabled=False):
                assert layer(x).dtype == torch.float32
    with autocast():
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("precision", "device", "units", "rounds"),
    [
        ("bf16-mixed", "cpu", False, True),
        ("bf16-mixed", "cpu", True, False),
        ("bf16-mixed", "cuda", False, False),
        ("32-true", "cpu", False, False),
    ],
)
def test_where_it_is_rounded(monkeypatch, precision, device, units, rounds):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: units)
    assert rounds_bfloat16(precision, torch.device(device)) is rounds
