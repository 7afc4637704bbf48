"""From a scan as stored to network input, and a prediction's way back to the scan's own grid.

Letters: c channels, k classes, x, y, z voxels of the prepared grid, X, Y, Z of the scan's. Affines go from voxel
indices to world RAS+ in mm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Spacing
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medcontrast.errors import VolumeError
from medcontrast.labels import IGNORE_INDEX, LabelTable
from medcontrast.settings.data import IntensitySettings
from medcontrast.volume import Grid, Volume, to_metatensor, turns_onto
from medcontrast.volume.segments import how_to_place

Affine = NDArray[np.float64]
SpacingMm = tuple[float, float, float]

_RAS = (("L", "R"), ("P", "A"), ("I", "S"))
_SLAB_VOXELS = 2**21
"""Voxels that are interpolated at a time."""
_SAME_AFFINE = 1e-3
"""Affines that differ by less, in mm, are the same to MONAI's `Spacing`, which then leaves the image as it is."""
_SAME_VOXEL = 0.01
"""Of the shortest voxel side: corners nearer than this are those of the same voxels, and nothing is interpolated."""


def prepare_image(
    volumes: Sequence[Volume], *, spacing_mm: SpacingMm | None, intensity: IntensitySettings
) -> MetaTensor:
    """Channels on one grid, in canonical orientation, resampled where asked, in network units.

    Resampling is trilinear without smoothing beforehand. It takes shear out of the grid; orientation alone leaves
    oblique and sheared grids as they are, to the nearest permutation and mirroring of the axes.

    Args:
        volumes: One a channel, all on one grid; their axes may be stored in different orders.
        spacing_mm: Voxel sizes along the canonical axes, or None for the scan's own.
        intensity: What becomes of the values.

    Returns:
        (c, x, y, z) float32 with its affine.

    Raises:
        VolumeError: The channels do not share one grid.
    """
    first = volumes[0]
    channels = [to_metatensor(on_grid_of(volume, first)).as_tensor() for volume in volumes]
    stacked = torch.cat(channels) if len(channels) > 1 else channels[0]  # normalise copies, so that sharing is safe
    image = _to_canonical(stacked, first.grid, spacing_mm, "bilinear")
    return MetaTensor(normalise(image.as_tensor(), intensity), affine=image.affine)


def prepare_label(volume: Volume, labels: LabelTable, *, spacing_mm: SpacingMm | None) -> MetaTensor:
    """Class indices (channel numbers of the network) in canonical orientation.

    Args:
        volume: A label file.
        labels: The table; values may have gaps. Its ignored value becomes -1.
        spacing_mm: As for the image; labels take the nearest voxel's class.

    Returns:
        (1, x, y, z) int64 with its affine.

    Raises:
        VolumeError: A value is not in the table.
    """
    indices = torch.from_numpy(to_class_indices(volume, labels))[None]
    if spacing_mm is None:
        return _to_canonical(indices, volume.grid, None, "nearest")
    resampled = _to_canonical(indices.to(torch.float32), volume.grid, spacing_mm, "nearest")
    return MetaTensor(resampled.as_tensor().round().to(torch.int64), affine=resampled.affine)


def normalise(image: Tensor, intensity: IntensitySettings) -> Tensor:
    """Voxel values in network units.

    A z-scored channel of one single value becomes 0.

    Args:
        image: (c, x, y, z) float32.
        intensity: zscore: each channel of the whole volume to mean 0 and standard deviation 1; clip: to [low, high],
            minus mean (default: the middle), over std (default: half the width); as_stored: left alone.

    Returns:
        A new tensor of the same shape, float32.
    """
    if intensity.kind == "as_stored":
        return image.clone()
    if intensity.kind == "clip":
        low, high = intensity.low, intensity.high
        assert low is not None and high is not None  # the settings see to it
        mean = (low + high) / 2 if intensity.mean is None else intensity.mean
        std = (high - low) / 2 if intensity.std is None else intensity.std
        return (image.clamp(low, high) - mean) / std
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    for number, channel in enumerate(image):
        # sums in float64: Hounsfield units of a large volume lose digits otherwise; plane by plane, to spare memory
        centred = torch.sub(channel, float(channel.sum(dtype=torch.float64)) / channel.numel(), out=out[number])
        variance = sum(float(plane.square().sum(dtype=torch.float64)) for plane in centred) / channel.numel()
        if variance > 0:
            centred.div_(variance**0.5)
        else:
            centred.zero_()
    return out


