"""One random geometry a row: mirroring, quarter turns, rotation and zoom, for an image and its label alike.

Letters: b rows, c channels, x, y, z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medcontrast.errors import InputError
from medcontrast.labels import is_known
from medcontrast.settings.data import SpatialSettings
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.rotation import rotation


@dataclass(frozen=True)
class RowGeometry:
    """What happens to one row: mirroring first, then quarter turns, then the affine part.

    Attributes:
        flips: Axes (0, 1, 2) that are mirrored.
        turns: (axis, number of quarter turns) in order.
        matrix: (3, 3) from output to input, in mm about the patch's centre; None where there is none.
    """

    flips: tuple[int, ...] = ()
    turns: tuple[tuple[int, int], ...] = ()
    matrix: np.ndarray | None = None


def draw_geometry(settings: SpatialSettings, seed: int, step: int, row: int) -> RowGeometry:
    """The geometry of one row; every number is drawn whatever the settings, so that one setting moves no other draw."""
    generator = row_generator(seed, step, row, "geometry")
    mirrored, turns = generator.random(3) < 0.5, generator.integers(0, 4, 3)
    chance, zoom = generator.random(2)
    angles = np.deg2rad(settings.rotation_degrees) * generator.uniform(-1.0, 1.0, 3)
    angles = np.where(np.isin(range(3), settings.rotation_axes), angles, 0.0)
    affine = (
        (settings.rotation_degrees > 0 and settings.rotation_axes) or settings.scale > 0
    ) and chance < settings.probability
    return RowGeometry(
        flips=tuple(axis for axis in settings.flip_axes if mirrored[axis]),
        turns=tuple((axis, int(turns[axis])) for axis in settings.rotate90_axes if turns[axis]),
        matrix=rotation(angles) / (1.0 + settings.scale * (2.0 * zoom - 1.0)) if affine else None,
    )


def reach(settings: SpatialSettings, patch: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """By how many voxels (x, y, z) a patch must be read larger on every side, so that no geometry looks beyond it.

    The same along all axes where patches are turned by quarters.
    """
    largest = np.deg2rad(settings.rotation_degrees) * np.isin(range(3), settings.rotation_axes)
    half = (np.array(patch) - 1) / 2
    furthest = np.array([_furthest(axis, largest, half * spacing_mm) for axis in range(3)])
    seen = (furthest / spacing_mm / (1.0 - settings.scale)).round(9)
    margins = np.maximum(0, np.ceil(seen - half)).astype(int)
    return tuple(np.full(3, margins.max()).tolist() if settings.rotate90_axes else margins.tolist())


def _furthest(axis: int, largest: NDArray[np.float64], half: NDArray[np.float64]) -> float:
    """How far a box of these half sides reaches along an axis when it is turned by up to the `largest` angles.

    The worst angle may lie inside its range, about several axes or beyond 45 degrees: a grid of angles, then finer
    ones about the best of it.
    """
    grid = np.stack(np.meshgrid(*[np.linspace(-1.0, 1.0, 13)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    centre, size = np.zeros(3), largest
    for _ in range(6):
        angles = np.clip(centre + size * grid, -largest, largest)
        reached = np.abs(rotation(angles)[:, axis]) @ half
        centre, size = angles[reached.argmax()], size / 6
    return float(reached.max())


def apply_geometry(
    image: Tensor,
    label: Tensor | None,
    geometries: Sequence[RowGeometry],
    spacing_mm: Tensor | None,
    patch: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Applies one geometry to each row.

    Mirroring and quarter turns only move voxels about. The affine part samples once: images trilinearly, labels
    by the nearest voxel, so that -1 is never mixed with a class. What comes from outside the image is 0, as in the
    padding of small scans (`crop.PAD_VALUE`), and background in a labeled row; a row that is ignored everywhere
    (unlabeled) stays so. Repeating the border instead would smear structures into voxels called background.

    Args:
        image: (b, c, x, y, z) float32.
        label: (b, 1, x, y, z) int64, or None.
        geometries: One a row.
        spacing_mm: (b, 3), so that rotations are rigid in mm; None means cubic voxels. Quarter turns are of the
            voxel grid.
        patch: Sides of what is returned, the middle of a larger image; by default the image's own.

    Returns:
        New tensors (b, c or 1, *patch); the inputs stay as they are.
    """
    turned, turned_label = _turn_rows(image, geometries), None if label is None else _turn_rows(label, geometries)
    patch = tuple(patch or image.shape[2:])
    image, label = _middle(turned, patch), None if turned_label is None else _middle(turned_label, patch)
    moved = {row: geometry.matrix for row, geometry in enumerate(geometries) if geometry.matrix is not None}
    if not moved:
        return image, label
    matrices, rows = torch.from_numpy(np.stack(list(moved.values()))), torch.tensor(list(moved))
    spacing_mm = None if spacing_mm is None else spacing_mm.cpu().index_select(0, rows)
    grid = _sampling_grid(matrices, patch, turned.shape[2:], spacing_mm, image.device)
    rows = rows.to(image.device)
    part = F.grid_sample(turned.index_select(0, rows), grid, "bilinear", "zeros", align_corners=True)
    image.index_copy_(0, rows, part)
    if label is not None and turned_label is not None:
        _sample_label(turned_label, label, rows, grid)
    return image, label


