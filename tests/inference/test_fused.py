"""Kinds: property, reference (the network as trained)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcontrast.inference.fused import OneDnnConvolution, fused
from medcontrast.networks.build import build_network
from medcontrast.networks.output import Network


def trained_vnet(norm: str = "batch", decoders: int = 1) -> Network:
    """Running statistics are not 0 and 1, nor are scale and shift 1 and 0."""
    torch.manual_seed(0)
    network = build_network("vnet", in_channels=1, classes=3, filters=4, norm=norm, decoders=decoders)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        network.train()(torch.randn(2, 1, 32, 32, 32))
    return network.eval()


@pytest.mark.parametrize("decoders", [1, 3])
def test_a_fused_network_is_the_same_function(decoders: int) -> None:
    network = trained_vnet(decoders=decoders)
    image = torch.randn(2, 1, 32, 48, 16)
    with torch.no_grad():
        expected = network.double()(image.double())
        found = fused(network.float())(image)
        unfused = network(image)
    for ours, plain, exact in zip(found, unfused, expected, strict=True):
        assert (ours - exact).abs().max() < 1e-5 * exact.abs().max()
        assert (plain - exact).abs().max() < 1e-5 * exact.abs().max()


def test_every_norm_of_a_fused_network_is_folded() -> None:
    network = trained_vnet()
    made = fused(network)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    assert not any(isinstance(module, nn.BatchNorm3d) for module in made.modules())
    count = sum(isinstance(module, OneDnnConvolution) for module in made.modules())
    assert count == len(convolutions)
    assert [module.relu for module in made.modules() if isinstance(module, OneDnnConvolution)].count(False) == 1
    assert not made.training and not any(weight.requires_grad for weight in made.parameters())
    assert any(isinstance(module, nn.BatchNorm3d) for module in network.modules())  # left alone


def test_other_norms_stay() -> None:
    network = trained_vnet("instance")
    made = fused(network)
    image = torch.randn(1, 1, 32, 32, 32)
    assert made.state_dict().keys() == network.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(made(image).logits, network(image).logits, atol=1e-5, rtol=1e-5)


def test_activations_of_one_channel_and_of_many_stay_channels_last() -> None:
    made = fused(trained_vnet())
    layouts = []
    for module in made.modules():
        if isinstance(module, OneDnnConvolution):
            module.register_forward_hook(
                lambda _, __, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last_3d))
            )
    for rows in (1, 2):
        with torch.no_grad():
            made(torch.randn(rows, 1, 32, 32, 32))
    assert layouts and all(layouts)


def test_under_autocast_a_fused_network_computes_in_bfloat16() -> None:
    network = trained_vnet()
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = fused(network)(image).logits
    with torch.no_grad():
        exact = network(image).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).abs().max() < 0.1 * exact.abs().max()
    assert not torch.equal(logits.float(), exact)


def test_without_onednn_the_two_layers_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = OneDnnConvolution.take(nn.Conv3d(2, 3, 3, padding=1), relu=True)
    image = torch.randn(1, 2, 8, 8, 8)
    with torch.no_grad():
        one = layer(image)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert torch.allclose(layer(image), one, atol=1e-6) and (one == 0).any() and (one > 0).any()
