"""Tests of the vision transformer: reference (plain loops in float64), by hand, property, gradient, whole (U-Net)."""

from __future__ import annotations

import math

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.networks.transfer import load_encoder
from medcontrast.networks.unet2d import UNet2D
from medcontrast.networks.vit2d import ViT
from medcontrast.settings.network import EncoderSettings


def make(seed=0, **plain):
    torch.manual_seed(seed)
    return ViT(**{"in_channels": 2, "width": 12, "image_size": 16, "patch": 4, "depth": 2, "heads": 3, **plain}).eval()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def norm(token, layer):
    mean = sum(token) / len(token)
    variance = sum((value - mean) ** 2 for value in token) / len(token)
    scaled = [(value - mean) / math.sqrt(variance + 1e-6) for value in token]
    return [s * float(w) + float(b) for s, w, b in zip(scaled, layer.weight, layer.bias, strict=True)]


def linear(token, layer):
    return [
        float(bias) + sum(float(w) * value for w, value in zip(row, token, strict=True))
        for row, bias in zip(layer.weight, layer.bias, strict=True)
    ]


def attention(tokens, block):
    """Each head by itself, over lists of numbers."""
    mixed_in = [linear(norm(token, block.attention_norm), block.query_key_value) for token in tokens]
    width, size = len(tokens[0]), len(tokens[0]) // block.heads
    out = []
    for here, token in zip(mixed_in, tokens, strict=True):
        joined = []
        for head in range(block.heads):
            low = head * size
            query = here[low : low + size]
            scores = [
                sum(a * b for a, b in zip(query, other[width + low : width + low + size], strict=True)) / size**0.5
                for other in mixed_in
            ]
            weights = [math.exp(score) for score in scores]
            for place in range(size):
                values = [other[2 * width + low + place] for other in mixed_in]
                joined.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
        out.append([a + b for a, b in zip(token, linear(joined, block.joined), strict=True)])
    return out


def perceptron(token, block):
    hidden = [
        value * 0.5 * (1 + math.erf(value / 2**0.5)) for value in linear(norm(token, block.mlp_norm), block.mlp[0])
    ]
    return [a + b for a, b in zip(token, linear(hidden, block.mlp[2]), strict=True)]


