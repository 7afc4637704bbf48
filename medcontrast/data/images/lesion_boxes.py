"""Lesion boxes of images: parts of an image that a manifest says hold a lesion.

A box is (top, left, bottom, right) in pixels of the image as it lies in its file, upright, from edge to edge: (0, 0, 4,
6) is the upper left part, 4 pixels high and 6 wide, and pixel 4 is not in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from medcontrast.errors import ManifestError

Box = tuple[float, float, float, float]
"""top, left, bottom, right."""


def parse_boxes(value: Any, where: str) -> tuple[Box, ...]:
    """Boxes from a list of four numbers each, or from a text that holds four numbers a box, boxes parted by `;`.

    Args:
        value: Of a manifest or of a column.
        where: Place in the manifest, for messages.

    Raises:
        ManifestError: Something else.
    """
    parts = [part.split() for part in value.split(";") if part.strip()] if isinstance(value, str) else value
    try:
        boxes = tuple(_box(part) for part in parts)
    except (TypeError, ValueError):
        raise ManifestError(
            f"{where}: lesion_boxes is a list of [top, left, bottom, right] in pixels (in a column "
            f"'top left bottom right; ...'), but got {value!r}."
        ) from None
    return boxes


def _box(part: Any) -> Box:
    if isinstance(part, (str, dict)) or any(isinstance(number, bool) for number in part):
        raise TypeError
    top, left, bottom, right = (float(number) for number in part)
    if not all(map(math.isfinite, (top, left, bottom, right))):
        raise ValueError
    return top, left, bottom, right


def boxes_text(boxes: Sequence[Box]) -> str:
    """The form that a column holds; `parse_boxes` reads it back, bit for bit."""
    return "; ".join(" ".join(f"{number:.17g}" for number in box) for box in boxes)


def boxes_json(boxes: Sequence[Box]) -> str:
    """The form that a manifest holds; whole numbers are written as such."""
    return json.dumps([[int(number) if number == int(number) else number for number in box] for box in boxes])


def box_faults(boxes: Sequence[Box], sides: tuple[int, int]) -> list[str]:
    """What is wrong with each box that cannot be used, in words.

    Args:
        boxes: Of one image.
        sides: Height and width of that image in pixels.
    """
    height, width = sides
    faults = []
    for box in boxes:
        top, left, bottom, right = box
        named = f"lesion box {boxes_json([box])[1:-1]}"
        if bottom <= top or right <= left:
            faults.append(f"{named} is empty; a box is [top, left, bottom, right], the last two not included")
        elif top < 0 or left < 0 or bottom > height or right > width:
            faults.append(f"{named} reaches beyond the image's {height} x {width} pixels")
    return faults


def healthy_fault(boxes: Sequence[Box], target: int | None, classes: Sequence[str]) -> str | None:
    """What is wrong with boxes on an image of the healthy class, target 0; None where nothing is."""
    if not boxes or target != 0:
        return None
    return f"is of the healthy class {classes[0]} (target 0), but has {len(boxes)} lesion box(es); take them out"


def moved_box(box: Box, sides: tuple[int, int], new_sides: tuple[float, float]) -> Box:
    """The same part of an image that was resized whole.

    Args:
        box: In pixels of the old grid.
        sides: Of the old grid.
        new_sides: Of the new one; (1, 1) gives shares of the image's sides.
    """
    # multiplied first, which is exact: what ends with the image ends with the new one, and no rounding takes it beyond
    top, bottom = (edge * new_sides[0] / sides[0] for edge in (box[0], box[2]))
    left, right = (edge * new_sides[1] / sides[1] for edge in (box[1], box[3]))
    return top, left, bottom, right
