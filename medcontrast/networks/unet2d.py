"""A 2D U-Net around any encoder of images: its stages go down, a light decoder goes up to the image's own grid.

Letters: b rows, c channels, k classes, x, y pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.networks.encoders2d import Encoder


class UNet2D(nn.Module):
    """Logits (b, k, x, y) of an image (b, c, x, y) of any size.

    Every step up interpolates to the grid of the next finer stage, joins it and convolves twice; the last one joins the
    image itself, so that an encoder with a coarse first stage still gives sharp borders. The decoder has group norm: it
    is trained on few rows.

    Attributes:
        encoder: Where pre-trained weights go (`networks.transfer.load_encoder`).
        stride: Sides of the image are padded with 0 to multiples of this, and the logits are cut back.
    """

    def __init__(self, encoder: Encoder, *, classes: int, width: int = 16) -> None:
        """Builds the decoder.

        Args:
            encoder: Taken as it is, weights included.
            classes: k, background included.
            width: Channels at the image's own grid; each coarser stage of the decoder has as many as the encoder's, at
                most 8 times this.

        Raises:
            InputError: Fewer than two classes.
        """
        super().__init__()
        if classes < 2:
            raise InputError(f"A segmentation has two classes at least, background included, but got {classes}.")
        self.encoder = encoder
        self.classes = classes
        self.stride = math.lcm(*encoder.stage_strides)
        below = encoder.stage_channels[-1]
        blocks = []
        for channels in reversed(encoder.stage_channels[:-1]):
            out = min(channels, 8 * width)
            blocks.append(_two_convolutions(below + channels, out))
            below = out
        self.up = nn.ModuleList(blocks)
        self.last = _two_convolutions(below + encoder.in_channels, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits on the grid of the image."""
        return self.decode(image)[0]

    def decode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the last features (b, width, x, y) that they are made of, on the grid of the image."""
        Encoder.check_image(self.encoder, image)  # an encoder's own rule for sides holds after padding
        sides = image.shape[2:]
        right, top = ((-side) % self.stride for side in sides)
        padded = functional.pad(image, (0, top, 0, right))
        maps = self.encoder.stages(padded)
        features = maps[-1]
        for block, finer in zip(self.up, reversed(maps[:-1]), strict=True):
            features = block(torch.cat([_resized(features, finer), finer], dim=1))
        features = self.last(torch.cat([_resized(features, padded), padded], dim=1))
        features = features[:, :, : sides[0], : sides[1]]
        return self.head(features), features


def _resized(features: Tensor, like: Tensor) -> Tensor:
    if features.shape[2:] == like.shape[2:]:
        return features
    return functional.interpolate(features, size=like.shape[2:], mode="bilinear", align_corners=False)


def _two_convolutions(in_channels: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (in_channels, channels):
        layers += [
            nn.Conv2d(before, channels, 3, padding=1, bias=False),
            nn.GroupNorm(math.gcd(8, channels), channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
