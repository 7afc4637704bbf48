"""Writing a figure as PNG, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medcontrast.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    # Without the metadata the same picture has the same bytes under every version of the library.
    write_atomically(path, lambda file: canvas.print_png(file, metadata={"Software": None}))
