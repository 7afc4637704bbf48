"""Pictures of cases as PNG: three slices with contours, and grids of cases.

Volumes come in canonical orientation (RAS+: axes run to the patient's right, front and top) and are shown in the
radiological convention: front or top up, the patient's right on the left of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import VolumeError
from medcontrast.render.png import DPI, save_png
from medcontrast.volume.values import voxels_by_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.generic]
Colors = Mapping[int, tuple[int, int, int]]

_DEFAULT_COLOR = (230, 159, 0)
_REFERENCE_COLOR = "white"
_BACKGROUND = "black"
_TEXT = "#dddddd"
_WIDTH_INCHES = 10.0
# Sagittal, coronal, axial: the sliced axis, then the axes drawn to the right and up, then the letters at the left,
# right, bottom and top. Every horizontal axis is drawn reversed.
_PLANES = ((0, 1, 2, "APIS"), (1, 0, 2, "RLIS"), (2, 0, 1, "RLPA"))


@dataclass(frozen=True)
class OverlayRow:
    """One case of a picture.

    Attributes:
        image: (x, y, z) grey values in canonical orientation; shown from the 1st to the 99th percentile.
        reference: (x, y, z) label map drawn as dashed white contours, or None. It also chooses the slices, which go
            through the largest area of the structure, unless it is None or empty.
        prediction: (x, y, z) label map drawn as coloured contours and areas, or None.
        spacing_mm: Distance between voxel centres along each axis; gives the aspect ratio.
        title: Text above the case, for example its name and score.
    """

    image: Array
    reference: Array | None
    prediction: Array | None
    spacing_mm: Sequence[float]
    title: str = ""


def overlay_grid_png(
    path: Path | str,
    rows: Sequence[OverlayRow],
    *,
    colors: Colors | None = None,
    names: Mapping[int, str] | None = None,
    title: str = "",
) -> None:
    """Draws several cases below each other, three orthogonal slices each, for example the worst of a report.

    Args:
        path: PNG file to write; it appears whole or not at all.
        rows: The cases, top first; at least one.
        colors: Label value -> red, green, blue, each 0-255.
        names: Label value -> name in the legend; "prediction" where none is given.
        title: Text above all.

    Raises:
        VolumeError: There is no case, the shapes of a case differ, or are not 3D.
        OutputError: The file cannot be written.
    """
    if not rows:
        raise VolumeError("A picture needs at least one case, but got none.")
    for row in rows:
        _check(row)
    from matplotlib.figure import Figure

    heights = [_row_inches(row) for row in rows]
    top, bottom = (0.5 if title else 0.05), 0.4
    total = sum(heights) + top + bottom
    figure = Figure(figsize=(_WIDTH_INCHES, total), dpi=DPI, facecolor=_BACKGROUND)
    if title:
        figure.text(0.5, 1 - 0.25 / total, title, color="white", fontsize=14, ha="center", va="center", weight="bold")
    upper = total - top
    for row, height in zip(rows, heights, strict=True):
        _draw_row(figure, row, upper, total, colors or {})
        upper -= height
    _legend(figure, rows, colors or {}, names or {}, 0.5 * bottom / total)
    save_png(figure, Path(path))


def _check(row: OverlayRow) -> None:
    shape = np.shape(row.image)
    if len(shape) != 3:
        raise VolumeError(f"{row.title or 'The image'}: pictures show 3D volumes, but got shape {shape}.")
    for name, label_map in (("reference", row.reference), ("prediction", row.prediction)):
        if label_map is not None and np.shape(label_map) != shape:
            raise VolumeError(
                f"{row.title or 'The image'}: the {name} has shape {np.shape(label_map)} but the image has shape "
                f"{shape}; expected equal shapes."
            )
    if len(row.spacing_mm) != 3 or not all(np.isfinite(step) and step > 0 for step in row.spacing_mm):
        raise VolumeError(f"Expected a spacing in mm of 3 positive numbers, but got {tuple(row.spacing_mm)}.")


def _structure(row: OverlayRow) -> NDArray[np.bool_]:
    # The reference chooses the slices, so that systems are compared on the same ones.
    for label_map in (row.reference, row.prediction):
        if label_map is not None and np.any(label_map):
            return np.asarray(label_map) != 0
    return np.zeros(np.shape(row.image), bool)


def _extents_mm(row: OverlayRow) -> list[float]:
    return [count * step for count, step in zip(np.shape(row.image), row.spacing_mm, strict=True)]


def _scale(row: OverlayRow) -> float:
    """Inches for each mm, so that the three planes of a case share one scale and fill the width."""
    size = _extents_mm(row)
    return (_WIDTH_INCHES - 0.4) / sum(size[right] for _, right, _, _ in _PLANES)


def _row_inches(row: OverlayRow) -> float:
    return max(_extents_mm(row)[up] for _, _, up, _ in _PLANES) * _scale(row) + (0.45 if row.title else 0.1)


def _draw_row(figure: Figure, row: OverlayRow, upper: float, total: float, colors: Colors) -> None:
    """Places the three planes of a case side by side; `upper` is the row's top edge in inches from below."""
    if row.title:
        figure.text(0.5, (upper - 0.2) / total, row.title, color=_TEXT, fontsize=11, ha="center", va="center")
        upper -= 0.35
    size, scale = _extents_mm(row), _scale(row)
    tallest = max(size[up] for _, _, up, _ in _PLANES) * scale
    finite = np.asarray(row.image, np.float32)
    finite = finite[np.isfinite(finite)]
    window = (float(np.percentile(finite, 1)), float(np.percentile(finite, 99))) if finite.size else (0.0, 1.0)
    structure, left = _structure(row), 0.1
    for plane in _PLANES:
        _, right, up, _ = plane
        width, height = size[right] * scale, size[up] * scale
        below = upper - (tallest + height) / 2
        axes = figure.add_axes((left / _WIDTH_INCHES, below / total, width / _WIDTH_INCHES, height / total))
        _draw_plane(axes, row, plane, _widest_slice(structure, plane[0]), window, colors)
        left += width + 0.1


