"""A DICOM image in values of 8 bits, by what its file says of how to show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import ImageError, VolumeError
from medcontrast.volume.frames import dicom_header

if TYPE_CHECKING:
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
    inverted = _said(reader, "0028|0004") == "MONOCHROME1"
    # the reader turns such values round; windows and tables are of those in the file
    stored = _ends(reader, path) - array if inverted else array
    shown = _by_table(stored, path)
    if shown is None:
        shown = _by_window(stored, reader, path)
    return 255.0 * (1.0 - shown if inverted else shown)


def _by_table(stored: NDArray[np.float64], path: Path) -> NDArray[np.float64] | None:
    """Shares of white by the file's first VOI LUT; None without one."""
    try:
        with dicom_header(path, (_TABLES, "PixelRepresentation")) as data:
            tables = data.get(_TABLES)
            if not tables:
                return None
            entries, first, bits = (int(value) for value in tables[0].LUTDescriptor)
            entries = entries or 2**16  # as the standard writes that many in 16 bits
            table = _entries(tables[0].LUTData, entries, bits)
    except VolumeError as error:
        raise ImageError(str(error)) from None
    if len(table) < entries or not 1 <= bits <= 16:
        raise ImageError(
            f"{path}: its VOI LUT holds {len(table)} values, and says {entries} of {bits} bits; remove or repair it."
        )
    places = np.clip(np.rint(stored) - first, 0, entries - 1).astype(np.int64)
    return np.minimum(table[places] / (2.0**bits - 1), 1.0)


def _entries(content: Any, entries: int, bits: int) -> NDArray[Any]:
    if isinstance(content, bytes):  # as words, in which two of 8 bits may share one
        return np.frombuffer(content, "u1" if len(content) < 2 * entries and bits <= 8 else "<u2")
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


def _ends(reader: SimpleITK.ImageFileReader, path: Path) -> float:
    """The smallest value that can be stored and the largest, summed, rescaled as the reader does."""
    bits, signed = _number(reader, path, "0028|0101") or 16, _number(reader, path, "0028|0103")
    slope, intercept = _number(reader, path, "0028|1053") or 1, _number(reader, path, "0028|1052") or 0
    return slope * (-1 if signed else 2**bits - 1) + 2 * intercept


def _number(reader: SimpleITK.ImageFileReader, path: Path, tag: str) -> float | None:
    text = _said(reader, tag).split("\\")[0].strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise ImageError(f"{path}: DICOM tag {tag} is no number: {text!r}.") from None


def _said(reader: Any, tag: str) -> str:
    return str(reader.GetMetaData(tag)).strip() if reader.HasMetaDataKey(tag) else ""
