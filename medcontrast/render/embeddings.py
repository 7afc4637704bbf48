"""Pictures of embeddings: the two directions of largest variance, coloured by class and by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError
from medcontrast.render.png import DPI, save_png

_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "os^D"
"""One after another wherever the colours begin anew."""


def principal_plane(embeddings: NDArray[np.floating]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Projects embeddings (n, d) onto their first two principal components.

    Returns:
        (n, 2), centred, and the share of the variance that each of the two holds. The sign of a component is chosen so
        that its largest weight is positive, so that a picture is the same on every machine.

    Raises:
        InputError: Fewer than two embeddings, or fewer than two channels.
    """
    array = np.asarray(embeddings, np.float64)
    if array.ndim != 2 or min(array.shape) < 2:
        raise InputError(f"A plane needs two embeddings of two channels at least, but got shape {array.shape}.")
    centred = array - array.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(directions[:2]).argmax(axis=1)
    signs = np.where(directions[[0, 1], largest] < 0, -1.0, 1.0)
    total = float((lengths**2).sum())
    shares = lengths[:2] ** 2 / (total if total > 0 else 1.0)
    return centred @ (directions[:2] * signs[:, None]).T, (float(shares[0]), float(shares[1]))


def embeddings_png(
    path: Path | str,
    embeddings: NDArray[np.floating],
    colorings: Mapping[str, Sequence[str]],
    *,
    title: str = "",
) -> None:
    """Draws the principal plane once for each coloring, side by side.

    Args:
        path: PNG file to write; it appears whole or not at all.
        embeddings: (n, d).
        colorings: Title -> what each embedding is, for example {"class": [...], "domain": [...]}; at least one.
        title: Text above all.

    Raises:
        InputError: A coloring that does not name every embedding, or embeddings without a plane.
        OutputError: The file cannot be written.
    """
    if not colorings:
        raise InputError("A picture of embeddings needs a coloring, but got none.")
    for name, names in colorings.items():
        if len(names) != len(embeddings):
            raise InputError(f"{name}: {len(embeddings)} embeddings need a name each, but got {len(names)}.")
    points, shares = principal_plane(embeddings)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(colorings), 4.6), dpi=DPI, layout="constrained")
    for place, (name, names) in enumerate(colorings.items(), start=1):
        axes = figure.add_subplot(1, len(colorings), place)
        labels = np.asarray([str(value) for value in names])
        for number, value in enumerate(sorted(set(labels.tolist()))):
            chosen = labels == value
            color, marker = _PALETTE[number % len(_PALETTE)], _MARKERS[number // len(_PALETTE) % len(_MARKERS)]
            look: dict[str, Any] = {"s": 9, "alpha": 0.6, "linewidths": 0, "color": color, "marker": marker}
            axes.scatter(points[chosen, 0], points[chosen, 1], label=value, **look)
        axes.set(title=name, xlabel=f"component 1 ({100 * shares[0]:.0f} % of the variance)")
        axes.set_ylabel(f"component 2 ({100 * shares[1]:.0f} %)")
        axes.spines[["top", "right"]].set_visible(False)
        columns = 1 + (len(axes.collections) - 1) // 12
        axes.legend(frameon=False, fontsize=8 if columns == 1 else 6, markerscale=2, ncols=columns)
    if title:
        figure.suptitle(title)
    save_png(figure, Path(path))
