"""Charts as PNG: means with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medcontrast.render.png import DPI, save_png

_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@dataclass(frozen=True)
class Point:
    """One mean of a comparison.

    Attributes:
        name: What was measured; a line of the picture.
        group: Points of one group share a colour, and the legend names it.
        mean: Where the mark is drawn.
        low: Where its interval begins.
        high: Where its interval ends.
        runs: Single runs, drawn small.
    """

    name: str
    group: str
    mean: float
    low: float
    high: float
    runs: tuple[float, ...] = ()


def points_png(path: Path | str, points: Sequence[Point], *, title: str = "", axis: str = "") -> None:
    """Draws means with their intervals, one line a name, groups in colours, single runs as small marks.

    Args:
        path: PNG file to write; it appears whole or not at all.
        points: In order, the first on top.
        title: Text above.
        axis: Text below the horizontal axis.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(point.name for point in points))
    groups = list(dict.fromkeys(point.group for point in points))
    figure = Figure(figsize=(7, 1.4 + 0.42 * len(names)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for point in points:
        place = groups.index(point.group)
        y = names.index(point.name) + 0.22 * (place - (len(groups) - 1) / 2)
        color = _PALETTE[place % len(_PALETTE)]
        axes.plot([point.low, point.high], [y, y], color=color, linewidth=1.6)
        axes.plot(point.runs, [y] * len(point.runs), "|", color=color, markersize=6, alpha=0.7)
        axes.plot(point.mean, y, "o", color=color, markersize=4.5)
    for place, group in enumerate(groups):
        axes.plot([], [], "-o", color=_PALETTE[place % len(_PALETTE)], markersize=4.5, label=group)
    axes.set(xlabel=axis, yticks=range(len(names)), yticklabels=names)
    figure.suptitle(title)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if len(groups) > 1:
        figure.legend(frameon=False, loc="outside right center")  # whatever lies inside hides no interval
    save_png(figure, Path(path))
