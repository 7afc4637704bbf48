"""Grad-CAM: where in an image a classifier sees a class.

Letters: b rows, d channels, x, y places of a feature map, k classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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
