"""Where the voxels of a volume lie in the world: shape, affine, and the NIfTI fields to write back untouched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray

from medcontrast.errors import VolumeError

SPACING_LIMITS_MM = (1e-3, 100.0)
"""A voxel edge at or outside these bounds is a damaged header or a wrong unit, not a scan."""
# 1 mm written in metres is 0.00100000005 in float32, and a header in text holds a few digits only.
_LIMITS_SLACK = 1e-4
# Voxels this near a bound are rare, so that a file which names no unit may well mean metres or microns.
_DOUBTFUL_MM = (10 * SPACING_LIMITS_MM[0], SPACING_LIMITS_MM[1] / 10)
# The cosine from which on ITK calls two axes of a NIfTI file sheared; below it is the rounding of headers.
_SHEARED_COSINE = 1e-4
# Of a voxel's shortest edge: a qform is a quaternion in float32, which at the far corner cannot do much better.
_SAME_PLACE = 0.1


@dataclass(frozen=True)
class NiftiFields:
    """The header fields that place a NIfTI file in the world, as stored and in the file's own unit.

    Attributes:
        version: 1 or 2.
        pixdim: pixdim[0:4]; the first is the sign of the third axis in the qform.
        quatern: quatern_b, quatern_c, quatern_d.
        qoffset: qoffset_x, qoffset_y, qoffset_z.
        srow: srow_x, srow_y, srow_z.
        qform_code: What the qform refers to; 0 says that there is none.
        sform_code: What the sform refers to; 0 says that there is none.
        xyzt_units: Units of space (lowest three bits) and time.
    """

    version: int
    pixdim: tuple[float, ...]
    quatern: tuple[float, ...]
    qoffset: tuple[float, ...]
    srow: tuple[tuple[float, ...], ...]
    qform_code: int
    sform_code: int
    xyzt_units: int

    @property
    def placed(self) -> bool:
        """Whether one of the two forms says where the file lies; else programs guess, and not all the same."""
        return self.sform_code > 0 or self.qform_code > 0


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of a volume; compare two with `same_as`.

    Attributes:
        shape: Voxels along the stored axes (x, y, z).
        affine: (4, 4) float64, voxel index to world RAS+ in mm; read-only.
        nifti: Fields of the NIfTI file the grid came from, or None for other formats.
        warnings: Sentences on what is odd but usable.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    nifti: NiftiFields | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if len(self.shape) != 3 or affine.shape != (4, 4):
            raise ValueError(f"a grid has three axes and a 4 x 4 affine, but got {self.shape} and {affine.shape}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along each stored axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def sheared(self) -> bool:
        """Whether two axes are off the right angle by more than the rounding of a header, as a tilted gantry's are."""
        axes = self.affine[:3, :3] / np.array(self.spacing_mm)
        return bool(np.abs(axes.T @ axes - np.eye(3)).max() > _SHEARED_COSINE)

    @property
    def steps_mm(self) -> tuple[float, float, float] | NDArray[np.float64]:
        """What metrics measure by: `spacing_mm`, or of sheared axes (3, 3) with the step of each axis as a column."""
        return self.affine[:3, :3] if self.sheared else self.spacing_mm

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel; less than the product of its edges where the axes are sheared."""
        if self.sheared:
            return float(abs(np.linalg.det(self.affine[:3, :3])))
        return math.prod(self.spacing_mm)

    def same_as(self, other: Grid, tolerance_mm: float | None = None) -> bool:
        """Whether the shapes are equal and no corner voxel lies further than `tolerance_mm` from its twin.

        The default tolerance is a tenth of the smallest voxel side: less is rounding in a header.
        """
        return self.difference(other, tolerance_mm) is None

    def difference(self, other: Grid, tolerance_mm: float | None = None) -> str | None:
        """What sets this grid apart from `other`, in words, or None when they are the same; see `same_as`."""
        tolerance_mm = _SAME_PLACE * min(other.spacing_mm) if tolerance_mm is None else tolerance_mm
        if self.shape != other.shape:
            return f"its shape is {_times(self.shape)}, not {_times(other.shape)}"
        distance = np.linalg.norm(self._corners_mm() - other._corners_mm(), axis=1).max()
        if distance <= tolerance_mm:
            return None
        return f"its corners lie up to {distance:.4g} mm off: {self.describe()}, not {other.describe()}"

    def covers(self, other: Grid) -> bool:
        """Whether the other's corner voxels are this one's, in whatever order the axes are stored; as near as above."""
        apart = np.linalg.norm(self._corners_mm()[None] - other._corners_mm()[:, None], axis=2)
        return bool(apart.min(axis=1).max() <= _SAME_PLACE * min(other.spacing_mm))

    def describe(self) -> str:
        """Shape, spacing, axes and origin in a few words."""
        axes = "".join(code or "?" for code in aff2axcodes(self.affine))
        origin = ", ".join(f"{value:.6g}" for value in self.affine[:3, 3] + 0.0)
        return (
            f"{_times(self.shape)} voxels of {_times(self.spacing_mm)} mm, axes towards {axes}, "
            f"first voxel at ({origin}) mm"
        )

    def _corners_mm(self) -> NDArray[np.float64]:
        indices = np.array(list(product(*((0, size - 1) for size in self.shape))), dtype=np.float64)
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]


def require_usable_grid(grid: Grid, where: object) -> None:
    """Refuses a grid whose voxels have no place in the world.

    Raises:
        VolumeError: An axis without voxels; an affine that is not finite, not invertible or of absurd spacing.
    """
    if min(grid.shape) < 1:
        raise VolumeError(f"{where}: has no voxels (shape {_times(grid.shape)}).")
    if not np.isfinite(grid.affine).all():
        raise VolumeError(f"{where}: its affine holds NaN or infinite values; correct its header.")
    low, high = SPACING_LIMITS_MM
    spacing = grid.spacing_mm
    if not all(low * (1 + _LIMITS_SLACK) < value < high * (1 - _LIMITS_SLACK) for value in spacing):
        raise VolumeError(
            f"{where}: its voxels measure {_times(spacing)} mm, but each edge has to lie between "
            f"{low:g} and {high:g} mm; correct the spacing, or its unit, in the header."
        )
    # the volume of a voxel of unit edges: 1 where axes are orthogonal, 0 where they lie in one plane
    if abs(np.linalg.det(grid.affine[:3, :3] / np.array(spacing))) < 1e-3:
        raise VolumeError(f"{where}: its affine is singular: its three axes lie in one plane; correct its header.")


def doubtful_unit(grid: Grid, where: object) -> list[str]:
    """What to say of a file that names no unit of length, where millimetres make rare voxels of it; else nothing."""
    low, high = _DOUBTFUL_MM
    if all(low <= value <= high for value in grid.spacing_mm):
        return []
    return [
        f"{where}: does not name its unit of length, and with millimetres its voxels measure "
        f"{_times(grid.spacing_mm)} mm; if it means another unit, correct its header."
    ]


def _times(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
