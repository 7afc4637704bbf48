"""Reads a scan or label file of any known format, and says in one sentence why it cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from nibabel.orientations import apply_orientation
from numpy.typing import NDArray

from medcontrast.errors import VolumeError
from medcontrast.volume.grid import Grid, require_usable_grid
from medcontrast.volume.itk import read_dicom, read_dicom_grid, read_itk, read_itk_grid
from medcontrast.volume.nifti import nifti2_masks, read_nifti, read_nifti_grid, sheared_axes
from medcontrast.volume.orientation import turns_onto
from medcontrast.volume_names import KNOWN_SUFFIXES, NIFTI_SUFFIXES, volume_suffix

if TYPE_CHECKING:
    from monai.data import MetaTensor

_FAR = 1000
_SAMPLE = 100_000

# What overflows is a damaged header or voxel; it is refused in words, so numpy need not warn as well.
_quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan or label map.

    Attributes:
        array: (x, y, z), axes as stored; float32 for images, int32 for labels.
        grid: Where the voxels lie.
        path: The file or DICOM folder it came from.
    """

    array: NDArray[Any]
    grid: Grid
    path: Path

    def stored_as(self, grid: Grid) -> Volume | None:
        """The same voxels in the order and directions of another grid's axes; None where the grids differ in more.

        Nothing is interpolated: a volume saved in another orientation by another program comes back as it was.
        """
        turns = turns_onto(self.grid, grid)
        if turns is None:
            return None
        return Volume(np.ascontiguousarray(apply_orientation(self.array, turns)), grid, self.path)


@_quiet
def read_volume(path: Path, kind: Literal["image", "label"]) -> Volume:
    """Reads .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, or a folder holding one DICOM series.

    Args:
        path: The file or folder.
        kind: "image" gives float32, slope and intercept applied; "label" gives int32, and takes whole numbers only.

    Raises:
        VolumeError: Missing, damaged, of unknown format, not a 3D scalar volume, without a place in the world,
            or a label file with other than whole numbers.
    """
    read = {"dicom": read_dicom, "nifti": read_nifti, "itk": read_itk}
    with _faults_of(path):
        stored, grid = read[_format(path)](path)
        grid = _usable(grid, path)
        return Volume(stored.label_map(path) if kind == "label" else stored.image(), grid, path)


@_quiet
def read_grid(path: Path) -> Grid:
    """Reads where the voxels lie; their values stay unread.

    Raises:
        VolumeError: As read_volume, as far as the header shows it.
    """
    read = {"dicom": read_dicom_grid, "nifti": read_nifti_grid, "itk": read_itk_grid}
    with _faults_of(path):
        return _usable(read[_format(path)](path), path)


def require_usable_image(volume: Volume) -> None:
    """Refuses a scan that nothing can be learned from or predicted on.

    Raises:
        VolumeError: NaN or infinite voxels, or the same value everywhere.
    """
    array = volume.array
    bad = ~np.isfinite(array)
    if bad.any():
        raise VolumeError(
            f"{volume.path}: {np.count_nonzero(bad)} of {bad.size} voxels are NaN or infinite, the first at index "
            f"{_first(bad)}; replace them, for example by the value of air, before use."
        )
    if array.min() == array.max():
        raise VolumeError(f"{volume.path}: every voxel has the value {array.flat[0]:g}; there is nothing to see in it.")


def far_values(volume: Volume) -> str | None:
    """A sentence on voxels so far from all others that they decide how those are scaled; None where there are none.

    One voxel of a million, a thousand times as far out as the middle 99 % reach, outweighs the deviation of all others.
    """
    array = volume.array
    thinned = array.reshape(-1)[:: max(1, array.size // _SAMPLE)].astype(np.float64)
    low, high = np.percentile(thinned, (0.5, 99.5))
    reach = _FAR * (high - low)
    if reach == 0 or (array.min() >= low - reach and array.max() <= high + reach):
        return None
    far = (array < low - reach) | (array > high + reach)
    first = _first(far)
    return (
        f"{volume.path}: {np.count_nonzero(far)} of {far.size} voxels are more than {_FAR:,} times as far out as the "
        f"middle 99 %, which go from {low:g} to {high:g}; the first, at index {first}, is {array[first]:g}. They "
        "decide how all others are scaled; if they are damage, replace them."
    )


def to_metatensor(volume: Volume) -> MetaTensor:
    """The volume as a MONAI MetaTensor (1, x, y, z) with its RAS affine."""
    import torch
    from monai.data import MetaTensor

    return MetaTensor(
        torch.from_numpy(volume.array)[None],
        affine=torch.tensor(volume.grid.affine, dtype=torch.float64),
        meta={"filename_or_obj": str(volume.path), "space": "RAS"},
    )


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise VolumeError(f"{path}: does not fit into memory.") from None
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _format(path: Path) -> Literal["dicom", "nifti", "itk"]:
    if not path.exists():
        raise VolumeError(f"{path}: there is no such file or folder.")
    if path.is_dir():
        return "dicom"
    suffix = volume_suffix(path)
    if suffix is None:
        raise VolumeError(
            f"{path}: is no volume by its name; known are {', '.join(KNOWN_SUFFIXES)} "
            "and a folder with one DICOM series."
        )
    return "nifti" if suffix in NIFTI_SUFFIXES else "itk"


def _usable(grid: Grid, path: Path) -> Grid:
    require_usable_grid(grid, path)
    return replace(grid, warnings=(*grid.warnings, *sheared_axes(grid, path), *nifti2_masks(grid, path)))


def _first(bad: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(part) for part in np.unravel_index(np.argmax(bad), bad.shape))
