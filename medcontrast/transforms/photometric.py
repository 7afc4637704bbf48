"""Random photometric changes of a batch of images, drawn row by row: colour jitter, grey, blur, solarisation.

Letters: b rows, r those that drew a change, c channels, x, y pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medcontrast.settings.images import PhotometricSettings
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.intensity import blur

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601)."""
_DRAWS = ("jitter", "brightness", "contrast", "saturation", "hue", "grayscale", "blur", "sigma", "solarize")


def change_photometry(
    image: Tensor, settings: PhotometricSettings, *, seed: int, step: int, rows: Sequence[int], stream: str
) -> Tensor:
    """One version of the images: jitter, grey, blur, solarisation, in this order; values stay in 0..1.

    Whatever is drawn for one change does not depend on the settings of another.

    Args:
        image: (b, c, x, y) float32 in 0..1, c 1 or 3; not changed.
        settings: Largest amounts and chances.
        seed: Seed of the run.
        step: Optimiser step.
        rows: (b,) global row numbers.
        stream: Name of the view; two views draw separately.

    Paper: the changes are those of SimCLR (Chen 2020, appendix A) and BYOL's solarisation (Grill 2020, appendix B).
    Deviation: brightness, contrast, saturation and hue follow one another in this order, not in a drawn one.
    """
    drawn = np.stack([row_generator(seed, step, row, f"photometric {stream}").random(len(_DRAWS)) for row in rows])
    draw = dict(zip(_DRAWS, torch.from_numpy(drawn).to(image).unbind(1), strict=True))
    out = _jitter(image, settings, draw)
    if settings.grayscale and image.shape[1] == 3:
        out = torch.where(_column(draw["grayscale"] < settings.grayscale), grey(out).expand_as(out), out)
    if settings.blur:
        out = _blur(out, settings, draw)
    if settings.solarize:
        chosen = _column(draw["solarize"] < settings.solarize) & (out >= 0.5)
        out = torch.where(chosen, 1.0 - out, out)
    return out


def grey(image: Tensor) -> Tensor:
    """Images (b, 3, x, y) as (b, 1, x, y); images of one channel as they are."""
    if image.shape[1] == 1:
        return image
    # a sum of three, not a matrix product: that may round to 10 bits on a GPU
    return (image * torch.tensor(LUMA, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def turn_hue(image: Tensor, share: Tensor) -> Tensor:
    """Turns the colour circle of images (b, 3, x, y) in 0..1 by `share` (b,) of it; black, grey and white stay.

    Hue, saturation and value as in the hexcone model (Smith 1978), value and saturation kept.
    """
    high, low = image.amax(1), image.amin(1)
    chroma = high - low
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    red, green, blue = image.unbind(1)
    sector = torch.where(
        high == red,
        ((green - blue) / safe) % 6.0,
        torch.where(high == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    sector = (sector + 6.0 * share.view(-1, 1, 1)) % 6.0
    parts = []
    for shift in (5.0, 3.0, 1.0):
        place = (sector + shift) % 6.0
        parts.append(high - chroma * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0))
    return torch.stack(parts, dim=1)


def _jitter(image: Tensor, settings: PhotometricSettings, draw: dict[str, Tensor]) -> Tensor:
    chosen = (draw["jitter"] < settings.jitter_probability).nonzero()[:, 0]
    amounts = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    if not len(chosen) or not any(amounts):
        return image
    part = image.index_select(0, chosen)

    def factor(name: str, largest: float) -> Tensor:
        return _column(1.0 + largest * (2.0 * draw[name].index_select(0, chosen) - 1.0))

    if settings.brightness:
        part = (part * factor("brightness", settings.brightness)).clamp(0.0, 1.0)
    if settings.contrast:
        middle = grey(part).mean((1, 2, 3), keepdim=True)
        part = torch.lerp(middle.expand_as(part), part, factor("contrast", settings.contrast)).clamp(0.0, 1.0)
    if settings.saturation and image.shape[1] == 3:
        part = torch.lerp(grey(part).expand_as(part), part, factor("saturation", settings.saturation)).clamp(0.0, 1.0)
    if settings.hue and image.shape[1] == 3:
        part = turn_hue(part, settings.hue * (2.0 * draw["hue"].index_select(0, chosen) - 1.0))
    return image.index_copy(0, chosen, part)


def _blur(image: Tensor, settings: PhotometricSettings, draw: dict[str, Tensor]) -> Tensor:
    chosen = (draw["blur"] < settings.blur).nonzero()[:, 0]
    if not len(chosen):
        return image
    low, high = (share * image.shape[-1] for share in settings.blur_sigma)
    sigma = _column(low + (high - low) * draw["sigma"].index_select(0, chosen))
    blurred = blur(image.index_select(0, chosen), sigma, high).clamp(0.0, 1.0)  # weights sum to 1 but for rounding
    return image.index_copy(0, chosen, blurred)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
