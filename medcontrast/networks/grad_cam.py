"""Grad-CAM: where in an image a classifier sees a class.

Letters: b rows, d channels, x, y places of a feature map, k classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def grad_cam(maps: Tensor, logits_of: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """The sum of the maps' channels, each weighted by what it does for the class, where that sum is positive.

    Args:
        maps: (b, d, x, y), of one stage; no gradient flows back into it.
        logits_of: Maps to logits (b, k), rows apart from each other, before any soft-max.
        target: (b,) class of each row.

    Returns:
        (b, x, y), 0 or more.

    Paper: Grad-CAM (Selvaraju 2017), equations 1 and 2.
    """
    with torch.enable_grad():
        leaf = maps.detach().requires_grad_(True)
        score = logits_of(leaf).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, leaf)
    weights = gradient.mean((-2, -1), keepdim=True)
    return (weights * leaf.detach()).sum(1).relu()


def on_pixels(maps: Tensor, stride: int, sides: tuple[int, int]) -> Tensor:
    """Maps (b, p, q) of a stage on the pixels (b, x, y) of its image, linear in between.

    Kernels are odd and padded alike on both sides, so that place i looks at pixel stride * i; taking it for the middle
    of its `stride` pixels would move everything by (stride - 1) / 2 pixels.
    """
    spread = [(side - 1) * stride + 1 for side in maps.shape[1:]]
    out = functional.interpolate(maps[:, None], spread, mode="bilinear", align_corners=True)
    rest = [max(0, side - there) for side, there in zip(sides, spread, strict=True)]
    out = functional.pad(out, (0, rest[1], 0, rest[0]), mode="replicate")
    return out[:, 0, : sides[0], : sides[1]]
