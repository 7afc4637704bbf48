"""Kinds: property, reference (the network as trained; PyTorch's arg-max)."""

from __future__ import annotations

import torch

from medcontrast.inference.fused import ConvolutionReLU, fused
from medcontrast.inference.windows import most_probable
from medcontrast.networks.build import build_network


def test_a_fused_network_is_the_same_function() -> None:
    torch.manual_seed(0)
    network = build_network("vnet", in_channels=1, classes=3, filters=4, norm="batch")
    image = torch.randn(2, 1, 32, 32, 32)
    with torch.no_grad():
        network.train()(image)  # running statistics that are not 0 and 1
        expected = network.eval()(image).logits
        made = fused(network)
        assert any(isinstance(module, ConvolutionReLU) for module in made.modules())
        assert torch.allclose(made(image).logits, expected, atol=1e-4)


def test_most_probable_is_the_argmax() -> None:
    values = torch.randn(4, 7, 6, 5)
    assert torch.equal(most_probable(values), values.argmax(dim=0).to(torch.int16))
    assert not most_probable(torch.ones(3, 2, 2, 2)).any()
