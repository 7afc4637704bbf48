"""Sources of a manifest of images: written to disk, and the cases that they give."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.images.sources import ImageCase, expand

CLASSES = ("cat", "dog")
PLACE = r"m\.json: train\[0\]"


def cases_of(root: Path, source: dict[str, Any], classes: tuple[str, ...] = CLASSES) -> list[ImageCase]:
    return expand(source, root, classes, where="m.json: train[0]")


def write_idx(path: Path, array: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_npz(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path