def _widest_slice(structure: NDArray[np.bool_], axis: int) -> int:
    areas = structure.sum(axis=tuple(other for other in range(3) if other != axis))
    return int(np.argmax(areas)) if areas.any() else structure.shape[axis] // 2


def _draw_plane(
    axes: Axes,
    row: OverlayRow,
    plane: tuple[int, int, int, str],
    index: int,
    window: tuple[float, float],
    colors: Colors,
) -> None:
    axis, right, up, letters = plane
    size = _extents_mm(row)

    def section(array: Array) -> Array:
        # (up, right) as pictures want it: what is left of an axis comes last, hence transposed.
        return np.take(np.asarray(array), index, axis=axis).T

    from matplotlib.patheffects import withStroke

    axes.set_axis_off()
    grey = np.nan_to_num(section(row.image).astype(np.float32))
    axes.imshow(
        grey,
        cmap="gray",
        vmin=window[0],
        vmax=max(window[1], window[0] + 1e-6),
        origin="lower",
        extent=(0, size[right], 0, size[up]),
        interpolation="bicubic",
        aspect="auto",
    )
    steps = (row.spacing_mm[right], row.spacing_mm[up])
    if row.prediction is not None:
        _contours(axes, section(row.prediction), steps, colors, None)
    if row.reference is not None:
        _contours(axes, section(row.reference), steps, colors, _REFERENCE_COLOR)
    axes.set_xlim(size[right], 0)
    axes.set_ylim(0, size[up])
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.015), (0.5, 0.985))
    for letter, (x, y), aligned in zip(letters, places, ("lc", "rc", "cb", "ct"), strict=True):
        horizontal = {"l": "left", "r": "right", "c": "center"}[aligned[0]]
        vertical = {"c": "center", "b": "bottom", "t": "top"}[aligned[1]]
        text = axes.text(x, y, letter, transform=axes.transAxes, color=_TEXT, fontsize=8, ha=horizontal, va=vertical)
        text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def _contours(axes: Axes, label_map: Array, steps: tuple[float, float], colors: Colors, outline: str | None) -> None:
    """Draws every value: dashed in the outline colour, or solid and filled in its own colour."""
    # A rim of background closes the contours of structures that touch the border.
    padded = np.pad(label_map, 1)
    x = (np.arange(padded.shape[1]) - 0.5) * steps[0]
    y = (np.arange(padded.shape[0]) - 0.5) * steps[1]
    for value in np.unique(label_map[label_map != 0]):
        mask = (padded == value).astype(np.float32)
        if outline is not None:
            axes.contour(x, y, mask, [0.5], colors=outline, linewidths=1.3, linestyles=[(0, (3, 2))])
            continue
        color = _rgb(colors, int(value))
        axes.contourf(x, y, mask, [0.5, 1.5], colors=[(*color, 0.28)])
        axes.contour(x, y, mask, [0.5], colors=[color], linewidths=1.8)


def _rgb(colors: Colors, value: int) -> tuple[float, float, float]:
    red, green, blue = colors.get(value, _DEFAULT_COLOR)
    return red / 255, green / 255, blue / 255


def _legend(
    figure: Figure, rows: Sequence[OverlayRow], colors: Colors, names: Mapping[int, str], height: float
) -> None:
    from matplotlib.lines import Line2D

    predicted = sorted({v for row in rows if row.prediction is not None for v in voxels_by_value(row.prediction)})
    entries = dict.fromkeys((_rgb(colors, value), names.get(value, "prediction")) for value in predicted)
    handles = [Line2D([], [], color=color, linewidth=2.5, label=name) for color, name in entries]
    if any(row.reference is not None for row in rows):
        handles.append(Line2D([], [], color=_REFERENCE_COLOR, linestyle=(0, (3, 2)), linewidth=1.5, label="reference"))
    if handles:
        figure.legend(
            handles=handles,
            loc="center",
            bbox_to_anchor=(0.5, height),
            ncols=len(handles),
            frameon=False,
            labelcolor=_TEXT,
            fontsize=9,
            columnspacing=1.2,
        )
