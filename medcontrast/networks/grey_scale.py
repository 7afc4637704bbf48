"""The scale on which a generator sees grey values: as they are, or as logits, where dark and bright ones lie apart.

On the logit scale a power of an image is nearly a shift, so that differences at the faint edge of a stroke weigh as
much as those within it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

GreyScale = Literal["linear", "logit"]
MARGIN = 0.05
"""Of 0..1, kept free at both ends, so that black and white have finite logits."""
_LARGEST = math.log((1.0 - MARGIN) / MARGIN)


def on_scale(share: Tensor, scale: GreyScale) -> Tensor:
    """Grey values 0..1 of any shape as numbers in -1..1.

    linear: 2 x - 1. logit: log(p / (1 - p)) of p = MARGIN + (1 - 2 MARGIN) x, divided by its largest value.

    Paper: Dinh 2017 (Real NVP), section 4.1, for logits of values with a margin of 0.05.
    Deviation: the margin is kept at both ends, and the logits are scaled to -1..1.
    """
    if scale == "linear":
        return 2.0 * share - 1.0
    return torch.logit(MARGIN + (1.0 - 2.0 * MARGIN) * share) / _LARGEST


def off_scale(number: Tensor, scale: GreyScale) -> Tensor:
    """Back from -1..1 to grey values 0..1."""
    if scale == "linear":
        return (number + 1.0) / 2.0
    return (torch.sigmoid(number * _LARGEST) - MARGIN) / (1.0 - 2.0 * MARGIN)
