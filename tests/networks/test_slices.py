"""The U-Net of slices: geometry (a marked voxel stays in place), property, by hand, gradient."""

from __future__ import annotations

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.networks.build import build_network
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.networks.slices import SliceUNet
from medcontrast.networks.transfer import encoder_of

SIDES = (11, 9, 14)


def make(axis, seed=0):
    torch.manual_seed(seed)
    encoder = build_encoder("resnet20", in_channels=2, width=4, norm="group")
    return SliceUNet(encoder, classes=3, width=4, axis=axis).eval()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Pointwise(torch.nn.Module):
    """Stands for a U-Net: logits and features are functions of each pixel and its place."""

    def decode(self, image):
        first, second = (torch.arange(side, dtype=image.dtype) for side in image.shape[2:])
        place = first[:, None] * 100 + second
        return torch.cat([image, image[:, :1] * place], dim=1), image


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_marked_voxel_stays_in_place_and_its_slice_lies_the_right_way_round(axis):
    network = make(axis)
    network.unet = Pointwise()
    image = torch.zeros(2, 2, *SIDES)
    image[1, 0, 3, 7, 12] = 5.0
    output = network(image)
    assert torch.equal(output.features, image)
    assert output.logits[:, 2].nonzero().tolist() == [[1, 3, 7, 12]]
    first, second = (place for other, place in enumerate((3, 7, 12)) if other != axis)
    assert output.logits[1, 2, 3, 7, 12] == 5.0 * (first * 100 + second)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_slice_is_what_the_unet_makes_of_it_alone(axis):
    network, image = make(axis), noise(2, 2, *SIDES)
    output = network(image)
    assert output.logits.shape == (2, 3, *SIDES) and output.features.shape == (2, 4, *SIDES)
    for number in range(SIDES[axis]):
        logits, features = network.unet.decode(image.select(2 + axis, number))
        torch.testing.assert_close(output.logits.select(2 + axis, number), logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(output.features.select(2 + axis, number), features, atol=1e-5, rtol=1e-4)
        one = network(image.narrow(2 + axis, number, 1)).logits
        torch.testing.assert_close(one.select(2 + axis, 0), logits, atol=1e-5, rtol=1e-4)


def test_slices_do_not_see_each_other():
    network, image = make(1), noise(1, 2, *SIDES)
    changed = image.clone()
    changed[:, :, :, 4] += 3.0 * noise(11, 14)
    with torch.no_grad():
        moved = (network(image).logits - network(changed).logits).abs().amax((0, 1, 2, 4))
    assert moved[4] > 0.01 and float(moved[[0, 1, 2, 3, 5, 6, 7, 8]].max()) < 1e-6


def test_the_features_are_those_the_logits_are_made_of():
    network = make(0)
    output = network(noise(1, 2, *SIDES))
    head = network.unet.head
    logits = torch.einsum("kc,bcxyz->bkxyz", head.weight[:, :, 0, 0], output.features)
    torch.testing.assert_close(output.logits, logits + head.bias.view(1, -1, 1, 1, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.unet(noise(1, 2, 9, 14)), network.unet.decode(noise(1, 2, 9, 14))[0])


def test_gradient_reaches_every_tensor():
    network = make(2).train()
    network(noise(2, 2, 16, 16, 1)).logits.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_its_encoder_is_found_by_name_and_other_networks_have_none():
    name, encoder = encoder_of(make(2))
    assert name == "unet.encoder" and encoder.feature_channels == 16
    assert encoder_of(build_network("vnet", in_channels=1, classes=2, filters=2)) == ("", None)


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match="Slices lie along axis 0, 1 or 2, but got 3"):
        SliceUNet(build_encoder("resnet20", in_channels=1), classes=2, axis=3)
    with pytest.raises(InputError, match=r"takes images of shape \(rows, 2, x, y, z\), but got \(1, 1, 8, 8, 8\)"):
        make(2)(noise(1, 1, 8, 8, 8))
