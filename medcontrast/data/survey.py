"""Measures training scans: grids, intensities, and where the labeled structures lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.manifest import Case, Manifest
from medcontrast.errors import ManifestError
from medcontrast.transforms.volume3d import on_grid_of, to_class_indices
from medcontrast.volume import Grid, canonical_axes, read_volume
from medcontrast.volume.segments import read_label_map

Vector = NDArray[np.float64]
_VOXELS_A_SCAN = 20_000


@dataclass(frozen=True)
class MeasuredScan:
    """One training scan, along the canonical axes x, y, z.

    Attributes:
        case: Its name.
        shape: Voxels along x, y, z.
        spacing_mm: Voxel size along x, y, z.
        extent_mm: Size of the box around everything labeled, or None (unlabeled, or nothing in the label).
        mean: One number a channel.
        std: One number a channel.
        low: Smallest value, one a channel.
        high: Largest value, one a channel.
        whole_numbers: Whether every value is one.
        structure: Up to 20,000 values of labeled voxels, channel by channel: (channels, n).
        body: As many values of voxels above air (-500).
    """

    case: str
    shape: Vector
    spacing_mm: Vector
    extent_mm: Vector | None
    mean: Vector
    std: Vector
    low: Vector
    high: Vector
    whole_numbers: bool
    structure: NDArray[np.float32]
    body: NDArray[np.float32]


def survey(
    manifest: Manifest, *, most: int = 60, tell: Callable[[str], None] = lambda case: None
) -> list[MeasuredScan]:
    """Reads training scans, labeled ones first; the labels of labeled cases alone.

    Args:
        manifest: Its labeled and unlabeled splits are read.
        most: Stop after this many scans.
        tell: Called with each case's name before it is read.

    Raises:
        ManifestError: There is no training case.
        VolumeError: A file cannot be read, or a label is not on its scan's grid or holds a value that has no name.
    """
    wanted = [(case, True) for case in manifest.labeled] + [(case, False) for case in manifest.unlabeled]
    if not wanted:
        raise ManifestError(f"{manifest.path}: there is no labeled or unlabeled case to propose a recipe from.")
    scans = []
    for case, labeled in wanted[:most]:
        tell(case.name)
        scans.append(_scan(case, labeled, manifest))
    return scans


def _scan(case: Case, labeled: bool, manifest: Manifest) -> MeasuredScan:
    volumes = [read_volume(path, "image") for path in case.images]
    image = np.stack([np.asarray(on_grid_of(volume, volumes[0]).array, dtype=np.float32) for volume in volumes])
    grid = volumes[0].grid
    order = canonical_axes(grid)
    flat = image.reshape(len(volumes), -1)
    if not np.isfinite(flat).all():
        raise ManifestError(
            f"{case.images[0]}: holds NaN or infinite values; `medcontrast data check` lists all such scans."
        )
    extent, structure = None, flat[:, :0]
    if labeled and case.label is not None:
        label, _ = read_label_map(case.label, manifest.labels)
        indices = to_class_indices(on_grid_of(label, volumes[0]), manifest.labels)
        extent, structure = _structure(indices > 0, image, grid)
    return MeasuredScan(
        case.name,
        np.array(grid.shape, dtype=float)[order],
        np.array(grid.spacing_mm, dtype=float)[order],
        None if extent is None else extent[order],
        *(flat.astype(np.float64).mean(1), flat.astype(np.float64).std(1), flat.min(1), flat.max(1)),
        bool((flat == np.rint(flat)).all()),
        structure,
        _thin(flat[:, flat[0] > -500]),
    )


def _structure(
    inside: NDArray[np.bool_], image: NDArray[np.float32], grid: Grid
) -> tuple[Vector | None, NDArray[np.float32]]:
    places = np.nonzero(inside)
    if not places[0].size:
        return None, image.reshape(len(image), -1)[:, :0]
    sides = np.array([axis.max() - axis.min() + 1 for axis in places], dtype=float)
    return sides * np.array(grid.spacing_mm), _thin(image[:, inside])


def _thin(values: NDArray[np.float32]) -> NDArray[np.float32]:
    thinned: NDArray[np.float32] = values[:, :: max(1, -(-values.shape[1] // _VOXELS_A_SCAN))]
    return thinned
