"""A tone curve: how grey levels that all parents share are drawn under each of them.

Letters: b rows, c channels, h, w pixels, d length of the parents' vector, k pieces.
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
"""On the layer's numbers: without it other layers learn what a curve would say before the curve has moved."""


class ToneCurve(nn.Module):
    """Piecewise linear and rising, beyond -1 and 1 as its first and last piece; y = x at first.

    Scanners differ in how they draw a grey level more than in what they see. As a curve of the image's mean such a
    difference needs no latent; and what the mean leaves unexplained of an image can go back through the image's own
    curve and on through another one, instead of being copied as it is.

    Paper: none; the layer is a monotone piecewise-linear one, as flows have (Mueller 2019, neural importance sampling).
    """

    def __init__(self, context: int, channels: int) -> None:
        """Builds the layer.

        Args:
            context: d.
            channels: c, each with a curve of its own.
        """
        super().__init__()
        self.channels = channels
        self.numbers = nn.Linear(context, channels * (PIECES + 1))
        nn.init.zeros_(self.numbers.weight)
        nn.init.zeros_(self.numbers.bias)

    def forward(self, level: Tensor, context: Tensor) -> Tensor:
        """Shared grey levels (b, c, h, w) as they are drawn under the parents' vectors (b, d)."""
        heights, slopes = self._curve(context)
        place = (level.float().flatten(2) + 1.0) / _WIDTH
        piece = place.detach().floor().clamp(0, PIECES - 1).long()
        drawn = heights.gather(2, piece) + slopes.gather(2, piece) * (place - piece) * _WIDTH
        return drawn.view_as(level)

    def inverse(self, drawn: Tensor, context: Tensor) -> Tensor:
        """The shared grey levels (b, c, h, w) that `forward` draws as these under the same parents."""
        heights, slopes = self._curve(context)
        height = drawn.float().flatten(2)
        ends = heights.detach()[:, :, 1:].contiguous()
        piece = torch.searchsorted(ends, height.detach().contiguous(), right=True)
        within = (height - heights.gather(2, piece)) / slopes.gather(2, piece)
        return (within + piece * _WIDTH - 1.0).view_as(drawn)

    def _curve(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Height at the left end of every piece, and its slope: (b, c, k) each, in float32 whatever the precision."""
        given = GAIN * self.numbers(context).float()
        first, numbers = given.view(-1, self.channels, PIECES + 1).split([1, PIECES], dim=2)
        slopes = LEAST_SLOPE + (1.0 - LEAST_SLOPE) * positive(numbers)
        risen = functional.pad((slopes * _WIDTH).cumsum(2)[:, :, :-1], (1, 0))
        return first - 1.0 + risen, slopes


_WIDTH = 2.0 / PIECES
