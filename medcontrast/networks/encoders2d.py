"""Encoders of images: what pre-training trains, and what a probe or a U-Net takes over. By name, from plain values.

Letters: b rows, c channels, x, y pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcontrast.errors import InputError, unknown_name


class Encoder(nn.Module, ABC):
    """An encoder: image (b, in_channels, x, y) in, features (b, feature_channels) out.

    Attributes:
        in_channels: Channels of the image.
        feature_channels: Channels of the pooled features: those of the last stage.
        stage_channels: Channels of each of `stages`, the finest first.
        stage_strides: Pixels of the image to one of each stage, the finest first.
    """

    def __init__(self, *, in_channels: int, stage_channels: Sequence[int], stage_strides: Sequence[int]) -> None:
        """Records what the encoder says of itself; see the class for the arguments."""
        super().__init__()
        self.in_channels = in_channels
        self.feature_channels = stage_channels[-1]
        self.stage_channels = tuple(stage_channels)
        self.stage_strides = tuple(stage_strides)

    def forward(self, image: Tensor) -> Tensor:
        """Features of the whole image (b, c, x, y): the last stage, averaged over its places."""
        return self.stages(image)[-1].mean((-2, -1))

    @abstractmethod
    def stages(self, image: Tensor) -> list[Tensor]:
        """Feature maps (b, stage_channels[i], x / stage_strides[i], y / stage_strides[i]), the finest first."""

    @property
    def untold(self) -> dict[str, object]:
        """Settings by name that decide what the weights mean, and that their shapes do not tell."""
        return {}

    def check_image(self, image: Tensor) -> None:
        """Refuses an image that the encoder cannot take, before a layer deep inside does.

        Raises:
            InputError: Wrong number of axes or channels.
        """
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise InputError(
                f"{type(self).__name__} takes images of shape (rows, {self.in_channels}, x, y), "
                f"but got {tuple(image.shape)}. Check the number of image channels."
            )


class ResNet20(Encoder):
    """The residual network of small images: a 3x3 stem without pooling, three stages of three blocks.

    With 16-32-64 channels and three image channels it has 269,072 parameters.

    Paper: He 2016, section 4.2 (n = 3), with shortcuts that need no weights (option A).
    """

    def __init__(self, *, in_channels: int = 3, width: int = 16, norm: str = "batch") -> None:
        """Builds the encoder.

        Args:
            in_channels: Channels of the image.
            width: Channels of the first stage; it doubles twice.
            norm: "batch", "group" (at most 8 groups) or "split_batch".

        Raises:
            InputError: An unknown norm.
        """
        widths = (width, 2 * width, 4 * width)
        super().__init__(in_channels=in_channels, stage_channels=widths, stage_strides=(1, 2, 4))
        self.stem = nn.Sequential(_convolution(in_channels, width), make_norm(norm, width), nn.ReLU(inplace=True))
        before = (width, *widths[:-1])
        self.levels = nn.ModuleList(
            nn.Sequential(
                _Block(i, o, stride=2 if o > i else 1, norm=norm), _Block(o, o, norm=norm), _Block(o, o, norm=norm)
            )
            for i, o in zip(before, widths, strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, image: Tensor) -> list[Tensor]:
        """Three maps, at 1, 1/2 and 1/4 of the image's sides."""
        self.check_image(image)
        maps, features = [], self.stem(image)
        for level in self.levels:
            features = level(features)
            maps.append(features)
        return maps


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which pools by stride and pads new channels with 0."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, norm: str) -> None:
        super().__init__()
        self.stride, self.new = stride, channels - in_channels
        self.first, self.first_norm = _convolution(in_channels, channels, stride), make_norm(norm, channels)
        self.second, self.second_norm = _convolution(channels, channels), make_norm(norm, channels)

    def forward(self, features: Tensor) -> Tensor:
        out = functional.relu(self.first_norm(self.first(features)), inplace=True)
        out = self.second_norm(self.second(out))
        if self.stride > 1 or self.new:
            features = features[:, :, :: self.stride, :: self.stride]
            features = functional.pad(features, (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return functional.relu(out + features)


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose statistics are those of an eighth of the rows, or of all where 8 does not divide them.

    Row r belongs to part r mod 8. In training it stands for the statistics of eight devices, so that keys in another
    order than their queries share none with them. In evaluation it is batch normalisation.

    Paper: He 2020 (MoCo), section 3.3, shuffling batch norm, in the form of the authors' CIFAR-10 demonstration.
    """

    splits = 8

    def forward(self, input: Tensor) -> Tensor:
        """Normalises (b, c, x, y)."""
        rows, channels = input.shape[:2]
        if not self.training or rows % self.splits:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, variance = self.running_mean.repeat(self.splits), self.running_var.repeat(self.splits)
        out = functional.batch_norm(
            input.reshape(-1, channels * self.splits, *input.shape[2:]),
            mean,
            variance,
            self.weight.repeat(self.splits),
            self.bias.repeat(self.splits),
            training=True,
            momentum=self.momentum or 0.1,
            eps=self.eps,
        )
        with torch.no_grad():
            self.running_mean.copy_(mean.view(self.splits, channels).mean(0))
            self.running_var.copy_(variance.view(self.splits, channels).mean(0))
            self.num_batches_tracked += 1
        return out.view_as(input)


def make_norm(norm: str, channels: int) -> nn.Module:
    """The layer that normalises `channels`.

    Raises:
        InputError: An unknown norm.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    if norm == "split_batch":
        return SplitBatchNorm2d(channels)
    raise InputError(f'norm of an encoder is "batch", "group" or "split_batch", but got {norm!r}.')


def _convolution(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)


def build_encoder(name: str, *, in_channels: int, width: int | None = None, **plain: Any) -> Encoder:
    """Builds an encoder with fresh weights.

    Args:
        name: One of `ENCODERS`.
        in_channels: Channels of the image.
        width: Channels of the first stage; default the encoder's own.
        plain: What the encoder of that name takes beside these: its constructor says it (norm; small_stem of
            resnet18, resnet34 and resnet50; vit's patch, depth, heads, image_size, pooling).

    Raises:
        InputError: An unknown name, or values that the encoder does not take.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    if width is not None:
        plain["width"] = width
    return ENCODERS[name](in_channels=in_channels, **plain)


# MONAI takes seconds to import, so each builder imports only what it builds.


def _resnet(depth: int, **plain: Any) -> Encoder:
    from medcontrast.networks.resnets2d import ResNet

    return ResNet(depth, **plain)


def _vit(**plain: Any) -> Encoder:
    from medcontrast.networks.vit2d import ViT

    return ViT(**plain)


ENCODERS: dict[str, Callable[..., Encoder]] = {
    "resnet20": ResNet20,
    "resnet18": lambda **plain: _resnet(18, **plain),
    "resnet34": lambda **plain: _resnet(34, **plain),
    "resnet50": lambda **plain: _resnet(50, **plain),
    "vit": _vit,
}
