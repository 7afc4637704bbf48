"""Sizes of the voxels and scans that a network was trained on: read from headers, kept in its checkpoint, held against
a new scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.manifest import Case
from medcontrast.volume import Grid, canonical_axes, read_grid

HEADER_KEY = "spacing_mm"
"""What checkpoints keep them under; those written before there was such a key lack it."""
FAR = 1.25
"""Factor between voxel sizes, along any axis, above which a network that knows no spacing has not seen the like."""
WIDE = 1.5
"""Factor by which a scan may be longer than the longest training scan, along any axis."""


@dataclass(frozen=True)
class VoxelSizes:
    """What the training scans have, in mm along the canonical axes x, y, z.

    Attributes:
        smallest: Of all voxels, one an axis.
        largest: Of all voxels, one an axis.
        extent: Sides of the longest scans, one an axis; None in checkpoints that do not say.
    """

    smallest: tuple[float, ...]
    largest: tuple[float, ...]
    extent: tuple[float, ...] | None = None

    @classmethod
    def of(cls, cases: Iterable[Case]) -> VoxelSizes:
        """Reads the header of every case's first channel; voxels stay unread.

        Raises:
            VolumeError: A scan is missing, or its header cannot be used.
        """
        grids = [read_grid(case.images[0]) for case in cases]
        axes = np.array([canonical_axes(grid) for grid in grids])
        sizes = _canonical_sizes(grids)
        extents = np.take_along_axis(np.array([grid.shape for grid in grids]), axes, axis=1) * sizes
        extent = [float(f"{side:.6g}") for side in extents.max(axis=0)]
        return cls(tuple(sizes.min(axis=0).tolist()), tuple(sizes.max(axis=0).tolist()), tuple(extent))

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> VoxelSizes | None:
        """What a checkpoint's header says; None where it says nothing that can be read."""
        try:
            kept = header[HEADER_KEY]
            smallest, largest = (tuple(float(side) for side in kept[name]) for name in ("smallest", "largest"))
            extent = None if kept.get("extent") is None else tuple(float(side) for side in kept["extent"])
        except (KeyError, TypeError, ValueError):
            return None
        return cls(smallest, largest, extent) if {len(smallest), len(largest), len(extent or "xyz")} == {3} else None

    def to_json(self) -> dict[str, list[float]]:
        """The form that `from_header` reads, under HEADER_KEY."""
        return {name: list(sides) for name, sides in asdict(self).items() if sides is not None}

    def known(self, spacing_mm: Sequence[float]) -> bool:
        """Whether voxels of this size (x, y, z) are like those of the training scans, along every axis."""
        sides = zip(spacing_mm, self.smallest, self.largest, strict=True)
        return all(low / FAR <= side <= high * FAR for side, low, high in sides)

    def wide(self, extent_mm: Sequence[float]) -> bool:
        """Whether a scan of these sides (x, y, z) shows far more than any training scan did, along any axis."""
        return any(side > WIDE * most for side, most in zip(extent_mm, self.extent or (), strict=False))

    def __str__(self) -> str:
        """As people write sizes, such as "1 x 1 x 1.5 mm"."""
        smallest, largest = shown(self.smallest), shown(self.largest)
        return smallest if smallest == largest else f"{smallest} to {largest}"


def different_sizes(cases: Iterable[Case]) -> list[tuple[float, ...]]:
    """Every voxel size (x, y, z) that occurs among the scans, read from their headers.

    Raises:
        VolumeError: A scan is missing, or its header cannot be used.
    """
    sizes = _canonical_sizes([read_grid(case.images[0]) for case in cases])
    return [(*row,) for row in np.unique(sizes, axis=0).tolist()]


def _canonical_sizes(grids: Sequence[Grid]) -> NDArray[np.float64]:
    """(n, 3) in mm; six digits: what lies below is rounding in headers."""
    sizes = np.array([[float(f"{side:.6g}") for side in grid.spacing_mm] for grid in grids])
    return np.take_along_axis(sizes, np.array([canonical_axes(grid) for grid in grids]), axis=1)


def shown(spacing_mm: Sequence[float]) -> str:
    """A voxel size in words, such as "1 x 1 x 1.5 mm"."""
    return " x ".join(f"{side:.3g}" for side in spacing_mm) + " mm"
