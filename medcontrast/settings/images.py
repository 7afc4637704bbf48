"""Images of a 2D recipe: which, at which size, and the views that are drawn of each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medcontrast.settings.base import Settings, require_used
from medcontrast.settings.degrade import DegradeSettings, Share, ShareSpan

Side = Annotated[int, Field(ge=8, le=1024)]
Probability = Share
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class ImageDataSettings(Settings):
    """Which images, and what they are before anything random happens: values in 0..1 on a square grid."""

    manifest: str
    """Path of a manifest of images, relative to the recipe file."""
    root: str | None = None
    """Folder the manifest's paths are relative to; default: the manifest's own, else MEDCONTRAST_DATA, else ./data."""
    size: Side
    """Side in pixels; images of another size or shape are resized to it, whole."""
    channels: Literal[1, 3]
    """Grey or colour; files of the other kind are converted."""
    mean: float = 0.5
    """Subtracted from the views, whose values are 0..1 before."""
    std: float = Field(default=0.25, gt=0.0)
    """The views are divided by it after that."""
    cache: Literal["memory", "none"] = "memory"
    """memory keeps every image as bytes; none reads it again each time."""
    workers: int = Field(default=0, ge=0, le=64)
    """Loader processes; batches are the same for every number."""


class CropSettings(Settings):
    """Which part of the image a view shows."""

    kind: Literal["random", "lesion", "whole", "centre"] = "random"
    """random: a box of drawn area and shape; lesion: the same, moved so that it holds a lesion box of the manifest (or
    lies within one that is larger), turned or not, and random where an image has none; whole: the image as it is;
    centre: the middle box, `area` of the image."""
    area: ShareSpan = (0.2, 1.0)
    """random, lesion: smallest and largest share of the image's area; centre takes the smaller one."""
    ratio: tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]] = (0.75, 1.3333333333333333)
    """random, lesion: smallest and largest width over height, drawn on a logarithmic scale."""

    @model_validator(mode="after")
    def _possible(self) -> CropSettings:
        drawn = ("random", "lesion")
        require_used(self, "kind", {"area": (*drawn, "centre"), "ratio": drawn})
        if self.area[0] <= 0.0:
            raise ValueError("area starts above 0")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio goes from its smaller to its larger end, but is {list(self.ratio)}")
        return self


class PhotometricSettings(Settings):
    """Geometry-free changes of a view, each drawn for itself, row by row; 0 turns one off."""

    jitter_probability: Probability = 0.8
    """Chance that brightness, contrast, saturation and hue change, together."""
    brightness: Fraction = 0.4
    """Factor between 1 - brightness and 1 + brightness."""
    contrast: Fraction = 0.4
    """Factor about the view's mean grey."""
    saturation: Fraction = 0.0
    """Factor about each pixel's grey; colour alone."""
    hue: float = Field(default=0.0, ge=0.0, le=0.5)
    """Largest turn of the colour circle, as a share of it; colour alone."""
    grayscale: Probability = 0.0
    """Chance that all channels become the grey; colour alone."""
    blur: Probability = 0.0
    """Chance of a Gaussian blur."""
    blur_sigma: ShareSpan = (0.005, 0.05)
    """Its standard deviation, as a share of the view's side; one value is drawn between the two."""
    solarize: Probability = 0.0
    """Chance that values above 0.5 are turned round."""

    @property
    def needs_colour(self) -> list[str]:
        """Names of the changes that mean nothing in grey images."""
        return [name for name in ("saturation", "hue", "grayscale") if getattr(self, name)]


class ViewSettings(Settings):
    """One view of every row."""

    source: Literal["image", "counterfactual"] = "image"
    """What it shows: the image, or one drawn from it and its counterfactuals, the same in every view of a row."""
    crop: CropSettings = CropSettings()
    same_crop_as: str | None = None
    """Another view whose crop, mirroring and turn this one shares."""
    size: Side | None = None
    """Side of the view; default: data.size."""
    flip: Probability = 0.5
    """Chance of mirroring."""
    flip_axis: Literal[0, 1] = 1
    """Along which axis of the image: 1 is left and right of a picture; in a slice of a volume, 0 is the first of the
    axes that it keeps (of a coronal slice left and right), 1 the second."""
    rotation_degrees: float = Field(default=0.0, ge=0.0, le=180.0)
    """Largest angle, either way; what comes from outside the image is 0."""
    photometric: PhotometricSettings = PhotometricSettings()
    degrade: DegradeSettings | None = None
    """Degradation of the whole image before the crop; null for none. Rows of low quality are not degraded further."""


class ImageAugmentSettings(Settings):
    """The views of each row, by the names that the method asks for."""

    views: dict[str, ViewSettings]

    @model_validator(mode="after")
    def _crops_exist(self) -> ImageAugmentSettings:
        for name, view in self.views.items():
            other = view.same_crop_as
            if other is None:
                continue
            if other not in self.views or other == name or self.views[other].same_crop_as is not None:
                free = [known for known, each in self.views.items() if each.same_crop_as is None and known != name]
                raise ValueError(
                    f"views.{name}.same_crop_as {other!r} must name a view with a crop of its own: {', '.join(free)}"
                )
            if view.size != self.views[other].size:
                raise ValueError(f"views {name} and {other} share a crop and must have one size")
            idle = _idle(view, self.views[other])
            if idle:
                raise ValueError(
                    f"views.{name} takes crop, mirroring and turn from {other}; leave out {', '.join(idle)}, or give "
                    f"the values of views.{other}"
                )
        return self


def _idle(view: ViewSettings, other: ViewSettings) -> list[str]:
    """Settings of a view that do nothing because it shares them: neither at their defaults nor the other view's."""
    shared = ("crop", "flip", "flip_axis", "rotation_degrees")
    default = {key: ViewSettings.model_fields[key].default for key in shared}
    return [key for key in shared if getattr(view, key) not in (default[key], getattr(other, key))]
