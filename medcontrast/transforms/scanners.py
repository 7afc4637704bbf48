"""Five simulated scanners: exact effects on images in 0..1, noise a function of (seed, image number).

A counterfactual is known here: the same clean image, rendered by another scanner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medcontrast.errors import InputError
from medcontrast.transforms.draws import row_generator

Array = NDArray[np.float32]

SCANNERS = ("plain", "gamma", "contrast", "blur", "haze")
"""Every scanner, in the order of SHARES.

plain     x
gamma     x^0.5
contrast  0.2 + 0.5 x
blur      x under a Gaussian of 1 pixel, plus Gaussian noise of 0.03
haze      0.5 + 0.3 x
"""
SHARES = (0.89, 0.044, 0.035, 0.027, 0.002)
"""How often each scanner stands in the mixed training set: those of EMBED in Roschewitz 2025, which sum to 0.998."""
GAMMA = 0.5
CONTRAST, LIFT = 0.5, 0.2
HAZE_CONTRAST, HAZE_LIFT = 0.3, 0.5
BLUR_SIGMA, NOISE_STD = 1.0, 0.03


def render_by_scanner(image: NDArray[Any], scanner: str, *, seed: int, number: int) -> Array:
    """What a scanner makes of a clean image.

    Args:
        image: (h, w) in 0..1.
        scanner: One of SCANNERS.
        seed: Of the data set.
        number: Of the image in it; with the seed it decides the noise.

    Returns:
        (h, w) float32 in 0..1.

    Raises:
        InputError: An unknown scanner, or values outside 0..1.
    """
    if scanner not in SCANNERS:
        raise InputError(f"There is no scanner {scanner!r}; the scanners are {', '.join(SCANNERS)}.")
    clean = np.asarray(image, np.float32)
    if clean.size and not (clean.min() >= 0.0 and clean.max() <= 1.0):
        raise InputError(
            f"a scanner takes an image in 0..1, but this one goes from {clean.min():g} to {clean.max():g}; rescale it."
        )
    if scanner == "gamma":
        seen = clean**GAMMA
    elif scanner == "contrast":
        seen = LIFT + CONTRAST * clean
    elif scanner == "blur":
        noise = row_generator(seed, 0, number, "scanner noise").standard_normal(clean.shape, dtype=np.float32)
        seen = ndimage.gaussian_filter(clean, BLUR_SIGMA, mode="nearest") + NOISE_STD * noise
    elif scanner == "haze":
        seen = HAZE_LIFT + HAZE_CONTRAST * clean
    else:
        seen = clean
    rendered: Array = np.clip(seen, 0.0, 1.0).astype(np.float32)
    return rendered


def draw_scanners(count: int, *, seed: int, shares: Sequence[float] = SHARES) -> list[str]:
    """A scanner for each of `count` images: exact numbers (largest remainders), in an order drawn by `seed`.

    A scanner with a share is never left out where there are as many images as scanners.

    Args:
        count: Images.
        seed: Of the order.
        shares: How often each of SCANNERS stands, in any unit.

    Raises:
        InputError: Another number of shares, a negative one, or none above 0.
    """
    if len(shares) != len(SCANNERS) or min(shares) < 0.0 or not 0.0 < sum(shares) < np.inf:
        raise InputError(
            f"shares of scanners are {len(SCANNERS)} numbers of 0 or more, for {', '.join(SCANNERS)}, and not all 0; "
            f"but got {list(shares)}."
        )
    wanted = np.array(shares) / sum(shares) * count
    counts = np.floor(wanted).astype(int)
    for place in np.argsort(counts - wanted, kind="stable")[: count - counts.sum()]:
        counts[place] += 1
    if count >= len(SCANNERS):
        missing = (counts == 0) & (wanted > 0.0)
        counts[counts.argmax()] -= missing.sum()
        counts[missing] = 1
    names = [name for name, number in zip(SCANNERS, counts, strict=True) for _ in range(number)]
    order = row_generator(seed, 0, 0, "scanner order").permutation(count)
    return [names[place] for place in order]
