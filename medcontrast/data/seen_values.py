"""Voxel values that a network was trained on, in its own units: kept in its checkpoint, held against a new scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from medcontrast.data.manifest import Case
from medcontrast.settings.data import IntensitySettings
from medcontrast.transforms.volume3d import normalise
from medcontrast.volume import Volume, read_volume

HEADER_KEY = "values"
"""What checkpoints keep them under; those of z-scored scans, and of before there was such a key, lack it."""
FAR = 3.0
"""Factor between standard deviations above which values are unlike; means may lie one deviation outside."""
_UNIT = 10.0
"""As far from SD 1, and from mean 0, values are meant as they are; crops of z-scored scans are within 2 of both."""
_CASES = 16
"""Most training scans that are read for it."""
_SAMPLE = 200_000
"""About as many voxels of a scan are looked at."""

Range = tuple[float, float]


@dataclass(frozen=True)
class SeenValues:
    """Of every channel the smallest and the largest over training scans, in network units.

    Attributes:
        means: Of a scan's mean.
        deviations: Of a scan's standard deviation.
    """

    means: tuple[Range, ...]
    deviations: tuple[Range, ...]

    @classmethod
    def of(cls, cases: Sequence[Case], intensity: IntensitySettings) -> SeenValues | None:
        """Reads up to 16 of the scans, evenly taken; None where each is z-scored, so that its units mean nothing.

        Raises:
            VolumeError: A scan is missing, or cannot be used.
        """
        if not units_count(intensity):
            return None
        chosen = cases[:: -(-len(cases) // _CASES)]
        figures = np.array(
            [[_figures(read_volume(path, "image"), intensity) for path in case.images] for case in chosen]
        )
        (low_mean, low_std), (high_mean, high_std) = figures.min(axis=0).T, figures.max(axis=0).T
        return cls(_ranges(low_mean, high_mean), _ranges(low_std, high_std))

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> SeenValues | None:
        """What a checkpoint's header says; None where it says nothing that can be read."""
        try:
            kept = header[HEADER_KEY]
            means, deviations = (
                tuple((float(low), float(high)) for low, high in kept[name]) for name in ("means", "deviations")
            )
        except (KeyError, TypeError, ValueError):
            return None
        return cls(means, deviations) if len(means) == len(deviations) else None

    def to_json(self) -> dict[str, list[list[float]]]:
        """The form that `from_header` reads, under HEADER_KEY."""
        return {name: [list(pair) for pair in pairs] for name, pairs in asdict(self).items()}

    def far_from_unit(self, intensity: IntensitySettings) -> str | None:
        """A sentence where the network takes values so large or so alike that no one can have meant it."""
        wide = [deviations for deviations in self.deviations if not 1 / _UNIT <= deviations[1] <= _UNIT]
        shifted = [means for means in self.means if max(map(abs, means)) > _UNIT]
        if not wide and not shifted:
            return None
        means, deviations = (" and ".join(map(_shown, pairs)) for pairs in (self.means, self.deviations))
        return (
            f"data.intensity.kind {intensity.kind} leaves the labeled scans with means of {means} and SDs of "
            f"{deviations}, while networks learn from values around 0 with an SD near 1; take kind zscore, or of CT "
            "kind clip, whose mean and std are the middle and half the width of its window where they are left out."
        )

    def unlike(self, volumes: Iterable[Volume], intensity: IntensitySettings) -> list[str]:
        """A sentence on every channel of a scan whose values are far from those of the training scans."""
        sentences = []
        for volume, means, deviations in zip(volumes, self.means, self.deviations, strict=False):
            mean, std = _figures(volume, intensity)
            inside = means[0] - deviations[1] <= mean <= means[1] + deviations[1]
            if inside and deviations[0] / FAR <= std <= deviations[1] * FAR:
                continue
            sentences.append(
                f"{volume.path}: its values have mean {mean:.3g} and SD {std:.3g} as the network takes them, those of "
                f"the training scans means of {_shown(means)} and SDs of {_shown(deviations)}, so that its mask may "
                "be wrong; give it in the units of the training scans."
            )
        return sentences


def units_count(intensity: IntensitySettings) -> bool:
    """Whether a network depends on the units of its scans: not where each is z-scored by itself."""
    return intensity.kind != "zscore"


def _figures(volume: Volume, intensity: IntensitySettings) -> tuple[float, float]:
    """Mean and standard deviation of a channel in network units."""
    thinned = volume.array.reshape(-1)[:: volume.array.size // _SAMPLE | 1]  # odd: rows are often even in length
    values = normalise(torch.from_numpy(thinned.astype(np.float32)).reshape(1, -1, 1, 1), intensity).double()
    return float(values.mean()), float(values.std(correction=0))


def _ranges(low: np.ndarray[Any, Any], high: np.ndarray[Any, Any]) -> tuple[Range, ...]:
    return tuple((_rounded(one), _rounded(other)) for one, other in zip(low, high, strict=True))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _shown(pair: Range) -> str:
    low, high = (f"{value:.3g}" for value in pair)
    return low if low == high else f"{low} to {high}"
