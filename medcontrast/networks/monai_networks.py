"""MONAI's UNet, SegResNet and DynUNet, taken apart before their last convolution so that it gives `Output`.

The layers, their order and their initial values are MONAI's; only the ways in and out are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monai.networks.blocks.dynunet_block import UnetOutBlock, UnetUpBlock
from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet
from monai.networks.nets.dynunet import DynUNetSkipLayer
from monai.networks.nets.segresnet import SegResNet as MonaiSegResNet
from monai.networks.nets.unet import UNet as MonaiUNet
from torch import Tensor, nn

from medcontrast.errors import InputError
from medcontrast.networks.output import Network, Output

Strides = Sequence[tuple[int, int, int]]
INTERPOLATIONS = ("trilinear", "nearest")
"""How decoder 2 and 3 of DynUNet go up a level."""


class UNet(Network):
    """MONAI's UNet with two residual units a level; the first level keeps the image's grid.

    `Output.features` is what MONAI's top layer takes: the first level's own features beside those from below, twice
    `filters[0]` channels; all that follows has as many channels as classes.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        classes: int = 2,
        filters: Sequence[int] = (16, 32, 64, 128),
        strides: Strides | None = None,
        norm: str = "instance",
        dropout: float = 0.0,
    ) -> None:
        """Builds the network.

        Args:
            in_channels: Channels of the image.
            classes: Channels of the logits, background included.
            filters: Widths, one a level, at least two.
            strides: Down-sampling between each two levels; default 2 everywhere.
            norm: "batch", "instance", "group" (at most 8 groups) or "none".
            dropout: Probability, in every convolution unit.

        Raises:
            InputError: Filters and strides that do not fit, or an unknown norm.
        """
        strides = _strides("unet", filters, strides, levels=2)
        super().__init__(
            in_channels=in_channels,
            classes=classes,
            feature_channels=2 * filters[0],
            stride=_product(strides),
            norm=norm,
        )
        whole = MonaiUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=classes,
            channels=(*filters, filters[-1]),
            strides=((1, 1, 1), *strides),
            num_res_units=2,
            norm=_norm(norm, (*filters, classes)) or None,
            dropout=dropout,
        )
        self.body = whole.model[:2]
        self.final = whole.model[2]

    def forward(self, image: Tensor) -> Output:
        """Output of an image (b, in_channels, x, y, z)."""
        self.check_image(image)
        features = self.body(image)
        return Output(self.final(features), features)


class SegResNet(Network):
    """MONAI's SegResNet (Myronenko 2018, without its auto-encoder), four levels."""

    def __init__(
        self, *, in_channels: int = 1, classes: int = 2, filters: int = 16, norm: str = "group", dropout: float = 0.0
    ) -> None:
        """Builds the network.

        Args:
            in_channels: Channels of the image.
            classes: Channels of the logits, background included.
            filters: Width of the first level; it doubles at each of the three below.
            norm: "batch", "instance", "group" (at most 8 groups) or "none".
            dropout: Probability, after the first convolution.

        Raises:
            InputError: An unknown norm.
        """
        super().__init__(
            in_channels=in_channels, classes=classes, feature_channels=filters, stride=(8, 8, 8), norm=norm
        )
        self.body = MonaiSegResNet(
            in_channels=in_channels,
            out_channels=classes,
            init_filters=filters,
            norm=_norm(norm, [filters]),
            dropout_prob=dropout or None,
        )
        self.before_final = self.body.conv_final[:2]
        self.final = self.body.conv_final[2]
        self.body.use_conv_final = False
        del self.body.conv_final

    def forward(self, image: Tensor) -> Output:
        """Output of an image (b, in_channels, x, y, z)."""
        self.check_image(image)
        features = self.before_final(self.body(image))
        return Output(self.final(features), features)


