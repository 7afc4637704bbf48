"""Tests of V-Net: by hand (parameter counts, shapes, sentences), property, gradient."""

import re

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.networks.vnet import VNet


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_the_benchmark_network_has_its_published_number_of_parameters():
    assert parameters(VNet(in_channels=1, classes=2, filters=16, norm="batch", decoders=1)) == 9_448_866


def test_widths_and_convolution_counts_by_level():
    network = VNet()
    assert [level[0][0].out_channels for level in network.encoder.levels] == [16, 32, 64, 128, 256]
    assert [len(level) for level in network.encoder.levels] == [1, 2, 3, 3, 3]
    assert [len(level) for level in network.decoders[0].levels] == [3, 3, 2, 1]
    kernels = {m.kernel_size for m in network.encoder.levels.modules() if isinstance(m, torch.nn.Conv3d)}
    assert kernels == {(3, 3, 3)}
    dropouts = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout3d)]
    assert dropouts == [0.5, 0.5]


@pytest.mark.parametrize(("filters", "groups"), [(16, [8, 8, 8, 8, 8]), (4, [4, 8, 8, 8, 8]), (6, [2, 4, 8, 8, 8])])
def test_group_norm_has_eight_groups_or_as_many_as_divide_the_width(filters, groups):
    network = VNet(filters=filters, norm="group")
    levels = [{block[1].num_groups for block in level} for level in network.encoder.levels]
    assert levels == [{count} for count in groups]
    assert [up[1].num_groups for up in network.decoders[0].ups] == groups[-2::-1]


def test_each_decoder_goes_up_in_its_own_way():
    network = VNet(decoders=3)
    kinds = [type(decoder.ups[0][0]) for decoder in network.decoders]
    assert kinds == [torch.nn.ConvTranspose3d, torch.nn.Sequential, torch.nn.Sequential]
    assert [decoder.ups[0][0][0].mode for decoder in network.decoders[1:]] == ["trilinear", "nearest"]
    # A 3x3x3 kernel has 19 weights more than a 2x2x2 one, for each pair of channels of the four steps up.
    pairs = 256 * 128 + 128 * 64 + 64 * 32 + 32 * 16
    one, two = parameters(network.decoders[0]), parameters(network.decoders[1])
    assert two - one == 19 * pairs
    assert parameters(network.decoders[2]) == two


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
def test_shapes_and_what_it_says_of_itself(norm):
    network = VNet(in_channels=2, classes=4, filters=4, norm=norm)
    output = network(torch.randn(2, 2, 32, 16, 48))
    assert output.logits.shape == (2, 4, 32, 16, 48)
    assert output.features.shape == (2, 4, 32, 16, 48)
    assert (network.in_channels, network.classes, network.feature_channels) == (2, 4, 4)
    assert network.stride == (16, 16, 16)


def test_features_are_what_the_last_convolution_takes():
    network = VNet(filters=4).eval()
    output = network(torch.randn(1, 1, 32, 16, 16))
    torch.testing.assert_close(network.decoders[0].final(output.features), output.logits)


def test_skips_are_added():
    network = VNet(filters=4, dropout=0.0).eval()
    levels = network.encoder(torch.randn(1, 1, 32, 16, 16))
    joined = []
    network.decoders[0].levels[0].register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    network.decoders[0](levels)
    expected = network.decoders[0].ups[0](levels[4]) + levels[3]
    torch.testing.assert_close(joined[0], expected)


def test_decoder_one_is_the_one_for_inference():
    network = VNet(filters=4, decoders=3).eval()
    image = torch.randn(1, 1, 32, 16, 16)
    outputs = network.decode_all(image)
    assert len(outputs) == 3
    torch.testing.assert_close(network(image).logits, outputs[0].logits)
    assert not torch.allclose(outputs[0].logits, outputs[1].logits)
    assert not torch.allclose(outputs[1].logits, outputs[2].logits)


def test_dropout_acts_in_training_alone_and_features_are_taken_before_the_last():
    torch.manual_seed(0)
    network = VNet(filters=8, norm="none", dropout=0.5)
    image = torch.randn(1, 1, 16, 16, 16)
    assert not torch.equal(network(image).logits, network(image).logits)
    network.encoder.dropout.eval()
    torch.testing.assert_close(network(image).features, network(image).features, rtol=0, atol=0)
    assert not torch.equal(network(image).logits, network(image).logits)
    network.eval()
    torch.testing.assert_close(network(image).logits, network(image).logits, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
def test_gradient_reaches_every_parameter(norm):
    torch.manual_seed(0)
    network = VNet(filters=4, norm=norm, dropout=0.0, decoders=3)
    outputs = network.decode_all(torch.randn(2, 1, 32, 16, 16))
    sum(output.logits.square().mean() for output in outputs).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    # The bias before a normalisation over space cancels out; weights and the last layer's bias do not.
    dead = [name for name, p in network.named_parameters() if p.ndim > 1 and p.grad.abs().sum() == 0]
    assert dead == []


@pytest.mark.parametrize("side", [8, 24, 80 + 1])
def test_a_side_that_is_no_multiple_of_16_is_refused_with_the_shape(side):
    sentence = f"VNet needs sides that are multiples of (16, 16, 16), but got (32, {side}, 32)."
    with pytest.raises(InputError, match=re.escape(sentence)):
        VNet(filters=2)(torch.zeros(1, 1, 32, side, 32))


def test_the_message_names_sides_that_fit():
    with pytest.raises(InputError, match=re.escape("Use (32, 32, 16), for example.")):
        VNet(filters=2)(torch.zeros(1, 1, 32, 24, 8))


def test_another_number_of_channels_is_refused():
    with pytest.raises(InputError, match=re.escape("takes images of shape (rows, 1, x, y, z), but got (1, 2, 16")):
        VNet(filters=2)(torch.zeros(1, 2, 16, 16, 16))


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_one_voxel_at_the_deepest_level_is_refused_where_the_norm_cannot_work(norm):
    network, voxel = VNet(filters=2, norm=norm), torch.zeros(1, 1, 16, 16, 16)
    with pytest.raises(InputError, match=f"leaves one voxel at the deepest level, which {norm} normalisation"):
        network(voxel)
    if norm == "batch":
        assert network(voxel.repeat(2, 1, 1, 1, 1)).logits.isfinite().all()
        assert network.eval()(voxel).logits.isfinite().all()


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match=r'norm is "batch", "instance", "group" or "none", but got \'layer\''):
        VNet(norm="layer")
    with pytest.raises(InputError, match="vnet has 1, 2 or 3 decoders, but got 4"):
        VNet(decoders=4)
