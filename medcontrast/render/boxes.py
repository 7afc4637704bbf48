"""A picture of images with boxes, each with the map that they were found in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError
from medcontrast.render.png import DPI, save_png

_COLUMNS = 6
_COLOR = "#E69F00"


@dataclass(frozen=True, eq=False)
class BoxedImage:
    """One image of a picture.

    Attributes:
        image: (x, y, 1 or 3) bytes; x runs down.
        heat: (x, y), 0 or more.
        boxes: top, left, bottom, right in pixels of the image, from edge to edge.
        title: Above it.
    """

    image: NDArray[np.uint8]
    heat: NDArray[np.floating]
    boxes: Sequence[Sequence[float]]
    title: str = ""


def boxes_png(path: Path | str, images: Sequence[BoxedImage], *, title: str = "") -> None:
    """Draws every image with its boxes, and below it the same with its map.

    Args:
        path: PNG file to write; it appears whole or not at all.
        images: At least one.
        title: Text above all.

    Raises:
        InputError: No image.
        OutputError: The file cannot be written.
    """
    if not images:
        raise InputError("A picture of boxes needs an image at least, but got none.")
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns, rows = min(_COLUMNS, len(images)), -(-len(images) // _COLUMNS)
    figure = Figure(figsize=(1.8 * max(columns, 3), 3.9 * rows + 0.4), dpi=DPI, layout="constrained")
    for number, shown in enumerate(images):
        row, column = divmod(number, _COLUMNS)
        for below in (0, 1):
            axes = figure.add_subplot(2 * rows, columns, (2 * row + below) * columns + column + 1)
            axes.set_axis_off()
            sides = shown.image.shape
            place = (0, sides[1], sides[0], 0)
            pixels = shown.image if sides[2] == 3 else np.repeat(shown.image, 3, axis=2)
            axes.imshow(pixels, extent=place, interpolation="nearest")
            if below:
                axes.imshow(shown.heat, extent=place, cmap="magma", alpha=0.55, vmin=0.0)
            else:
                axes.set_title(shown.title, fontsize=6)
            for top, left, bottom, right in shown.boxes:
                frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=_COLOR, linewidth=1.5)
                axes.add_patch(frame)
    if title:
        figure.suptitle(title, fontsize=9)
    save_png(figure, Path(path))
