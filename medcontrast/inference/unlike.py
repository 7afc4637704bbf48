"""Where a scan is unlike those that networks were trained on: sentences for its record and for stderr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medcontrast.data.seen_values import SeenValues
from medcontrast.data.voxel_sizes import VoxelSizes, shown
from medcontrast.inference.members import Member
from medcontrast.settings.train import InferenceSettings
from medcontrast.volume import Grid, Volume, canonical_axes, far_values

_THIN = 3
"""A scan is thin whose side is less than a patch's divided by this."""


def warned(
    members: Sequence[Member], settings: InferenceSettings, volumes: Sequence[Volume], sides: Sequence[int]
) -> Grid:
    """The scan's grid, with warnings of far values, and of values, voxel sizes and thin scans never seen before.

    Of networks that are averaged also where their recipes would predict otherwise, each by itself.

    Args:
        members: The networks that predict.
        settings: What they predict with, all of them.
        volumes: The scan's channels.
        sides: Voxels of the prepared image.
    """
    grid = volumes[0].grid
    far = [sentence for volume in volumes if (sentence := far_values(volume))]
    unlike = _unlike(members, volumes[0]) if members[0].recipe.data.spacing_mm is None else []
    unlike += [*_wide(members, volumes[0]), *_strange(members, volumes)]
    unlike += [*_thin(members, volumes[0], sides), *_unequal(members, settings)]
    return replace(grid, warnings=(*grid.warnings, *far, *unlike))


def _unequal(members: Sequence[Member], settings: InferenceSettings) -> list[str]:
    """Settings in which recipes of members differ, so that the average would depend on which is named first."""
    sentences = []
    for name in ("window", "overlap", "weighting", "flips", "largest_component"):
        used = getattr(settings, name)
        own = {member.path: getattr(member.recipe.inference, name) for member in members}
        others = [path for path, value in own.items() if value != used]
        if others and len(set(own.values())) > 1:
            sentences.append(
                f"{others[0]}: its recipe has inference.{name} {own[others[0]]}, but the average is predicted with "
                f"{used}, the first checkpoint's or the one asked for."
            )
    return sentences


def _strange(members: Sequence[Member], volumes: Sequence[Volume]) -> list[str]:
    """Channels whose values are unlike those that the networks saw; several members say the same once."""
    intensity = members[0].recipe.data.intensity
    every = (SeenValues.from_header(member.header) for member in members)
    seen = dict.fromkeys(values for values in every if values is not None)
    return [sentence for values in seen for sentence in values.unlike(volumes, intensity)]


def _thin(members: Sequence[Member], volume: Volume, sides: Sequence[int]) -> list[str]:
    """Along which axis a scan shows so little that most of every patch is padding."""
    patch = np.max([member.recipe.data.patch for member in members], axis=0).tolist()
    return [
        f"{volume.path}: is {side} voxel{'' if side == 1 else 's'} thick along {axis} as the network sees it, which "
        f"was trained on patches of {length}; most of what it sees is padding, so that its mask is likely to be wrong."
        for axis, side, length in zip("xyz", sides, patch, strict=True)
        if _THIN * side < length
    ]


def _wide(members: Sequence[Member], volume: Volume) -> list[str]:
    """Where the scan shows far more than what the networks were trained on: of the rest they say anything."""
    axes = canonical_axes(volume.grid)
    extent = (np.array(volume.grid.shape) * volume.grid.spacing_mm)[axes].tolist()
    trained = [sizes for member in members if (sizes := VoxelSizes.from_header(member.header))]
    known = dict.fromkeys(shown(sizes.extent) for sizes in trained if sizes.extent and sizes.wide(extent))
    return [
        f"{volume.path}: shows {shown(extent)} along x, y, z, but the longest training scans show {longest}; what "
        "the network says of anything else is no mask. Crop the scan to what those show."
        for longest in known
    ]


def _unlike(members: Sequence[Member], volume: Volume) -> list[str]:
    """Where voxels are taken as stored: how the scan's differ in size from those that networks saw."""
    spacing = np.array(volume.grid.spacing_mm)[canonical_axes(volume.grid)].tolist()
    trained = {str(sizes): sizes for member in members if (sizes := VoxelSizes.from_header(member.header))}
    return [
        f"{volume.path}: has voxels of {shown(spacing)} along x, y, z, but the network was trained on those of "
        f"{words} and takes them as stored, so that its mask is likely to be wrong; resample the scan to that, "
        "or train with data.spacing_mm."
        for words, sizes in trained.items()
        if not sizes.known(spacing)
    ]
