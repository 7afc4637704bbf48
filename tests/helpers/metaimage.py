"""A small MetaImage file for tests, its header as they want it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def metaimage(path: Path, *without: str, **more: str) -> Path:
    """Writes a MetaImage with fields left out or added."""
    fields = {
        "NDims": "3",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
        "Offset": "1 2 3",
        "ElementSpacing": "1 2 3",
        "DimSize": "4 5 6",
        "ElementType": "MET_SHORT",
    }
    kept = {key: value for key, value in (fields | more).items() if key not in without}
    lines = [f"{key} = {value}\n" for key, value in (kept | {"ElementDataFile": "LOCAL"}).items()]
    path.write_bytes("".join(lines).encode() + VALUES.tobytes(order="F"))
    return path