def to_class_indices(volume: Volume, labels: LabelTable) -> NDArray[np.int64]:
    """Label-file values as channel numbers of the network, the ignored value as -1, on the file's own grid.

    Raises:
        VolumeError: A value is not in the table.
    """
    table = np.full(_LARGEST_VALUE + 3, _UNKNOWN, dtype=np.int64)
    table[list(labels.values)] = range(labels.classes)
    if labels.ignore_value is not None:
        table[labels.ignore_value] = IGNORE_INDEX
    # -1 picks the last entry, which is unknown as well
    indices = table[np.clip(volume.array, -1, _LARGEST_VALUE + 1)]
    unknown = volume.array[indices == _UNKNOWN]
    if unknown.size:
        found, counts = np.unique(unknown, return_counts=True)
        shown = ", ".join(f"{value} ({count} voxels)" for value, count in zip(found[:5], counts[:5], strict=True))
        known = ", ".join(["0 background", *(f"{label.value} {label.name}" for label in labels.labels)])
        raise VolumeError(
            f"{volume.path}: label value {shown} is not in the manifest's table ({known}); "
            'name it under "labels" (or, if nothing shall learn from it, as "ignore_label"), or correct the file.'
        )
    return indices


def to_label_values(indices: NDArray[np.integer], labels: LabelTable) -> NDArray[np.uint16]:
    """Channel numbers as label-file values; -1 becomes the table's ignored value, or 0 without one."""
    table = np.array([*labels.values, labels.ignore_value or 0], dtype=np.uint16)
    return table[indices]


def on_grid_of(volume: Volume, reference: Volume) -> Volume:
    """The volume with its axes stored as the reference's are; nothing is interpolated.

    Raises:
        VolumeError: Its voxel centres are not the reference's, to a tenth of a voxel.
    """
    if volume.grid.same_as(reference.grid):
        return replace(volume, grid=reference.grid)  # headers may round differently
    stored = volume.stored_as(reference.grid)
    if stored is None:
        raise VolumeError(
            f"{volume.path}: {volume.grid.difference(reference.grid)}; all files of a case must lie on the grid of "
            f"{reference.path}; {how_to_place(volume.path, volume.grid, reference.grid)}."
        )
    return stored


def to_scan_grid(probabilities: Tensor, prepared_affine: Affine, grid: Grid) -> Tensor:
    """Carries maps from the prepared grid back to the scan's.

    A change of orientation is undone exactly, by moving voxels. After resampling, maps are interpolated trilinearly
    at the scan's voxel centres; beyond the prepared grid the nearest value holds.

    Args:
        probabilities: (k, x, y, z) float, on any device; pass one class at a time where memory is short.
        prepared_affine: Affine of the prepared image.
        grid: The scan's own grid.

    Returns:
        (k, X, Y, Z) on the same device.
    """
    moved = _as_permutation(probabilities.shape[1:], prepared_affine, grid)
    if moved is not None:
        return _permute(probabilities, *moved)
    return torch.cat(list(_interpolated_slabs(probabilities, _to_prepared(prepared_affine, grid), grid.shape)), dim=1)


def same_voxels(sides: Sequence[int], prepared_affine: Affine, grid: Grid) -> bool:
    """Whether the prepared grid of these sides (x, y, z) holds the scan's voxels, if in another order of axes."""
    return _as_permutation(sides, prepared_affine, grid) is not None


def reordered(labels: Tensor, prepared_affine: Affine, grid: Grid) -> Tensor:
    """Class indices (x, y, z) of the prepared grid in the scan's order of axes, (X, Y, Z); see `same_voxels`."""
    moved = _as_permutation(labels.shape, prepared_affine, grid)
    assert moved is not None
    return _permute(labels[None], *moved)[0]


def to_scan_labels(probabilities: Tensor, prepared_affine: Affine, grid: Grid) -> Tensor:
    """The most probable class in every voxel of the scan; never holds more than a slab of interpolated maps.

    After resampling the maps are interpolated and then compared, which keeps surfaces smoother than interpolating
    labels does.

    Args:
        probabilities: (k, x, y, z) float.
        prepared_affine: Affine of the prepared image.
        grid: The scan's own grid.

    Returns:
        (X, Y, Z) int16 class indices on the same device.
    """
    if same_voxels(probabilities.shape[1:], prepared_affine, grid):
        return reordered(most_probable(probabilities), prepared_affine, grid)
    slabs = _interpolated_slabs(probabilities, _to_prepared(prepared_affine, grid), grid.shape)
    return torch.cat([most_probable(slab) for slab in slabs])


def most_probable(values: Tensor) -> Tensor:
    """The class with the largest value in every voxel of (k, x, y, z), as (x, y, z) int16; of equal ones the first.

    Values are probabilities or logits.

    PyTorch's arg-max over the first axis is 20 times slower on CPUs than comparing class by class.
    """
    largest = values[0].clone()
    found = torch.zeros(largest.shape, dtype=torch.int16, device=largest.device)
    for index in range(1, len(values)):
        found.masked_fill_(values[index] > largest, index)
        torch.maximum(largest, values[index], out=largest)
    return found


