"""NIfTI files with header fields at will."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
AFFINE = np.array([[0.0, 2.0, 0.0, -7.0], [-1.5, 0.0, 0.0, 8.0], [0.0, 0.0, 3.0, 9.0], [0.0, 0.0, 0.0, 1.0]])


def save(path: Path, array: np.ndarray = VALUES, affine: np.ndarray | None = AFFINE, **fields: object) -> Path:
    """Writes a NIfTI file, then header fields as given, past nibabel's own checks."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for key, value in fields.items():
        header[key] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path
