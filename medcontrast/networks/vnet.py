"""The left-atrium benchmark's V-Net: 3x3x3 kernels, added skips, one or three decoders on one encoder.

Not MONAI's VNet, which has 5x5x5 kernels and residual links (45.6 M parameters against 9.4 M).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medcontrast.errors import InputError
from medcontrast.networks.output import Network, Output

ENCODER_CONVOLUTIONS = (1, 2, 3, 3, 3)
DECODER_CONVOLUTIONS = (1, 2, 3, 3)
UP_SAMPLINGS = ("transposed", "trilinear", "nearest")
"""How decoder 1, 2 and 3 go up a level."""


class VNet(Network):
    """V-Net with 3x3x3 kernels.

    With batch normalisation, 16 filters, one image channel, two classes and one decoder it has 9,448,866 parameters.

    `Output.features` is taken before the last dropout: a head that pools it sees every channel. In evaluation
    `decoders[0].final(features)` are the logits.

    Paper: Milletari 2016 in the form of the public code of UA-MT, MC-Net and FBA-Net (Chung 2023): widths
        16-32-64-128-256, 1-2-3-3-3 convolutions, no residual links, channel dropout 0.5 at the deepest level and
        before the last convolution; three decoders as in MC-Net+ (Wu 2022).
    Deviation: instance normalisation has a learned scale and shift, which the public code leaves out.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        classes: int = 2,
        filters: int = 16,
        norm: str = "batch",
        dropout: float = 0.5,
        decoders: int = 1,
    ) -> None:
        """Builds the network.

        Args:
            in_channels: Channels of the image.
            classes: Channels of the logits, background included.
            filters: Width of the first level; it doubles at each of the four levels below.
            norm: "batch", "instance", "group" (at most 8 groups) or "none".
            dropout: Probability, at the deepest level and before the last convolution.
            decoders: 1, 2 or 3; they go up by transposed convolution, trilinear and nearest-neighbour interpolation.

        Raises:
            InputError: An unknown norm or number of decoders.
        """
        super().__init__(
            in_channels=in_channels, classes=classes, feature_channels=filters, stride=(16, 16, 16), norm=norm
        )
        if not 1 <= decoders <= len(UP_SAMPLINGS):
            raise InputError(f"vnet has 1, 2 or 3 decoders, but got {decoders}.")
        widths = [filters * 2**level for level in range(5)]
        self.encoder = VNetEncoder(in_channels, widths, norm, dropout)
        self.decoders = nn.ModuleList(Decoder(widths, classes, norm, dropout, up) for up in UP_SAMPLINGS[:decoders])

    def forward(self, image: Tensor) -> Output:
        """Output of decoder 1, the one for inference, from an image (b, c, x, y, z)."""
        self.check_image(image)
        output: Output = self.decoders[0](self.encoder(image))
        return output

    def decode_all(self, image: Tensor) -> list[Output]:
        """Output of every decoder on one pass of the encoder, from an image (b, c, x, y, z)."""
        if len(self.decoders) == 1:
            return super().decode_all(image)
        self.check_image(image)
        levels = self.encoder(image)
        return [decoder(levels) for decoder in self.decoders]


class VNetEncoder(nn.Module):
    """Five levels; gives the result of each, the finest first."""

    def __init__(self, in_channels: int, widths: Sequence[int], norm: str, dropout: float) -> None:
        """Builds the levels and the strided convolutions between them."""
        super().__init__()
        inputs = (in_channels, *widths[1:])
        self.levels = nn.ModuleList(
            _convolutions(i, width, count, norm)
            for i, width, count in zip(inputs, widths, ENCODER_CONVOLUTIONS, strict=True)
        )
        self.downs = nn.ModuleList(
            _block(nn.Conv3d(width, 2 * width, 2, stride=2), 2 * width, norm) for width in widths[:-1]
        )
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of the five levels of an image (b, c, x, y, z)."""
        levels = [self.levels[0](image)]
        for down, level in zip(self.downs, self.levels[1:], strict=True):
            levels.append(level(down(levels[-1])))
        levels[-1] = self.dropout(levels[-1])
        return levels


class Decoder(nn.Module):
    """Four steps up, each with the encoder's features of that level added, then a 1x1x1 convolution."""

    def __init__(self, widths: Sequence[int], classes: int, norm: str, dropout: float, up_sampling: str) -> None:
        """Builds the steps, the coarsest first."""
        super().__init__()
        upwards = tuple(reversed(widths[:-1]))
        self.ups = nn.ModuleList(_block(_up_sampling(2 * width, width, up_sampling), width, norm) for width in upwards)
        self.levels = nn.ModuleList(
            _convolutions(width, width, count, norm)
            for width, count in zip(upwards, reversed(DECODER_CONVOLUTIONS), strict=True)
        )
        self.dropout = nn.Dropout3d(dropout)
        self.final = nn.Conv3d(widths[0], classes, 1)

    def forward(self, levels: Sequence[Tensor]) -> Output:
        """Output from the encoder's five levels."""
        features = levels[-1]
        for up, level, skip in zip(self.ups, self.levels, reversed(levels[:-1]), strict=True):
            features = level(_added(up(features), skip))
        return Output(self.final(self.dropout(features)), features)


def _added(fine: Tensor, skip: Tensor) -> Tensor:
    # where no gradient is wanted the sum takes the first one's place: fresh memory costs more than the addition
    return fine + skip if torch.is_grad_enabled() else fine.add_(skip)


def _convolutions(in_channels: int, width: int, count: int, norm: str) -> nn.Sequential:
    widths = (in_channels, *[width] * count)
    return nn.Sequential(*[_block(nn.Conv3d(widths[i], width, 3, padding=1), width, norm) for i in range(count)])


def _up_sampling(in_channels: int, width: int, kind: str) -> nn.Module:
    if kind == "transposed":
        return nn.ConvTranspose3d(in_channels, width, 2, stride=2)
    # PyTorch has no deterministic backward of trilinear interpolation on a GPU: decoder 2 alone is not exact there.
    interpolation = nn.Upsample(scale_factor=2, mode=kind, align_corners=False if kind == "trilinear" else None)
    return nn.Sequential(interpolation, nn.Conv3d(in_channels, width, 3, padding=1))


def _block(convolution: nn.Module, width: int, norm: str) -> nn.Sequential:
    return nn.Sequential(convolution, _norm(norm, width), nn.ReLU(inplace=True))


def _norm(norm: str, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm3d(width)
    if norm == "instance":
        return nn.InstanceNorm3d(width, affine=True)
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, width), width)
    if norm == "none":
        return nn.Identity()
    raise InputError(f'norm is "batch", "instance", "group" or "none", but got {norm!r}.')
