"""Connected components of label maps: keep the largest piece of every structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import VolumeError

RULES = ("none", "each", "joint")

# In 2D: faces -> edges, everything wider -> edges and corners.
_CONNECTIVITY_2D = {6: 4, 18: 8, 26: 8}


def keep_largest(label_map: NDArray[Any], rule: str) -> NDArray[Any]:
    """Sets everything outside the largest connected component to background.

    Args:
        label_map: (x, y, z) whole numbers, 0 is background.
        rule: "none" changes nothing; "each" works label by label; "joint" on all labels joined.
    """
    if rule not in RULES:
        raise ValueError(f"the rule is one of {', '.join(RULES)}, but got {rule!r}")
    return label_map if rule == "none" else largest_component(label_map, joined=rule == "joint")


def largest_component(
    label_map: NDArray[np.generic],
    values: Sequence[int] | None = None,
    *,
    connectivity: int = 26,
    joined: bool = False,
) -> NDArray[np.generic]:
    """Keeps the largest connected component of every value and sets the rest to 0.

    Of components of equal size the one whose first voxel comes first in row-major order (last axis fastest) stays.

    Args:
        label_map: (x, y) or (x, y, z) whole numbers or booleans, 0 for background; left as it is.
        values: Values to clean; all but 0 by default. Other values stay untouched.
        connectivity: 6 (faces), 18 (and edges) or 26 (and corners); on 2D maps 6 means 4, and 18 or 26 mean 8.
        joined: Treat all `values` as one structure and keep the largest component of their union, with the values
            inside it unchanged.

    Returns:
        A new array of the same shape and type.

    Raises:
        VolumeError: Not a 2D or 3D label map of whole numbers, or an unknown connectivity.
    """
    label_map = np.asarray(label_map)
    if label_map.ndim not in (2, 3) or label_map.dtype.kind not in "biu":
        raise VolumeError(
            "Components are found in label maps of whole numbers with 2 or 3 dimensions, "
            f"but got type {label_map.dtype} and shape {label_map.shape}."
        )
    if connectivity not in _CONNECTIVITY_2D:
        raise VolumeError(f"Connectivity is 6 (faces), 18 (and edges) or 26 (and corners), but got {connectivity}.")
    chosen = label_map != 0 if values is None else np.isin(label_map, list(values)) & (label_map != 0)
    if not chosen.any():
        return label_map.copy()
    neighbors = connectivity if label_map.ndim == 3 else _CONNECTIVITY_2D[connectivity]
    parts = np.ascontiguousarray(chosen, np.uint32) if joined else _dense(label_map, chosen)
    components = cc3d.connected_components(parts, connectivity=neighbors)
    keep = _largest(components, parts)
    return np.where(chosen & ~keep[components], np.zeros((), label_map.dtype), label_map)


def _dense(label_map: NDArray[np.generic], chosen: NDArray[np.bool_]) -> NDArray[np.uint32]:
    # Values renumbered 1..k, so that any whole numbers (negative ones too) fit cc3d, and row-major, because cc3d
    # numbers components in memory order. Never boolean: cc3d 4.1 has a separate path for it, which merges or splits
    # components wrongly in 2D with 8 neighbours and fails on 3D arrays one voxel wide.
    # Plane by plane: np.unique's inverse of a whole map takes 28 bytes a voxel.
    found = [np.unique(plane[kept]) for plane, kept in zip(label_map, chosen, strict=True)]
    values = np.unique(np.concatenate(found))
    parts = np.zeros(label_map.shape, np.uint32)
    for part, plane, kept in zip(parts, label_map, chosen, strict=True):
        part[kept] = np.searchsorted(values, plane[kept]) + 1
    return parts


def _largest(components: NDArray[np.unsignedinteger], parts: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """(components + 1,) True for the largest component of each part; the lowest number wins a tie."""
    sizes = np.bincount(components.ravel())
    part_of = np.zeros(len(sizes), np.int64)
    part_of[components.ravel()] = parts.ravel()
    keep = np.zeros(len(sizes), bool)
    for part in range(1, int(part_of.max()) + 1):
        members = np.flatnonzero(part_of == part)
        keep[members[np.argmax(sizes[members])]] = True
    return keep


def component_boxes(mask: NDArray[np.bool_], count: int) -> list[tuple[int, int, int, int]]:
    """Bounding boxes of the largest connected components (edges and corners) of a 2D mask.

    Args:
        mask: (x, y).
        count: At most so many, the largest component first; of equal ones that whose first pixel comes first.

    Returns:
        (first x, first y, end x, end y), the ends not included.
    """
    components = cc3d.connected_components(np.ascontiguousarray(mask, np.uint32), connectivity=8)
    sizes = np.bincount(components.ravel())[1:]
    boxes = []
    for number in np.argsort(-sizes, kind="stable")[:count] + 1:
        places = np.argwhere(components == number)
        (x, y), (end_x, end_y) = places.min(0).tolist(), (places.max(0) + 1).tolist()
        boxes.append((x, y, end_x, end_y))
    return boxes
