"""What is read from disk, and how it is prepared before anything random happens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medcontrast.settings.base import Settings

PositiveSpacing = Annotated[float, Field(gt=1e-3, lt=100.0)]
"""In mm, within what a scan may have (`volume.grid.SPACING_LIMITS_MM`)."""
PatchSide = Annotated[int, Field(ge=1, le=1024)]
LEAST_SIDE = 8
"""Of a patch, along every axis that a network convolves."""


class IntensitySettings(Settings):
    """How voxel values become network input."""

    kind: Literal["zscore", "clip", "as_stored"] = "zscore"
    """zscore: whole volume to mean 0, SD 1, each channel by itself; clip: CT, see below; as_stored: left alone."""
    low: float | None = None
    """clip only: values below become this (Hounsfield units)."""
    high: float | None = None
    """clip only: values above become this."""
    mean: float | None = None
    """clip only: subtracted after clipping; default the middle of low and high."""
    std: float | None = Field(default=None, gt=0.0)
    """clip only: divided by after that; default half the distance from low to high."""

    @model_validator(mode="after")
    def _clip_needs_a_window(self) -> IntensitySettings:
        window = (self.low, self.high, self.mean, self.std)
        if self.kind != "clip" and any(value is not None for value in window):
            raise ValueError(f"low, high, mean and std go with kind: clip, but kind is {self.kind}")
        if self.kind == "clip" and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError(f"kind: clip needs low < high, but got low {self.low} and high {self.high}")
        return self


class DataSettings(Settings):
    """Which cases, on which grid, in which units."""

    manifest: str
    """Path of the manifest, relative to the recipe file."""
    root: str | None = None
    """Folder the manifest's paths are relative to; default: the manifest's own, else MEDCONTRAST_DATA, else ./data."""
    spacing_mm: tuple[PositiveSpacing, PositiveSpacing, PositiveSpacing] | None = None
    """Resample to this spacing (of the canonical x, y, z axes); null keeps each scan's own."""
    intensity: IntensitySettings = IntensitySettings()
    patch: tuple[PatchSide, PatchSide, PatchSide]
    """Training crop and inference window in voxels; one voxel along network.axis is a slice, for unet2d."""
    foreground_crop: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of labeled rows whose crop is centred on a labeled structure; unlabeled crops are uniform."""
    cache: Literal["memory", "disk", "none"] = "memory"
    """Where volumes stay after the deterministic transforms."""
    workers: int = Field(default=0, ge=0, le=64)
    """Loader processes; batches are the same for every number."""


class SpatialSettings(Settings):
    """Geometry, drawn once a row and shared by every view of it."""

    flip_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0, 1, 2)
    """Axes that are mirrored with probability 1/2 each."""
    rotate90_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    """Axes turned about by a random multiple of 90 degrees; the patch must be square across them."""
    rotation_degrees: float = Field(default=15.0, ge=0.0, le=180.0)
    """Largest angle about each axis."""
    rotation_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] = (0, 1, 2)
    """Axes that patches are rotated about; slices are rotated about their own alone."""
    scale: float = Field(default=0.15, ge=0.0, lt=1.0)
    """Zoom between 1 - scale and 1 + scale."""
    probability: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of rows that are rotated and scaled."""
    beyond_patch: Literal["padding", "scan"] = "padding"
    """What a rotated or zoomed patch shows of what lies beyond it: padding and background, or the scan."""

    @model_validator(mode="after")
    def _axes_once(self) -> SpatialSettings:
        for name in ("flip_axes", "rotate90_axes", "rotation_axes"):
            axes = getattr(self, name)
            if len(set(axes)) != len(axes):
                raise ValueError(f"{name} names an axis twice: {list(axes)}")
        return self


class IntensityViewSettings(Settings):
    """Random intensity changes of one view; each effect is drawn by itself, row by row; 0 turns it off."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)
    """Chance of each effect in a row."""
    gamma: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Exponent between 1 - gamma and 1 / (1 - gamma), applied to the row's own value range."""
    contrast: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Factor about the row's mean between 1 - contrast and 1 + contrast."""
    brightness: float = Field(default=0.0, ge=0.0)
    """Shift up to this many standard deviations of the row."""
    noise_std: float = Field(default=0.0, ge=0.0)
    """Largest standard deviation of Gaussian noise, in units of the row's standard deviation."""
    blur_sigma: float = Field(default=0.0, ge=0.0, le=4.0)
    """Largest standard deviation of a Gaussian blur, in voxels."""

    @property
    def changes_anything(self) -> bool:
        """Whether a row of this view can differ from the row as it is."""
        effects = (self.gamma, self.contrast, self.brightness, self.noise_std, self.blur_sigma)
        return self.probability > 0 and any(effects)


class AugmentSettings(Settings):
    """The batched views: one geometry, two intensities."""

    spatial: SpatialSettings = SpatialSettings()
    weak: IntensityViewSettings = IntensityViewSettings()
    """What a teacher sees."""
    strong: IntensityViewSettings = IntensityViewSettings(
        probability=0.5, gamma=0.3, contrast=0.25, brightness=0.1, noise_std=0.1, blur_sigma=1.0
    )
    """What a student learns from, labeled and unlabeled rows alike."""
