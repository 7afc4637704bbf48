"""Random intensity changes of a batch, drawn row by row and effect by effect.

Letters: b rows, r those that drew an effect, c channels, x, y, z voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medcontrast.settings.data import IntensityViewSettings
from medcontrast.transforms.draws import row_generator


def change_intensity(
    image: Tensor, settings: IntensityViewSettings, *, seed: int, step: int, rows: Sequence[int], stream: str
) -> Tensor:
    """One version of the image: blur, gamma, contrast, brightness, noise, in this order.

    Ranges, means and standard deviations are those of each row and channel as they come in. The drawn amounts are
    the same for all channels of a row, the noise is not. Whatever is drawn for one effect, turning another off
    does not change it.

    Args:
        image: (b, c, x, y, z) float32; not changed.
        settings: Largest amounts, and the chance of each effect in a row.
        seed: Seed of the run.
        step: Optimiser step.
        rows: (b,) global row numbers.
        stream: Name of the view; two views draw separately.

    Returns:
        (b, c, x, y, z); the same tensor where no row drew an effect.
    """
    largest = [getattr(settings, name) for name in _EFFECTS]
    if not settings.changes_anything:
        return image
    generators = [row_generator(seed, step, row, stream) for row in rows]
    chances, draws = np.stack([generator.random((2, len(_EFFECTS))) for generator in generators], axis=1)
    chosen = (chances < settings.probability) & (np.array(largest) > 0)
    if not chosen.any():
        return image
    out = image.clone()
    for number, effect in enumerate(_EFFECTS.values()):
        picked = np.flatnonzero(chosen[:, number])
        if len(picked):
            places = torch.from_numpy(picked).to(image.device)
            draw = torch.from_numpy(draws[picked, number]).to(image).view(-1, 1, 1, 1, 1)
            part, original = out.index_select(0, places), image.index_select(0, places)
            part = effect(part, original, draw, largest[number], [generators[row] for row in picked])
            out.index_copy_(0, places, part)
    return out


def blur(image: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Gaussian blur with a width a row, axis after axis; voxels beyond the border repeat it.

    Args:
        image: (r, c, *spatial).
        sigma: (r, 1, ..., 1), as many axes as the image; standard deviations in voxels; 0 leaves the row as it is.
        largest: No sigma is above this; kernels end at 3 of it.
    """
    radius = max(1, round(3.0 * largest))
    steps = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    weights = torch.softmax(-0.5 * (steps / sigma.clamp(min=1e-3)).square(), -1)
    for axis in range(2, image.ndim):
        padding = [0] * 2 * (image.ndim - 1 - axis) + [radius, radius] + [0] * 2 * (axis - 2)  # the last axis first
        padded, side = F.pad(image, padding, "replicate"), image.shape[axis]
        # a sum of shifted copies: exact float32 on every device, and a width a row, which no convolution call has
        image = torch.zeros_like(image)
        for tap in range(2 * radius + 1):
            image.addcmul_(padded.narrow(axis, tap, side), weights[..., tap : tap + 1])
    return image


def _blur(part: Tensor, original: Tensor, draw: Tensor, largest: float, _: list[np.random.Generator]) -> Tensor:
    return blur(part, draw * largest, largest)


def _gamma(part: Tensor, original: Tensor, draw: Tensor, largest: float, _: list[np.random.Generator]) -> Tensor:
    """Log-uniform exponent, so that darker and brighter are equally likely."""
    exponent = (1.0 - largest) ** (2.0 * draw - 1.0)
    low, high = original.amin((2, 3, 4), keepdim=True), original.amax((2, 3, 4), keepdim=True)
    extent = (high - low).clamp(min=1e-12)
    # a blurred value can leave the range by a rounding error, and a negative base has no power
    return low + extent * ((part - low) / extent).clamp(0.0, 1.0) ** exponent


def _contrast(part: Tensor, original: Tensor, draw: Tensor, largest: float, _: list[np.random.Generator]) -> Tensor:
    factor = 1.0 + largest * (2.0 * draw - 1.0)
    return torch.lerp(original.mean((2, 3, 4), keepdim=True), part, factor)


def _brightness(part: Tensor, original: Tensor, draw: Tensor, largest: float, _: list[np.random.Generator]) -> Tensor:
    return part + largest * (2.0 * draw - 1.0) * _std(original)


def _noise(
    part: Tensor, original: Tensor, draw: Tensor, largest: float, generators: list[np.random.Generator]
) -> Tensor:
    fields = np.stack([generator.standard_normal(part.shape[1:], dtype=np.float32) for generator in generators])
    return part + torch.from_numpy(fields).to(part) * (largest * draw * _std(original))


def _std(image: Tensor) -> Tensor:
    return image.std((2, 3, 4), correction=0, keepdim=True)


_Effect = Callable[[Tensor, Tensor, Tensor, float, list[np.random.Generator]], Tensor]
_EFFECTS: dict[str, _Effect] = {
    "blur_sigma": _blur,
    "gamma": _gamma,
    "contrast": _contrast,
    "brightness": _brightness,
    "noise_std": _noise,
}