class DynUNet(Network):
    """MONAI's DynUNet, nnU-Net's architecture: 3x3x3 kernels, leaky ReLU, no deep supervision.

    Decoder 1 is MONAI's, with transposed convolutions. Decoder 2 goes up by trilinear, decoder 3 by nearest
    interpolation and a 3x3x3 convolution, as those of MC-Net+ (Wu 2022) do.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        classes: int = 2,
        filters: Sequence[int] = (32, 64, 128, 256, 320),
        strides: Strides | None = None,
        norm: str = "instance",
        dropout: float = 0.0,
        decoders: int = 1,
    ) -> None:
        """Builds the network.

        Args:
            in_channels: Channels of the image.
            classes: Channels of the logits, background included.
            filters: Widths, one a level, at least three.
            strides: Down-sampling between each two levels; default 2 everywhere.
            norm: "batch", "instance", "group" (at most 8 groups) or "none".
            dropout: Probability, in every convolution block.
            decoders: 1, 2 or 3.

        Raises:
            InputError: Filters and strides that do not fit, an unknown norm or number of decoders.
        """
        strides = _strides("dynunet", filters, strides, levels=3)
        super().__init__(
            in_channels=in_channels,
            classes=classes,
            feature_channels=filters[0],
            stride=_product(strides),
            norm=norm,
        )
        if not 1 <= decoders <= 1 + len(INTERPOLATIONS):
            raise InputError(f"dynunet has 1, 2 or 3 decoders, but got {decoders}.")
        plain: dict[str, Any] = {"kernel_size": 3, "norm_name": _norm(norm, filters), "dropout": dropout or None}
        whole = MonaiDynUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=classes,
            strides=((1, 1, 1), *strides),
            upsample_kernel_size=strides,
            filters=filters,
            **{**plain, "kernel_size": [3] * len(filters)},
        )
        self.body = whole.skip_layers
        # With dropout MONAI drops whole logits too, after the last convolution; that block is made again without.
        self.final = UnetOutBlock(3, filters[0], classes)
        self.final.load_state_dict(whole.output_block.state_dict())
        self.others = nn.ModuleList(
            InterpolatingDecoder(classes, filters, strides, mode, plain) for mode in INTERPOLATIONS[: decoders - 1]
        )

    def forward(self, image: Tensor) -> Output:
        """Output of an image (b, in_channels, x, y, z)."""
        self.check_image(image)
        features = self.body(image)
        return Output(self.final(features), features)

    def decode_all(self, image: Tensor) -> list[Output]:
        """Output of every decoder on one pass of the encoder, from an image (b, in_channels, x, y, z)."""
        if not self.others:
            return super().decode_all(image)
        self.check_image(image)
        levels, ups, layer, below = [], [], self.body, image
        while isinstance(layer, DynUNetSkipLayer):
            below = layer.downsample(below)
            levels.append(below)
            ups.append(layer.upsample)
            layer = layer.next_layer
        features = bottom = layer(below)
        for up, skip in zip(reversed(ups), reversed(levels), strict=True):
            features = up(features, skip)
        return [Output(self.final(features), features), *[decoder(bottom, levels) for decoder in self.others]]


class InterpolatingDecoder(nn.Module):
    """A decoder of DynUNet that goes up by interpolation and a convolution instead of a transposed convolution."""

    def __init__(
        self, classes: int, filters: Sequence[int], strides: Strides, mode: str, plain: dict[str, Any]
    ) -> None:
        """Builds the steps, the coarsest first; `plain` holds what MONAI's blocks take everywhere."""
        super().__init__()
        self.ups = nn.ModuleList()
        for level in reversed(range(len(strides))):
            wide, narrow, stride = filters[level + 1], filters[level], tuple(strides[level])
            block = UnetUpBlock(3, wide, narrow, stride=1, upsample_kernel_size=stride, **plain)
            block.transp_conv = nn.Sequential(
                nn.Upsample(scale_factor=stride, mode=mode, align_corners=False if mode == "trilinear" else None),
                nn.Conv3d(wide, narrow, 3, padding=1, bias=False),
            )
            self.ups.append(block)
        self.final = UnetOutBlock(3, filters[0], classes)
        self.apply(MonaiDynUNet.initialize_weights)

    def forward(self, bottom: Tensor, levels: Sequence[Tensor]) -> Output:
        """Output from the deepest features and those of the levels above, the finest first."""
        features = bottom
        for up, skip in zip(self.ups, reversed(levels), strict=True):
            features = up(features, skip)
        return Output(self.final(features), features)


def _strides(name: str, filters: Sequence[int], strides: Strides | None, *, levels: int) -> Strides:
    if len(filters) < levels:
        raise InputError(f"{name} needs at least {levels} widths in filters, one a level, but got {list(filters)}.")
    strides = ((2, 2, 2),) * (len(filters) - 1) if strides is None else strides
    if len(strides) != len(filters) - 1:
        raise InputError(
            f"{name} with {len(filters)} levels needs {len(filters) - 1} strides, one between each two levels, "
            f"but got {len(strides)}: {list(strides)}."
        )
    return strides


def _product(strides: Strides) -> tuple[int, int, int]:
    x, y, z = (math.prod(triple[axis] for triple in strides) for axis in range(3))
    return x, y, z


def _norm(norm: str, widths: Sequence[int]) -> Any:
    if norm == "batch":
        return "batch"
    if norm == "instance":
        return ("instance", {"affine": True})
    if norm == "group":
        return ("group", {"num_groups": math.gcd(8, *widths)})
    if norm == "none":
        return ""
    raise InputError(f'norm is "batch", "instance", "group" or "none", but got {norm!r}.')
