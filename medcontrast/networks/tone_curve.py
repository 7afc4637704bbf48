"""A tone curve: how grey levels that all parents share are drawn under each of them.

Letters: b rows, c channels, h, w pixels, p numbers of the parents, k pieces.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcontrast.networks.hvae_blocks import positive

PIECES = 32
"""Of equal width between -1 and 1."""
LEAST_SLOPE = 0.1
"""What the way back may enlarge is bounded: a grey level of error becomes ten at most."""
GAIN = 4.0
"""On what the layer gives: without it other layers learn what a curve would say before the curve has moved."""


class ToneCurve(nn.Module):
    """Piecewise linear and rising, beyond -1 and 1 as its first and last piece; y = x at first.

    Scanners differ in how they draw a grey level more than in what they see. As a curve of the image's mean such a
    difference needs no latent; and what the mean leaves unexplained of an image can go back through the image's own
    curve and on through another one, instead of being copied as it is.

    Paper: none; the layer is a monotone piecewise-linear one, as flows have (Mueller 2019, neural importance sampling).
    """

    def __init__(self, width: int, channels: int) -> None:
        """Builds the layer.

        Args:
            width: p, numbers about their middle (`Parents.centred`), so that each value of a category has its own curve
                and no curve is common to all: what they share is the mean's to say.
            channels: c, each with a curve of its own.
        """
        super().__init__()
        self.channels = channels
        self.layer = nn.Linear(width, channels * (PIECES + 1), bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, level: Tensor, numbers: Tensor) -> Tensor:
        """Shared grey levels (b, c, h, w) as they are drawn under parents (b, p)."""
        heights, slopes = self._curve(numbers)
        place = (level.float().flatten(2) + 1.0) / _WIDTH
        piece = place.detach().floor().clamp(0, PIECES - 1).long()
        drawn = heights.gather(2, piece) + slopes.gather(2, piece) * (place - piece) * _WIDTH
        return drawn.view_as(level)

    def inverse(self, drawn: Tensor, numbers: Tensor) -> Tensor:
        """The shared grey levels (b, c, h, w) that `forward` draws as these under the same parents."""
        heights, slopes = self._curve(numbers)
        height = drawn.float().flatten(2)
        ends = heights.detach()[:, :, 1:].contiguous()
        piece = torch.searchsorted(ends, height.detach().contiguous(), right=True)
        within = (height - heights.gather(2, piece)) / slopes.gather(2, piece)
        return (within + piece * _WIDTH - 1.0).view_as(drawn)

    def _curve(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Height at the left end of every piece, and its slope: (b, c, k) each, in float32 whatever the precision."""
        found = GAIN * self.layer(numbers).float()
        first, free = found.view(-1, self.channels, PIECES + 1).split([1, PIECES], dim=2)
        slopes = LEAST_SLOPE + (1.0 - LEAST_SLOPE) * positive(free)
        risen = functional.pad((slopes * _WIDTH).cumsum(2)[:, :, :-1], (1, 0))
        return first - 1.0 + risen, slopes


_WIDTH = 2.0 / PIECES
