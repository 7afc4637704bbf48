"""The colour table that goes with a NIfTI mask: 3D Slicer's .ctbl."""

from __future__ import annotations

from pathlib import Path

from medcontrast.errors import OutputError
from medcontrast.files import write_text
from medcontrast.labels import LabelTable


def write_color_table(path: Path, labels: LabelTable, *, overwrite: bool = False) -> None:
    """Writes names and colours by label value. 3D Slicer has to load the table before the mask.

    Args:
        path: A .ctbl file.
        labels: Names, with underscores for spaces in the file, and colours.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: The file exists already, has another ending, or cannot be written.
    """
    if path.suffix.lower() != ".ctbl":
        raise OutputError(f"{path}: a colour table is written as .ctbl; name the output accordingly.")
    rows = [
        f"{label.value} {'_'.join(label.name.split())} {' '.join(map(str, label.color))} 255" for label in labels.labels
    ]
    text = "\n".join(["# Color table file: index name R G B A", "0 Background 0 0 0 0", *rows, ""])
    write_text(path, text, overwrite=overwrite)
