"""Colour tables that go with a NIfTI mask: 3D Slicer's .ctbl, and its newer .csv with codes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from medcontrast.errors import OutputError
from medcontrast.export.slicer import TISSUE
from medcontrast.files import write_text
from medcontrast.labels import Label, LabelTable

_CODES = ("Category", "Type", "TypeModifier", "Region", "RegionModifier")
_CODE_PARTS = ("CodingScheme", "CodeValue", "CodeMeaning")


def write_color_table(path: Path, labels: LabelTable, *, overwrite: bool = False) -> None:
    """Writes names and colours by label value. 3D Slicer has to load the table before the mask.

    Args:
        path: A .ctbl or .txt file (names with underscores for spaces), or a .csv file (names as they are, and codes).
        labels: Names, colours and codes.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: The file exists already, has another ending, or cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in (".ctbl", ".txt", ".csv"):
        raise OutputError(f"{path}: a colour table is written as .ctbl, .txt or .csv; name the output accordingly.")
    text = _csv(labels) if suffix == ".csv" else _ctbl(labels)
    write_text(path, text, overwrite=overwrite)


def _ctbl(labels: LabelTable) -> str:
    rows = [f"{label.value} {'_'.join(label.name.split())} {_rgb(label)} 255" for label in labels.labels]
    return "\n".join(["# Color table file: index name R G B A", "0 Background 0 0 0 0", *rows, ""])


def _csv(labels: LabelTable) -> str:
    codes = [f"{code}_{part}" for code in _CODES for part in _CODE_PARTS]
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["LabelValue", "Name", "Color_R", "Color_G", "Color_B", "Color_A", *codes])
    table.writerow([0, "Background", 0, 0, 0, 0, *[""] * len(codes)])
    for label in labels.labels:
        name = label.name.replace('"', "'")  # Slicer takes no quotation marks inside a value
        table.writerow([label.value, name, *label.color, 255, *_codes(label)])
    return buffer.getvalue()


def _codes(label: Label) -> list[str]:
    known = (label.category, label.type, label.type_modifier) if label.type else (TISSUE, TISSUE, None)
    return [part for code in (*known, None, None) for part in (code.to_json() if code else ["", "", ""])]


def _rgb(label: Label) -> str:
    return " ".join(map(str, label.color))