def reference(vit, image):
    """Last tokens of one image (c, x, y), in lists."""
    side, tokens = vit.patch, [(vit.cls + vit.cls_position)[0, 0].tolist()]
    for p in range(image.shape[1] // side):
        for q in range(image.shape[2] // side):
            piece = image[:, p * side : (p + 1) * side, q * side : (q + 1) * side]
            weights = vit.embed.weight
            embedded = [float((weights[d] * piece).sum() + vit.embed.bias[d]) for d in range(len(weights))]
            tokens.append([a + float(b) for a, b in zip(embedded, vit.positions[0, :, p, q], strict=True)])
    for block in vit.blocks:
        tokens = [perceptron(token, block) for token in attention(tokens, block)]
    return [norm(token, vit.norm) for token in tokens]


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_features_and_map_equal_plain_loops(pooling):
    vit = make(image_size=8, pooling=pooling).double()
    for parameter in vit.parameters():  # as they are made, biases and norms would hide a slip
        parameter.add_(0.3 * noise(*parameter.shape).double())
    image = noise(1, 2, 8, 8).double()
    tokens = torch.tensor(reference(vit, image[0]), dtype=torch.float64)
    wanted = tokens[0] if pooling == "cls" else tokens[1:].mean(0)
    torch.testing.assert_close(vit(image)[0], wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(vit.stages(image)[0][0], tokens[1:].T.reshape(12, 2, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_the_map_has_a_place_a_patch(patch):
    vit = make(image_size=32, patch=patch)
    assert vit.stage_strides == (patch,) and vit.feature_channels == 12
    maps = vit.stages(noise(2, 2, 32, 16))
    assert [tuple(each.shape) for each in maps] == [(2, 12, 32 // patch, 16 // patch)]
    assert vit(noise(2, 2, 16, 16)).shape == (2, 12)


def test_parameters_by_hand():
    blocks = 2 * (2 * 24 + 12 * 36 + 36 + 12 * 12 + 12 + 12 * 48 + 48 + 48 * 12 + 12)
    assert sum(p.numel() for p in make().parameters()) == 2 * 16 * 12 + 12 + 2 * 12 + 12 * 16 + blocks + 24


def test_positions_are_interpolated_to_other_sizes_and_kept_at_their_own():
    vit = make()
    assert vit._positions(4, 4) is vit.positions
    with torch.no_grad():
        line = torch.arange(4.0)
        vit.positions.copy_((10 * line[:, None] + line).expand_as(vit.positions))
    other = vit._positions(8, 2)
    assert other.shape == (1, 12, 8, 2)
    # x counts rows: a plane that rises by 10 along x and by 1 along y rises by half and by twice that
    torch.testing.assert_close(other.mean((2, 3)), vit.positions.mean((2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other[0, 0, 2:6, 0].diff(), torch.full((3,), 5.0), rtol=0.3, atol=0.0)
    torch.testing.assert_close(other[0, 0, :, 1] - other[0, 0, :, 0], torch.full((8,), 2.0), rtol=0.2, atol=0.0)


def test_moved_patches_are_told_apart_by_their_position_alone():
    vit, image = make(), noise(1, 2, 16, 16)
    moved = image.roll(4, dims=2)
    assert not torch.allclose(vit(image), vit(moved), atol=1e-5)
    with torch.no_grad():
        vit.positions.zero_()
    torch.testing.assert_close(vit(image), vit(moved), rtol=1e-4, atol=1e-5)


def test_gradient_reaches_every_tensor_and_frozen_patches_get_none():
    vit = make().train()
    vit(noise(2, 2, 16, 16)).square().sum().backward()
    (vit(noise(2, 2, 16, 16)) * noise(2, 12)).sum().backward()
    for name, parameter in vit.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    vit.zero_grad()
    vit.freeze_patches()
    (vit(noise(2, 2, 16, 16)) * noise(2, 12)).sum().backward()
    assert [name for name, p in vit.named_parameters() if p.grad is None] == ["embed.weight", "embed.bias"]


def test_a_bfloat16_step_stays_finite():
    vit = make().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = vit(noise(2, 2, 8, 8)).float().square().mean()
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in vit.parameters() if p.grad is not None)


def test_it_is_built_from_settings_and_serves_a_unet_of_any_image():
    settings = EncoderSettings(name="vit", width=12, image_size=16, patch=4, depth=1, heads=2, pooling="mean")
    encoder = build_encoder(in_channels=1, **settings.plain())
    assert (encoder.pooling, len(encoder.blocks), settings.stride) == ("mean", 1, 4)
    assert build_encoder("vit", in_channels=3).positions.shape == (1, 192, 8, 8)
    network = UNet2D(encoder, classes=2, width=4)
    assert network(noise(1, 1, 21, 30)).shape == (1, 2, 21, 30)
    other = build_encoder(in_channels=1, **settings.plain())
    assert load_encoder(other, {f"unet.{k}": v for k, v in encoder.state_dict().items()}, where="x") == len(
        encoder.state_dict()
    )


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match=r"multiples of its patch 4, but got \(1, 2, 16, 18\)"):
        make()(noise(1, 2, 16, 18))
    with pytest.raises(InputError, match="patch 4 does not divide image_size 18"):
        make(image_size=18)
    with pytest.raises(InputError, match="width 12 is no multiple of heads 5"):
        make(heads=5)
    with pytest.raises(ValueError, match="patch, depth, heads, image_size and pooling are settings of vit"):
        EncoderSettings(name="resnet20", depth=4)
    with pytest.raises(ValueError, match="vit has layer norm; leave norm out"):
        EncoderSettings(name="vit", norm="group")
    with pytest.raises(ValueError, match="patch 8 does not divide image_size 36"):
        EncoderSettings(name="vit", patch=8, image_size=36)
