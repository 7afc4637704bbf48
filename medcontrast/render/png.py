"""Writing a figure as PNG, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from medcontrast.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Without the metadata the same picture has the same bytes under every version of the library.
            FigureCanvasAgg(figure).print_png(temporary, metadata={"Software": None})
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the picture cannot be written: {error.strerror or error}.") from None
