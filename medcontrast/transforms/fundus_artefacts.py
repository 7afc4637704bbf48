"""What spoils fundus photographs: uneven illumination, spots on the lens, blur.

Letters: r rows, c channels, h, w pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medcontrast.settings.degrade import FundusDegradeSettings
from medcontrast.transforms.intensity import blur as gaussian_blur

Draws = list[np.random.Generator]

_HALO_WIDTH = 0.15
_HALO_SOFTNESS = 0.04
_HOLE_SOFTNESS = 0.1
_SPOT_SOFTNESS = 0.35
"""Of a spot: its edge's width as a share of its radius; the others are shares of the height."""


def illumination(image: Tensor, draws: Draws, settings: FundusDegradeSettings) -> Tensor:
    """Changed colour, then bright rings about the field of view, then a dark hole.

    Args:
        image: (r, c, h, w) in 0..1.
        draws: One generator a row.
        settings: Ranges and severity.
    """
    spans = (settings.brightness, settings.contrast, settings.saturation)
    colour = np.array([[draw.uniform(*span) for span in spans] for draw in draws])
    factors = 1.0 + settings.severity * (torch.from_numpy(colour).to(image)[:, :, None, None, None] - 1.0)
    image = (image * factors[:, 0]).clamp(0.0, 1.0)
    image = image.mean((1, 2, 3), keepdim=True).lerp(image, factors[:, 1]).clamp(0.0, 1.0)
    image = image.mean(1, keepdim=True).lerp(image, factors[:, 2]).clamp(0.0, 1.0)
    image = (image + _rings(image, draws, settings)).clamp(0.0, 1.0)
    return image - _hole(image, draws, settings)


def spots(image: Tensor, draws: Draws, settings: FundusDegradeSettings) -> Tensor:
    """Round spots with soft edges that add light, as dust on the lens does."""
    fewest, most = settings.spots
    numbers = []
    for draw in draws:
        count = draw.integers(fewest, most + 1)
        # every number is drawn, also of spots that are not there: a row's stream does not depend on its count
        places, strengths = draw.random((most, 2)), draw.uniform(*settings.spot_strength, most)
        radii, tints = draw.uniform(*settings.spot_radius, most), draw.uniform(0.7, 1.0, (most, image.shape[1]))
        strengths = np.where(np.arange(most) < count, strengths, 0.0)
        numbers.append(np.concatenate([places, radii[:, None], strengths[:, None] * tints], axis=1))
    light = torch.zeros_like(image)
    for spot in torch.from_numpy(np.stack(numbers)).to(image).unbind(1):
        profile = disc(image, spot[:, :2], spot[:, 2], _SPOT_SOFTNESS * spot[:, 2])
        light = light + profile * spot[:, 3:, None, None]
    return image + settings.severity * light


def blur(image: Tensor, draws: Draws, settings: FundusDegradeSettings) -> Tensor:
    """Gaussian blur with a width a row."""
    height = image.shape[2]
    sigmas = settings.severity * height * np.array([draw.uniform(*settings.blur_sigma) for draw in draws])
    widths = torch.from_numpy(sigmas).to(image)[:, None, None, None]
    return gaussian_blur(image, widths, settings.severity * height * settings.blur_sigma[1])


def field_of_view(image: Tensor, threshold: float) -> Tensor:
    """(r, 1, h, w) of 0 and 1: where the brightest channel of image (r, c, h, w) is above the threshold."""
    return (image.amax(1, keepdim=True) > threshold).to(image.dtype)


def disc(image: Tensor, centre: Tensor, radius: Tensor, softness: Tensor) -> Tensor:
    """Discs (r, 1, h, w): 1 inside, 0 outside, an edge like a straight one's under a Gaussian blur.

    Args:
        image: (r, c, h, w), for the grid alone.
        centre: (r, 2), y and x as shares of the height and the width.
        radius: (r,), as a share of the height.
        softness: (r,), standard deviation of the blur, as a share of the height; above 0.
    """
    edge = radius[:, None, None, None] - _distance(image, centre)
    return torch.special.ndtr(edge / softness[:, None, None, None])


def _rings(image: Tensor, draws: Draws, settings: FundusDegradeSettings) -> Tensor:
    fewest, most = settings.halos
    numbers = []
    for draw in draws:
        count = draw.integers(fewest, most + 1)
        places, diameters = draw.uniform(0.45, 0.55, (most, 2)), draw.uniform(*settings.halo_diameter, most)
        strengths, tints = draw.uniform(*settings.halo_strength, most), draw.uniform(0.5, 1.0, (most, image.shape[1]))
        strengths = np.where(np.arange(most) < count, strengths, 0.0)
        numbers.append(np.concatenate([places, diameters[:, None] / 2, strengths[:, None] * tints], axis=1))
    light = torch.zeros_like(image)
    for ring in torch.from_numpy(np.stack(numbers)).to(image).unbind(1):
        soft = torch.full_like(ring[:, 2], _HALO_SOFTNESS)
        profile = disc(image, ring[:, :2], ring[:, 2] + _HALO_WIDTH, soft) - disc(image, ring[:, :2], ring[:, 2], soft)
        light = light + profile * ring[:, 3:, None, None]
    return settings.severity * light


def _hole(image: Tensor, draws: Draws, settings: FundusDegradeSettings) -> Tensor:
    numbers = np.array([[*draw.uniform(0.25, 0.75, 2), draw.uniform(*settings.hole_diameter) / 2] for draw in draws])
    hole = torch.from_numpy(numbers).to(image)
    profile = disc(image, hole[:, :2], hole[:, 2], torch.full_like(hole[:, 2], _HOLE_SOFTNESS))
    bright = image.mean((1, 2, 3), keepdim=True) > settings.hole_least_mean
    return settings.severity * settings.hole_strength * profile * bright


def _distance(image: Tensor, centre: Tensor) -> Tensor:
    """Distance of every pixel from a row's centre (r, 2) in shares of it: (r, 1, h, w), in shares of the height."""
    height, width = image.shape[2:]
    down = (torch.arange(height, device=image.device, dtype=image.dtype) + 0.5) / height
    across = (torch.arange(width, device=image.device, dtype=image.dtype) + 0.5) / height
    away_down = down[None, :] - centre[:, :1]
    away_across = across[None, :] - centre[:, 1:] * (width / height)
    return (away_down.square()[:, None, :, None] + away_across.square()[:, None, None, :]).sqrt()


EFFECTS: dict[str, Callable[[Tensor, Draws, FundusDegradeSettings], Tensor]] = {
    "illumination": illumination,
    "spots": spots,
    "blur": blur,
}