_UNKNOWN = -2
_LARGEST_VALUE = 65535


def _to_canonical(array: Tensor, grid: Grid, spacing_mm: SpacingMm | None, mode: str) -> MetaTensor:
    image = MetaTensor(array, affine=torch.tensor(grid.affine, dtype=torch.float64))
    # the labels are written out, because MONAI's default for them is changing
    image = Orientation("RAS", labels=_RAS)(image)
    if spacing_mm is not None and mode == "nearest":
        image = Spacing(spacing_mm, mode=mode, padding_mode="border")(image)
    elif spacing_mm is not None:
        image = _resampled(image, spacing_mm)
    return MetaTensor(image.as_tensor().contiguous(), affine=image.affine)


def _resampled(image: MetaTensor, spacing_mm: SpacingMm) -> MetaTensor:
    """What MONAI's `Spacing` gives, to rounding, slab by slab: it needs 60 bytes a voxel for its coordinates."""
    planned = Spacing(spacing_mm, padding_mode="border", lazy=True)(image)
    sides, affine = tuple(map(int, planned.peek_pending_shape())), planned.peek_pending_affine().to(torch.float64)
    if sides == tuple(image.shape[1:]) and torch.allclose(affine, image.affine.to(torch.float64), atol=_SAME_AFFINE):
        return image
    to_source = np.linalg.solve(image.affine.numpy().astype(np.float64), affine.numpy())
    out = torch.empty((len(image), *sides))
    start = 0
    for slab in _interpolated_slabs(image.as_tensor(), to_source, sides):
        out[:, start : start + slab.shape[1]] = slab
        start += slab.shape[1]
    return MetaTensor(out, affine=affine)


def _as_permutation(
    sides: Sequence[int], prepared_affine: Affine, grid: Grid
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(prepared axis of every scan axis, mirrored scan axes), or None where the grids differ in more than that."""
    x, y, z = sides
    turns = turns_onto(Grid((x, y, z), prepared_affine), grid, _SAME_VOXEL * min(grid.spacing_mm))
    if turns is None:
        return None
    axes = tuple(int(axis) for axis in np.argsort(turns[:, 0]))
    return axes, tuple(scan_axis for scan_axis, axis in enumerate(axes) if turns[axis, 1] < 0)


def _permute(maps: Tensor, axes: tuple[int, ...], mirrored: tuple[int, ...]) -> Tensor:
    return maps.permute(0, *(axis + 1 for axis in axes)).flip([axis + 1 for axis in mirrored]).contiguous()


def _to_prepared(prepared_affine: Affine, grid: Grid) -> Affine:
    """From voxel indices of the scan to those of the prepared image."""
    return np.linalg.solve(prepared_affine, np.asarray(grid.affine, dtype=np.float64)).astype(np.float64, copy=False)


def _interpolated_slabs(maps: Tensor, to_source: Affine, sides: Sequence[int]) -> Iterator[Tensor]:
    """(k, some X, Y, Z) after one another: `maps` (k, x, y, z), interpolated trilinearly at the voxels of a grid.

    Beyond the maps the nearest value holds. Only the part of them that a slab reads is held in float32.

    Args:
        maps: What is interpolated.
        to_source: (4, 4) from voxel indices of that grid to those of the maps.
        sides: (X, Y, Z) of that grid.
    """
    to_source = to_source[:3]
    planes = max(1, _SLAB_VOXELS // (len(maps) * sides[1] * sides[2]))
    last = np.array(maps.shape[1:]) - 1
    for start in range(0, sides[0], planes):
        stop = min(start + planes, sides[0])
        ranges = ((start, stop - 1), (0, sides[1] - 1), (0, sides[2] - 1))
        corners = np.array(list(itertools.product(*ranges))) @ to_source[:, :3].T + to_source[:, 3]
        low = np.clip(np.floor(corners.min(axis=0)), 0, last).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0)), 0, last).astype(int)
        part = maps[(slice(None), *(slice(a, b + 1) for a, b in zip(low, high, strict=True)))].to(torch.float32)
        # in half-widths of that part, z first, as grid_sample wants them
        half = np.maximum(high - low, 1) / 2
        scaled = to_source / half[:, None]
        scaled[:, 3] -= low / half + 1
        # float64 where there is any (not on mps, whose maps are on the CPU by now)
        matrix = torch.from_numpy(scaled[::-1].copy()).to(maps.device)
        lines = [
            torch.arange(first, end + 1, dtype=torch.float64, device=maps.device)[:, None] * matrix[:, axis]
            for axis, (first, end) in enumerate(ranges)
        ]
        places = lines[0][:, None, None] + (lines[1][:, None] + lines[2][None] + matrix[:, 3])
        coordinates = places.to(torch.float32)[None]
        yield F.grid_sample(part[None], coordinates, "bilinear", "border", align_corners=True)[0]