def _middle(tensor: Tensor, patch: Sequence[int]) -> Tensor:
    """A copy of the middle (b, c, *patch); the tensor itself where that is all of it."""
    if tuple(tensor.shape[2:]) == tuple(patch):
        return tensor
    starts = [(side - size) // 2 for side, size in zip(tensor.shape[2:], patch, strict=True)]
    box = (slice(first, first + size) for first, size in zip(starts, patch, strict=True))
    return tensor[(slice(None), slice(None), *box)].clone()


def _sample_label(source: Tensor, label: Tensor, rows: Tensor, grid: Tensor) -> None:
    """Samples the rows of `source` that have any class into `label`; an unlabeled row has nothing to sample."""
    part = source.index_select(0, rows)
    known = is_known(part).flatten(1).any(1).nonzero()[:, 0]
    # class indices are exact in float32, and the nearest voxel's value is taken unchanged
    part = part.index_select(0, known).to(torch.float32)
    part = F.grid_sample(part, grid.index_select(0, known), "nearest", "zeros", align_corners=True)
    label.index_copy_(0, rows.index_select(0, known), part.to(label.dtype))


def _turn_rows(tensor: Tensor, geometries: Sequence[RowGeometry]) -> Tensor:
    out = tensor.clone()
    for row, geometry in enumerate(geometries):
        if not geometry.flips and not geometry.turns:
            continue
        turned = tensor[row].flip([axis + 1 for axis in geometry.flips])
        for axis, quarters in geometry.turns:
            first, second = (other + 1 for other in range(3) if other != axis)
            if turned.shape[first] != turned.shape[second]:
                raise InputError(
                    f"augment.spatial.rotate90_axes names axis {axis}, but the patch {tuple(tensor.shape[2:])} is "
                    "not square across it; take the axis out or make the patch square."
                )
            turned = turned.rot90(quarters, (first, second))
        out[row] = turned
    return out


def _sampling_grid(
    matrices: Tensor, patch: Sequence[int], source: Sequence[int], spacing_mm: Tensor | None, device: torch.device
) -> Tensor:
    """Where grid_sample looks: (r, *patch, 3) float32, in half-widths of a source of these sides, z first.

    Written out as a sum of three lines: affine_grid goes through a matrix product, which is slower on a CPU and
    may round to 10 bits (TF32) on a GPU.
    """
    voxels = 1.0 if spacing_mm is None else spacing_mm.to(torch.float64)
    to, of = (
        (torch.tensor(sides, dtype=torch.float64) - 1).clamp(min=1).expand(len(matrices), 3) / 2 * voxels
        for sides in (patch, source)
    )
    columns = (matrices * to[:, None, :] / of[:, :, None]).flip(1)
    lines = []
    for axis, side in enumerate(patch):
        line = torch.linspace(-1, 1, side, dtype=torch.float64) if side > 1 else torch.zeros(1, dtype=torch.float64)
        place = [len(matrices), 1, 1, 1, 3]
        place[axis + 1] = side
        lines.append((line[:, None] * columns[:, None, :, axis]).view(place).to(device, torch.float32))
    return lines[0] + lines[1] + lines[2]
