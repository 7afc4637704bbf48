"""What spoils X-ray images: wrong exposure, detector noise, lossy compression.

Letters: r rows, c channels, h, w pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medcontrast.settings.degrade import XrayDegradeSettings
from medcontrast.transforms.jpeg import compress

Draws = list[np.random.Generator]

_ABSORPTION = 2.0
"""Photons that reach the detector fall by exp(-this) from the darkest to the brightest value of the image."""


def exposure(image: Tensor, draws: Draws, settings: XrayDegradeSettings) -> Tensor:
    """Less contrast about the middle of the range, and all values moved up or down; what leaves the range is lost."""
    numbers = [
        (
            draw.uniform(*settings.exposure_shift) * (1 if draw.random() < 0.5 else -1),
            draw.uniform(*settings.exposure_contrast),
        )
        for draw in draws
    ]
    shift, contrast = torch.from_numpy(np.array(numbers)).to(image)[..., None, None, None].unbind(1)
    factor = 1.0 + settings.severity * (contrast - 1.0)
    return 0.5 + (image - 0.5) * factor + settings.severity * shift


def noise(image: Tensor, draws: Draws, settings: XrayDegradeSettings) -> Tensor:
    """Gaussian noise that is larger where the image is brighter, for there fewer photons arrived.

    A value v of a logarithmic detector is -log(photons) / _ABSORPTION but for a constant, and the standard deviation of
    log(photons) is one by the root of photons: exp(_ABSORPTION v / 2) times a constant.
    """
    amounts = torch.from_numpy(np.array([draw.uniform(*settings.noise_std) for draw in draws])).to(image)
    fields = np.stack([draw.standard_normal(image.shape[1:], dtype=np.float32) for draw in draws])
    std = settings.severity * amounts[:, None, None, None] * (0.5 * _ABSORPTION * (image - 0.5)).exp()
    return image + torch.from_numpy(fields).to(image) * std


def compression(image: Tensor, draws: Draws, settings: XrayDegradeSettings) -> Tensor:
    """JPEG compression with a quality a row."""
    qualities = torch.from_numpy(np.array([draw.uniform(*settings.quality) for draw in draws]))
    return compress(image, 100.0 + settings.severity * (qualities - 100.0))


EFFECTS: dict[str, Callable[[Tensor, Draws, XrayDegradeSettings], Tensor]] = {
    "exposure": exposure,
    "noise": noise,
    "compression": compression,
}
