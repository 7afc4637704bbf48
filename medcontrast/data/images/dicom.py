"""A DICOM image in values of 8 bits, by what its file says of how to show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import ImageError, VolumeError
from medcontrast.volume.frames import TURNING_TAGS, dicom_header, turned_sum

if TYPE_CHECKING:
    import pydicom
    import SimpleITK

_TABLES = "VOILUTSequence"


def dicom_pixels(path: Path) -> NDArray[np.float64]:
    """Height x width (x colours), from 0 to 255.

    Grey values go by the first table of the file (its VOI LUT), by its first window without one, or from the smallest
    value to the largest. Large values that are to be dark (MONOCHROME1) are.

    Raises:
        ImageError: Not readable, several frames, or a window or table that cannot be used.
    """
    import SimpleITK as sitk

    try:
        with dicom_header(path, (_TABLES, *TURNING_TAGS)) as data:
            ends, table = turned_sum(data, path), _table(data, path)
    except VolumeError as error:
        raise ImageError(str(error)) from None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError:
        raise ImageError(f"{path}: cannot be read as a DICOM image.") from None
    frames = sitk.GetArrayFromImage(image).astype(np.float64)
    if len(frames) != 1:
        raise ImageError(f"{path}: holds {len(frames)} frames; write one a file.")
    array: NDArray[np.float64] = frames[0]
    if image.GetNumberOfComponentsPerPixel() > 1:
        return array * (255.0 / (2 ** (_number(reader, path, "0028|0101") or 8) - 1))
    # the reader turns such values round; windows and tables are of those in the file
    stored = array if ends is None else ends - array
    shown = _by_window(stored, reader, path) if table is None else _by_table(stored, *table)
    return 255.0 * (shown if ends is None else 1.0 - shown)


def _table(data: pydicom.Dataset, path: Path) -> tuple[NDArray[np.float64], int] | None:
    """The file's first VOI LUT in shares of white, and the value it begins with; None without one."""
    tables = data.get(_TABLES)
    if not tables:
        return None
    entries, first, bits = (int(value) for value in tables[0].LUTDescriptor)
    entries = entries or 2**16  # as the standard writes that many in 16 bits
    words = "<u2" if data.original_encoding[1] in (True, None) else ">u2"  # the file's order of bytes
    table = _entries(tables[0].LUTData, entries, bits, words)
    if len(table) < entries or not 1 <= bits <= 16:
        raise VolumeError(
            f"{path}: its VOI LUT holds {len(table)} values, and says {entries} of {bits} bits; remove or repair it."
        )
    return np.minimum(table[:entries] / (2.0**bits - 1), 1.0), first


def _by_table(stored: NDArray[np.float64], table: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    places = np.clip(np.rint(stored) - first, 0, len(table) - 1).astype(np.int64)
    return np.asarray(table[places])


def _entries(content: Any, entries: int, bits: int, words: str) -> NDArray[Any]:
    if isinstance(content, bytes):  # as words, in which two of 8 bits may share one
        return np.frombuffer(content, "u1" if len(content) < 2 * entries and bits <= 8 else words)
    return np.atleast_1d(np.asarray(content))


def _by_window(stored: NDArray[np.float64], reader: SimpleITK.ImageFileReader, path: Path) -> NDArray[np.float64]:
    """Shares of white by the file's first window, or from the smallest value to the largest."""
    centre, width = _number(reader, path, "0028|1050"), _number(reader, path, "0028|1051")
    if width is not None and width < 0:
        raise ImageError(f"{path}: its window is {width:g} wide; expected more than 0.")
    if centre is None or not width:
        low, high = stored.min(), stored.max()
        return np.asarray((stored - low) / max(high - low, 1e-12))
    share = (stored - centre) / width + 0.5
    if _said(reader, "0028|1056") == "SIGMOID":  # its VOI LUT function
        return np.asarray(1.0 / (1.0 + np.exp(-4.0 * (share - 0.5))))
    return np.clip(share, 0.0, 1.0)


def _number(reader: SimpleITK.ImageFileReader, path: Path, tag: str) -> float | None:
    text = _said(reader, tag).split("\\")[0].strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise ImageError(f"{path}: DICOM tag {tag} is no number: {text!r}.") from None


def _said(reader: Any, tag: str) -> str:
    return str(reader.GetMetaData(tag)).strip() if reader.HasMetaDataKey(tag) else ""
