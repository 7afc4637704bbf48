"""MONAI's UNet, SegResNet and DynUNet, taken apart before their last convolution so that it gives `Output`.

The layers, their order and their initial values are MONAI's; only the ways in and out are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monai.networks.blocks.dynunet_block import UnetOutBlock
from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet
from monai.networks.nets.segresnet import SegResNet as MonaiSegResNet
from monai.networks.nets.unet import UNet as MonaiUNet
from torch import Tensor

from medcontrast.errors import InputError
from medcontrast.networks.output import Network, Output

Strides = Sequence[tuple[int, int, int]]


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
    """MONAI's DynUNet, nnU-Net's architecture: 3x3x3 kernels, leaky ReLU, no deep supervision."""

    def __init__(
        self,
        *,
        in_channels: int = 1,
        classes: int = 2,
        filters: Sequence[int] = (32, 64, 128, 256, 320),
        strides: Strides | None = None,
        norm: str = "instance",
        dropout: float = 0.0,
    ) -> None:
        """Builds the network.

        Args:
            in_channels: Channels of the image.
            classes: Channels of the logits, background included.
            filters: Widths, one a level, at least three.
            strides: Down-sampling between each two levels; default 2 everywhere.
            norm: "batch", "instance", "group" (at most 8 groups) or "none".
            dropout: Probability, in every convolution block.

        Raises:
            InputError: Filters and strides that do not fit, or an unknown norm.
        """
        strides = _strides("dynunet", filters, strides, levels=3)
        super().__init__(
            in_channels=in_channels,
            classes=classes,
            feature_channels=filters[0],
            stride=_product(strides),
            norm=norm,
        )
        whole = MonaiDynUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=classes,
            kernel_size=[3] * len(filters),
            strides=((1, 1, 1), *strides),
            upsample_kernel_size=strides,
            filters=filters,
            norm_name=_norm(norm, filters),
            dropout=dropout or None,
        )
        self.body = whole.skip_layers
        # With dropout MONAI drops whole logits too, after the last convolution; that block is made again without.
        self.final = UnetOutBlock(3, filters[0], classes)
        self.final.load_state_dict(whole.output_block.state_dict())

    def forward(self, image: Tensor) -> Output:
        """Output of an image (b, in_channels, x, y, z)."""
        self.check_image(image)
        features = self.body(image)
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
