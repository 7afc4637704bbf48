"""An imaging chain: how one scene is drawn by each scanner, as a point spread and a tone curve.

Letters: b rows, c channels, h, w pixels, v values of the parent, k pieces.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcontrast.networks.hvae_blocks import positive

PIECES = 32
"""Of a curve, of equal width between -1 and 1."""
LEAST_SLOPE = 0.1
"""What the way back may enlarge is bounded: a grey level of error becomes ten at most."""
SIDE = 5
"""Of a point spread, pixels."""
GAIN = 4.0
"""On what the layers learn: without it the layers of the scene learn a part of it before the chain has moved."""


class ImagingChain(nn.Module):
    """image = curve(spread(scene) + residual), with a spread and a rising curve for every value of one parent.

    Scanners differ in how sharp and in which grey levels they draw what is there. A chain has so few numbers a value
    that a few images of a rare scanner tell it, and what the scene leaves unexplained of an image goes back through its
    own scanner's curve and on through the other's. The chains have the identity as their mean: what all scanners share
    belongs to the scene.

    Paper: none; the curve is a monotone piecewise-linear layer, as flows have (Mueller 2019, neural importance
        sampling).
    """

    def __init__(self, values: int, channels: int) -> None:
        """Builds the chain; at first it draws a scene as it is.

        Args:
            values: v, at least 2.
            channels: c, each with a curve and a spread of its own.
        """
        super().__init__()
        self.levels = nn.Parameter(torch.zeros(values, channels, 1))
        self.slopes = nn.Parameter(torch.zeros(values, channels, PIECES))
        self.kernels = nn.Parameter(torch.zeros(values, channels, SIDE, SIDE))

    def forward(self, scene: Tensor, code: Tensor, residual: Tensor | None = None) -> Tensor:
        """The image (b, c, h, w) of a scene (b, c, h, w), both in -1..1 and beyond.

        Args:
            scene: What is there.
            code: (b, v), one-hot: the parent's value of every row.
            residual: (b, c, h, w), as `residual` found it; none is 0.
        """
        with torch.autocast(scene.device.type, enabled=False):  # 0.995 would be 1 in bfloat16
            spread = self.spread(scene, code)
            return self.curve(spread if residual is None else spread + residual, code)

    def residual(self, image: Tensor, scene: Tensor, code: Tensor) -> Tensor:
        """What a scene leaves unexplained of an image, on the scene's scale: with it `forward` gives the image."""
        with torch.autocast(scene.device.type, enabled=False):
            return self.curve_back(image, code) - self.spread(scene, code)

    def spread(self, scene: Tensor, code: Tensor) -> Tensor:
        """The scene (b, c, h, w) under each row's point spread, whose sum is 1; beyond its borders it goes on."""
        rows, channels = scene.shape[:2]
        free = _of_rows(self.kernels, code)
        kernels = free - free.mean(dim=(2, 3), keepdim=True)
        kernels = kernels + functional.pad(torch.ones_like(kernels[:, :, :1, :1]), [SIDE // 2] * 4)
        edge = functional.pad(scene.float(), [SIDE // 2] * 4, mode="replicate")
        found = functional.conv2d(edge.flatten(0, 1)[None], kernels.flatten(0, 1)[:, None], groups=rows * channels)
        return found.view_as(scene)

    def curve(self, level: Tensor, code: Tensor) -> Tensor:
        """Grey levels of the scene as they are drawn: piecewise linear, rising, beyond -1 and 1 as its end pieces."""
        heights, slopes = self._pieces(code)
        place = (level.float().flatten(2) + 1.0) / _WIDTH
        piece = place.detach().floor().clamp(0, PIECES - 1).long()
        drawn = heights.gather(2, piece) + slopes.gather(2, piece) * (place - piece) * _WIDTH
        return drawn.view_as(level)

    def curve_back(self, drawn: Tensor, code: Tensor) -> Tensor:
        """The grey levels of the scene that `curve` draws as these."""
        heights, slopes = self._pieces(code)
        height = drawn.float().flatten(2)
        ends = heights.detach()[:, :, 1:].contiguous()
        piece = torch.searchsorted(ends, height.detach().contiguous(), right=True)
        within = (height - heights.gather(2, piece)) / slopes.gather(2, piece)
        return (within + piece * _WIDTH - 1.0).view_as(drawn)

    def _pieces(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Height at the left end of every piece, and its slope: (b, c, k) each."""
        slopes = LEAST_SLOPE + (1.0 - LEAST_SLOPE) * positive(_of_rows(self.slopes, code))
        risen = functional.pad((slopes * _WIDTH).cumsum(2)[:, :, :-1], (1, 0))
        return _of_rows(self.levels, code) - 1.0 + risen, slopes


def _of_rows(numbers: Tensor, code: Tensor) -> Tensor:
    """Numbers (v, ...) about their mean over the values, as those of every row (b, ...); float32."""
    centred = GAIN * (numbers - numbers.mean(dim=0)).float()
    return (code.float() @ centred.flatten(1)).view(-1, *numbers.shape[1:])


_WIDTH = 2.0 / PIECES
