"""How an image is made worse on purpose: degradations of fundus photographs and of X-ray images.

Lengths are shares of the image's height, so that one setting fits every resolution; intensities run from 0 to 1.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field

from medcontrast.settings.base import Settings

Number = TypeVar("Number", int, float)


def _rising(span: tuple[Number, Number]) -> tuple[Number, Number]:
    if span[0] > span[1]:
        raise ValueError(f"a range goes from its smaller to its larger end, but this one is {list(span)}")
    return span


def _some_once(effects: tuple[str, ...]) -> tuple[str, ...]:
    if not effects or len(set(effects)) != len(effects):
        raise ValueError(f"effects names at least one effect, each once, but holds {list(effects)}")
    return effects


Amount = Annotated[float, Field(ge=0.0, le=4.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Span = Annotated[tuple[Amount, Amount], AfterValidator(_rising)]
"""Smallest and largest amount; drawn uniformly between them, a row each."""
ShareSpan = Annotated[tuple[Share, Share], AfterValidator(_rising)]
Count = Annotated[int, Field(ge=0, le=40)]
Quality = Annotated[int, Field(ge=1, le=100)]
Severity = Annotated[float, Field(ge=0.0, le=1.0)]


class FundusDegradeSettings(Settings):
    """Degraded fundus photographs: uneven illumination, spots on the lens, blur, in this order."""

    kind: Literal["fundus"]
    severity: Severity = 1.0
    """Scales every drawn amount; 0 leaves the image as it is, bit for bit."""
    effects: Annotated[tuple[Literal["illumination", "spots", "blur"], ...], AfterValidator(_some_once)] = (
        "illumination",
        "spots",
        "blur",
    )
    """What may happen; each row draws one of their combinations, never none."""
    brightness: Span = (0.7, 1.2)
    """Factor on all intensities."""
    contrast: Span = (0.6, 1.4)
    """Factor about the image's mean."""
    saturation: Span = (0.6, 1.4)
    """Factor about each pixel's grey; nothing changes in grey images."""
    halos: Annotated[tuple[Count, Count], AfterValidator(_rising)] = (1, 2)
    """Fewest and most bright rings."""
    halo_diameter: Span = (0.75, 1.0)
    """Inner diameter of a ring."""
    halo_strength: ShareSpan = (0.1, 0.4)
    """What the middle of a ring adds."""
    hole_diameter: Span = (0.4, 0.7)
    """Of the dark hole."""
    hole_strength: Share = 0.26
    """What the hole takes away, of images whose mean is above `hole_least_mean`."""
    hole_least_mean: Share = 0.25
    spots: Annotated[tuple[Count, Count], AfterValidator(_rising)] = (5, 10)
    """Fewest and most spots."""
    spot_radius: ShareSpan = (0.01, 0.05)
    spot_strength: ShareSpan = (0.1, 0.4)
    """What the middle of a spot adds."""
    blur_sigma: ShareSpan = (0.005, 0.015)
    """Standard deviation of the Gaussian blur."""
    field_of_view: Share = 0.04
    """Pixels whose brightest channel is at most this lie outside the round field of view and become 0."""


class XrayDegradeSettings(Settings):
    """Degraded X-ray images: wrong exposure, detector noise, lossy compression, in this order."""

    kind: Literal["xray"]
    severity: Severity = 1.0
    """Scales every drawn amount; 0 leaves the image as it is, bit for bit."""
    effects: Annotated[tuple[Literal["exposure", "noise", "compression"], ...], AfterValidator(_some_once)] = (
        "exposure",
        "noise",
        "compression",
    )
    """What may happen; each row draws one of their combinations, never none."""
    exposure_shift: ShareSpan = (0.1, 0.3)
    """Added or taken away, by chance: on a logarithmic detector a factor on the dose moves every value alike."""
    exposure_contrast: ShareSpan = (0.4, 0.9)
    """Factor about the middle of the range: scattered radiation."""
    noise_std: ShareSpan = (0.02, 0.1)
    """Of the noise at the middle of the range."""
    quality: Annotated[tuple[Quality, Quality], AfterValidator(_rising)] = (5, 40)
    """JPEG's quality, the smaller the worse; severity moves it towards 100."""


DegradeSettings = Annotated[FundusDegradeSettings | XrayDegradeSettings, Field(discriminator="kind")]
