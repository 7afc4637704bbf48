"""Images with their targets, and what a frozen encoder makes of them.

Letters: n images, b rows, c channels, x, y pixels, d feature channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medcontrast.errors import InputError
from medcontrast.networks.modes import evaluating

ROWS = 64
"""Images in one forward pass."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one split, read when asked for.

    Attributes:
        load: Places in the set -> (b, c, x, y) float32, prepared as in pre-training, without anything random.
        targets: (n,) class indices.
        groups: Kind of group ("domain", "quality") -> the group of every image.
        units: (n,) Number of every image's unit, as of its patient; None takes each image for one.
    """

    load: Callable[[Sequence[int]], Tensor]
    targets: NDArray[np.int64]
    groups: dict[str, list[str]] = field(default_factory=dict)
    units: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def __post_init__(self) -> None:
        if not len(self.targets):
            raise InputError("A probe needs images with a target, but a split has none.")


def embed(encoder: nn.Module, images: ImageSet, *, device: torch.device | None = None) -> NDArray[np.float64]:
    """Features (n, d) of every image; the encoder stays on the device, and in all else as it went in.

    Raises:
        InputError: A feature is not finite.
    """
    place = device or torch.device("cpu")
    encoder.to(place)
    parts = []
    with evaluating(encoder), torch.no_grad():
        for start in range(0, len(images), ROWS):
            rows = images.load(range(start, min(start + ROWS, len(images))))
            parts.append(encoder(rows.to(place)).cpu().double().numpy())
    features: NDArray[np.float64] = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise InputError(
            "The encoder gives features that are not finite; its weights are damaged, or the images are prepared "
            "otherwise than in pre-training."
        )
    return features
