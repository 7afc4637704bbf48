"""Writes label maps and probability maps as NIfTI on the scan's own grid; whole files or none, same bytes each time."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import OutputError
from medcontrast.files import write_atomically
from medcontrast.volume.grid import Grid
from medcontrast.volume.nifti import nifti_header
from medcontrast.volume_names import NIFTI_SUFFIXES, volume_suffix


def write_label(path: Path, array: NDArray[Any], grid: Grid, *, overwrite: bool = False) -> None:
    """Writes a label map in the smallest unsigned type.

    Args:
        path: A .nii or .nii.gz file.
        array: (x, y, z) whole numbers from 0 on.
        grid: The scan's grid; its sform, qform, codes and units are written as they were read.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: The file exists already, has another ending, or cannot be written.
    """
    if array.dtype.kind not in "iub" or (array.size and array.min() < 0):
        raise ValueError(f"a label map holds whole numbers from 0 on, but got {array.dtype} from {array.min()} on")
    _write(path, array.astype(smallest_unsigned(array), copy=False), grid, overwrite, level=6)


def write_image(path: Path, array: NDArray[Any], grid: Grid, *, overwrite: bool = False) -> None:
    """Writes float32 values, such as probability maps.

    Args:
        path: A .nii or .nii.gz file.
        array: (x, y, z), or (x, y, z, c) with one map a class.
        grid: The scan's grid; its sform, qform, codes and units are written as they were read.
        overwrite: Whether an existing file may be replaced.

    Raises:
        OutputError: The file exists already, has another ending, or cannot be written.
    """
    _write(path, array.astype(np.float32, copy=False), grid, overwrite, level=1)


def smallest_unsigned(array: NDArray[Any]) -> np.dtype[Any]:
    """uint8, uint16 or uint32: the first that holds every value."""
    high = int(array.max(initial=0))
    return np.dtype(next(dtype for dtype in (np.uint8, np.uint16, np.uint32) if high <= np.iinfo(dtype).max))


def _write(path: Path, array: NDArray[Any], grid: Grid, overwrite: bool, level: int) -> None:
    if array.shape[:3] != grid.shape or array.ndim not in (3, 4):
        raise ValueError(f"the array has shape {array.shape}, but its grid {grid.shape}")
    suffix = volume_suffix(path)
    if suffix not in NIFTI_SUFFIXES:
        raise OutputError(f"{path}: masks and maps are written as .nii or .nii.gz; name the output accordingly.")
    header = nifti_header(grid, array.shape, array.dtype.newbyteorder("="))

    def stream(file: IO[bytes]) -> None:
        header.write_to(file)
        file.write(bytes(max(0, int(header.get_data_offset()) - file.tell())))
        write_voxels(file, array)

    def packed(file: IO[bytes]) -> None:
        with gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=file, mtime=0) as stack:
            stream(stack)  # type: ignore[arg-type]

    write_atomically(path, packed if suffix == ".nii.gz" else stream, overwrite=overwrite)


def write_voxels(file: IO[bytes], array: NDArray[Any]) -> None:
    """Writes voxels with the first axis fastest, one piece of the last axis at a time to spare memory."""
    for piece in range(array.shape[-1]):
        file.write(array[..., piece].tobytes(order="F"))
