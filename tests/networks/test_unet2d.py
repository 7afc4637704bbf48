"""The 2D U-Net: by hand, property, gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.networks.transfer import load_encoder
from medcontrast.networks.unet2d import UNet2D

ENCODERS = [("resnet20", {}), ("resnet18", {}), ("resnet18", {"small_stem": True})]


def make(name="resnet20", seed=0, width=4, **plain):
    torch.manual_seed(seed)
    encoder = build_encoder(name, in_channels=2, width=width, norm="group", **plain)
    return UNet2D(encoder, classes=3, width=width)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "plain"), ENCODERS)
@pytest.mark.parametrize("sides", [(64, 64), (37, 50)])
def test_logits_lie_on_the_grid_of_the_image(name, plain, sides):
    assert make(name, **plain)(noise(2, 2, *sides)).shape == (2, 3, *sides)


@pytest.mark.parametrize(("name", "plain"), ENCODERS)
def test_gradient_reaches_every_tensor(name, plain):
    network = make(name, **plain)
    # a linear sum has no gradient behind a normalisation; squares have
    network(noise(2, 2, 64, 64)).square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


def test_every_stage_of_the_encoder_changes_the_logits():
    network, image = make().eval(), noise(1, 2, 32, 32)
    maps = network.encoder.stages(image)
    before = network(image)
    for place in range(len(maps)):
        changed = [value + 3.0 * noise(*value.shape) if place == index else value for index, value in enumerate(maps)]
        network.encoder.stages = lambda _, changed=changed: changed
        assert not torch.allclose(network(image), before, atol=1e-3), place


def test_rows_do_not_see_each_other():
    network, image = make().eval(), noise(3, 2, 32, 32)
    torch.testing.assert_close(network(image)[1:2], network(image[1:2]), atol=1e-5, rtol=1e-5)


def test_it_learns_a_square_and_starts_from_pretrained_weights():
    source, network = make(seed=5, width=16), make(width=16)
    held = {f"student.{key}": value for key, value in source.encoder.state_dict().items()}
    assert load_encoder(network.encoder, held, where="x") == len(held)
    assert torch.equal(network.encoder.stem[0].weight, source.encoder.stem[0].weight)
    label = torch.zeros(2, 24, 24, dtype=torch.int64)
    label[0, 4:12, 5:15], label[1, 10:20, 3:9] = 1, 2
    image = torch.stack([(label == 1).float(), (label == 2).float()], dim=1) + 0.1 * noise(2, 2, 24, 24)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(network(image), label).backward()
        optimizer.step()
    assert (network(image).argmax(1) == label).float().mean() > 0.98


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match=r"takes images of shape \(rows, 2, x, y\)"):
        make()(noise(1, 1, 32, 32))
    with pytest.raises(InputError, match="two classes at least, background included, but got 1"):
        UNet2D(build_encoder("resnet20", in_channels=1), classes=1)
