"""Tests of the encoders: reference (MONAI, plain loops), by hand (counts, sentences), property, gradient."""

import re

import pytest
import torch
from monai.networks.nets.resnet import resnet18, resnet50
from torch import nn
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.networks.encoders2d import ENCODERS, Encoder, ResNet20, SplitBatchNorm2d, build_encoder, make_norm
from medcontrast.settings.network import SPLITS, EncoderSettings

SMALL = {"width": 4}
RESNETS = [name for name in ENCODERS if name != "vit"]  # tests/networks/test_vit2d.py has the other


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("norm", ["batch", "group", "split_batch"])
def test_features_are_the_mean_of_the_last_stage_and_stages_are_as_said(name, norm):
    torch.manual_seed(0)
    encoder = build_encoder(name, in_channels=2, norm=norm, **SMALL).eval()
    assert isinstance(encoder, Encoder)
    image = torch.randn(2, 2, 64, 32)
    features, maps = encoder(image), encoder.stages(image)
    assert features.shape == (2, encoder.feature_channels)
    torch.testing.assert_close(features, maps[-1].flatten(2).mean(2))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 32 // s) for c, s in zip(encoder.stage_channels, encoder.stage_strides, strict=True)
    ]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_small_stem_keeps_the_grid(name):
    encoder = build_encoder(name, in_channels=1, small_stem=True, **SMALL).eval()
    assert encoder.stage_strides == (1, 2, 4, 8)
    assert [m.shape[-1] for m in encoder.stages(torch.randn(1, 1, 32, 32))] == [32, 16, 8, 4]


def test_parameters_by_hand():
    # stem 3*16*9 + 32; stage 1: 6 convolutions of 16*16*9 and 6 norms of 32; then 16*32*9 + 5*32*32*9 + 6*64, and so on
    stem, one = 3 * 16 * 9 + 32, 6 * (16 * 16 * 9 + 32)
    two = 16 * 32 * 9 + 5 * 32 * 32 * 9 + 6 * 64
    three = 32 * 64 * 9 + 5 * 64 * 64 * 9 + 6 * 128
    count = sum(p.numel() for p in ResNet20().parameters())
    assert count == stem + one + two + three == 269_072
    with torch.device("meta"):  # torchvision's counts without the last layer
        assert sum(p.numel() for p in build_encoder("resnet18", in_channels=3).parameters()) == 11_176_512
        assert sum(p.numel() for p in build_encoder("resnet50", in_channels=3).parameters()) == 23_508_032


@pytest.mark.parametrize(("name", "make"), [("resnet18", resnet18), ("resnet50", resnet50)])
def test_as_monais_whole_network(name, make):
    torch.manual_seed(0)
    whole = make(spatial_dims=2, n_input_channels=3, num_classes=1, conv1_t_stride=2, feed_forward=False,
                 shortcut_type="B", bias_downsample=False).eval()  # fmt: skip
    encoder = build_encoder(name, in_channels=3).eval()
    encoder.load_state_dict(dict(zip(encoder.state_dict(), whole.state_dict().values(), strict=True)))
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder(image), whole(image))


def test_the_shortcut_by_loops():
    torch.manual_seed(0)
    block = ResNet20(width=2).levels[1][0].eval()
    for layer in (block.first, block.second):
        nn.init.zeros_(layer.weight)
    features = torch.rand(1, 2, 4, 6)
    out = block(features)
    expected = torch.zeros(1, 4, 2, 3)
    for c in range(2):
        for x in range(2):
            for y in range(3):
                expected[0, c + 1, x, y] = features[0, c, 2 * x, 2 * y]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", RESNETS)
def test_gradient_reaches_every_parameter_and_a_bfloat16_step_stays_finite(name):
    torch.manual_seed(0)
    encoder = build_encoder(name, in_channels=1, **SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(torch.randn(4, 1, 64, 64))
    (features.float() * torch.randn(features.shape)).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_split_norm_is_batch_norm_of_each_eighth():
    torch.manual_seed(0)
    split, image = SplitBatchNorm2d(3), 2.0 * torch.randn(16, 3, 4, 4) + torch.arange(16.0).view(-1, 1, 1, 1)
    nn.init.normal_(split.weight)
    out, means = split(image), []
    for part in range(8):
        rows = image[part::8]
        means.append(rows.mean((0, 2, 3)))
        expected = functional.batch_norm(rows, None, None, split.weight, split.bias, training=True)
        torch.testing.assert_close(out[part::8], expected)
    torch.testing.assert_close(split.running_mean, 0.1 * torch.stack(means).mean(0))
    assert split.num_batches_tracked == 1


def test_split_norm_is_batch_norm_in_evaluation_and_where_eight_does_not_divide():
    torch.manual_seed(0)
    split, plain = SplitBatchNorm2d(3), nn.BatchNorm2d(3)
    image = torch.randn(6, 3, 4, 4)
    torch.testing.assert_close(split(image), plain(image))
    split(torch.randn(8, 3, 4, 4))
    plain.load_state_dict(split.state_dict())
    torch.testing.assert_close(split.eval()(image), plain.eval()(image))


@pytest.mark.parametrize("name", sorted({*EncoderSettings.model_fields["name"].annotation.__args__} - {"vit"}))
@pytest.mark.parametrize("norm", EncoderSettings.model_fields["norm"].annotation.__args__)
def test_settings_and_builder_agree(name, norm):
    with torch.device("meta"):
        encoder = build_encoder(in_channels=1, **EncoderSettings(name=name, norm=norm, width=8).plain())
    assert encoder.in_channels == 1 and name in ENCODERS
    assert SplitBatchNorm2d.splits == SPLITS


def test_errors():
    sentence = "There is no encoder 'swin'; the encoders are resnet20, resnet18, resnet34, resnet50, vit."
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        build_encoder("swin", in_channels=1)
    with pytest.raises(InputError, match=r"vit\. Did you mean 'resnet50'\?$"):
        build_encoder("RESNET-50", in_channels=1)
    with pytest.raises(InputError, match="norm of an encoder is"):
        make_norm("layer", 4)
    with pytest.raises(InputError, match=r"ResNet20 takes images of shape \(rows, 3, x, y\), but got \(1, 1, 8, 8\)"):
        ResNet20()(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="small_stem is a setting of resnet18, resnet34 and resnet50"):
        EncoderSettings(name="resnet20", small_stem=True)


def test_an_encoder_without_stages_is_not_built():
    class Nothing(Encoder):
        """Says nothing of what it does."""

    with pytest.raises(TypeError, match=r"abstract method '?stages"):
        Nothing(in_channels=1, stage_channels=[4], stage_strides=[1])
