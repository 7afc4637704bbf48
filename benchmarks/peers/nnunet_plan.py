"""A plan after nnU-Net's rules: spacing, patch, poolings, widths and batch from the labeled cases alone.

Paper: Isensee et al. 2021 (Nature Methods 18:203-211); the numbers are those of nnU-Net 2.8.1's default 3D planner.
Deviation: its estimate of GPU memory is replaced by a cap: a patch has at most the voxels of two rows of 128^3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_EDGE = 4
ANISOTROPY = 3.0
LARGEST_PATCH = 128**3
LARGEST_WIDTH = 320
LARGEST_SHARE = 0.05
SMALLEST_BATCH = 2


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        spacing_mm: Every scan is resampled to it.
        patch: Voxels of a row, divisible by what the poolings need.
        strides: One a level, the first all 1.
        kernels: One a level; 1 along an axis whose voxels are over twice as long as the shortest of that level.
        widths: Channels a level.
        batch: Rows a step.
    """

    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]
    batch: int

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return asdict(self)


def make_plan(shapes: Sequence[Sequence[int]], spacings_mm: Sequence[Sequence[float]], *, width: int = 32) -> Plan:
    """Plans from the shapes and spacings of the labeled cases.

    Args:
        shapes: (x, y, z) voxels of each case.
        spacings_mm: Voxel sizes of each case.
        width: Channels of the first level.
    """
    sizes, spacings = np.asarray(shapes, np.float64), np.asarray(spacings_mm, np.float64)
    spacing = target_spacing(sizes, spacings)
    resampled = sizes * spacings / spacing
    median = np.round(np.median(resampled, 0)).astype(int)
    strides, kernels, patch = poolings(spacing, _first_patch(spacing, median))
    while np.prod(patch) > LARGEST_PATCH:
        axis = int(np.argmax(np.asarray(patch) / median))
        less = list(patch)
        less[axis] -= int(np.prod([stride[axis] for stride in strides]))
        strides, kernels, patch = poolings(spacing, less)
    widths = tuple(min(LARGEST_WIDTH, width * 2**level) for level in range(len(strides)))
    return Plan(
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (patch[0], patch[1], patch[2]),
        strides,
        kernels,
        widths,
        _batch(patch, resampled),
    )


def target_spacing(sizes: NDArray[np.float64], spacings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median voxel sizes; along an axis with few long voxels the 10th percentile, not below the others'.

    Args:
        sizes: (cases, 3) voxels.
        spacings: (cases, 3) mm.
    """
    spacing, size = np.median(spacings, 0), np.median(sizes, 0)
    worst = int(np.argmax(spacing))
    others = [axis for axis in range(3) if axis != worst]
    if spacing[worst] > ANISOTROPY * spacing[others].max() and size[worst] * ANISOTROPY < size[others].min():
        spacing[worst] = max(np.percentile(spacings[:, worst], 10), spacing[others].max())
    return spacing


def poolings(
    spacing_mm: Sequence[float] | NDArray[np.float64], patch: Sequence[int]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Halves axes while 4 voxels stay, those of long voxels later than the others.

    Returns:
        Strides and kernels of every level, and the patch rounded up to what the strides need.
    """
    spacing, size = np.asarray(spacing_mm, np.float64).copy(), np.asarray(patch, np.float64).copy()
    strides, kernels, kernel = [(1, 1, 1)], [], np.ones(3, int)
    while True:
        able = size >= 2 * MIN_EDGE
        if able.any():
            able &= spacing < 2 * spacing[able].min()
        if not able.any() or (able.sum() == 1 and size[able][0] < 3 * MIN_EDGE):
            break
        kernel[spacing < 2 * spacing.min()] = 3
        kernels.append(tuple(int(edge) for edge in kernel))
        strides.append(tuple(2 if each else 1 for each in able))
        spacing[able] *= 2
        size[able] = np.ceil(size[able] / 2)
    kernels.append((3, 3, 3))
    needed = np.prod(strides, axis=0)
    rounded = tuple(int(-(-edge // need) * need) for edge, need in zip(patch, needed, strict=True))
    return tuple(strides), tuple(kernels), rounded


def _first_patch(spacing: NDArray[np.float64], median: NDArray[np.int_]) -> list[int]:
    """A cube in mm of 256^3 voxels, no larger than the median scan."""
    shape = 1 / spacing
    cube = np.round(shape * (256**3 / np.prod(shape)) ** (1 / 3))
    return [int(edge) for edge in np.minimum(cube, median)]


def _batch(patch: Sequence[int], resampled: NDArray[np.float64]) -> int:
    """As much as two largest patches, but at most 5 % of the labeled voxels; at least 2."""
    rows = round(2 * LARGEST_PATCH / float(np.prod(patch)))
    covered = round(LARGEST_SHARE * float(np.prod(resampled, axis=1).sum()) / float(np.prod(patch)))
    return max(SMALLEST_BATCH, min(rows, covered))
