"""Files that hold many images, or what is known of many: .npz, the IDX form of MNIST, and CSV."""

from __future__ import annotations

import csv
import gzip
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcontrast.errors import ManifestError

if TYPE_CHECKING:  # `medcontrast check` reads manifests of images, and answers without numpy
    import numpy as np
    from numpy.typing import NDArray

_MISSING = ("nan", "NaN", "<NA>")
"""How tables write that a value is not known, beside leaving it out."""
_MISSING_OR_NAME = ("NA", "N/A", "None", "null")
"""How they write it too, where it may be a name, as of North America."""

_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a broken archive ends in; one that is encrypted, or packed in a way unknown here, is a RuntimeError."""


def npz_array(path: Path, key: str, where: str) -> NDArray[Any]:
    """One array of an .npz file.

    Raises:
        ManifestError: No such file or array.
    """
    import numpy as np

    try:
        # opened here, as numpy leaves a file open that it cannot read
        with path.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise ValueError("it is a single array, .npy")
            if key not in arrays:
                raise ManifestError(f"{where}: {path} has no array {key!r}; it has {', '.join(arrays.files)}.")
            found: NDArray[Any] = arrays[key]
            return found
    except _DAMAGED as error:
        raise ManifestError(f"{where}: {path} cannot be read as .npz ({error}).") from None


def npz_length(path: Path, key: str, where: str) -> int:
    """First side of an array of an .npz file, from its header alone.

    Raises:
        ManifestError: No such file or array, or an array without sides.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape = read(stream)[0]
    except KeyError:
        shape = npz_array(path, key, where).shape  # says which arrays there are
    except _DAMAGED as error:
        raise ManifestError(f"{where}: {path} cannot be read as .npz ({error}).") from None
    if not shape:
        raise ManifestError(f"{where}: array {key} of {path} is a single number; expected images x height x width.")
    return int(shape[0])


def npz_column(path: Path, key: str, count: int, where: str) -> list[Any]:
    """One value for each of `count` images.

    Raises:
        ManifestError: No such array, or it holds something else.
    """
    import numpy as np

    array = npz_array(path, key, where)
    if array.shape not in ((count,), (count, 1)):
        raise ManifestError(
            f"{where}: array {key} of {path} has shape {array.shape}; expected one value for each of {count} images."
        )
    if array.dtype.kind == "S":  # text as HDF5 files give it
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise ManifestError(f"{where}: array {key} of {path} holds bytes that are no UTF-8 ({error}).") from None
    values: list[Any] = array.reshape(count).tolist()
    return values


def idx_array(path: Path) -> NDArray[np.uint8]:
    """An array of bytes in the IDX form of MNIST, gzipped or not.

    Raises:
        ManifestError: Not such a file.
    """
    import numpy as np

    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, axes = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
        if zero != 0 or kind != 8 or not axes:
            raise ValueError("not bytes in the IDX form")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise ManifestError(f"{path}: cannot be read as an IDX file ({error}).") from None


def csv_rows(path: Path, columns: Sequence[str], where: str) -> list[dict[str, str]]:
    """The rows of a CSV file with a line of names at its top.

    Args:
        path: The file, in UTF-8.
        columns: Names that must be among them.
        where: Place in the manifest, for messages.

    Raises:
        ManifestError: Not readable, no rows, a column that is missing or there twice, or a row of another length.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = list(reader)
    except UnicodeDecodeError:
        raise ManifestError(f"{where}: {path} is no text in UTF-8; save it as that.") from None
    except (OSError, ValueError, csv.Error) as error:
        raise ManifestError(f"{where}: {path} cannot be read as CSV ({error}).") from None
    if not rows:
        raise ManifestError(f"{where}: {path} has no rows.")
    known = list(reader.fieldnames or ())
    other = [mark for mark in (";", "\t") if len(known) == 1 and mark in known[0]]
    if other:
        raise ManifestError(f"{where}: {path} separates its columns by {other[0]!r}; separate them by commas.")
    twice = [name for name in known if known.count(name) > 1]
    if twice:
        raise ManifestError(f"{where}: {path} has more than one column {twice[0]!r}.")
    missing = [name for name in columns if name not in known]
    if missing:
        raise ManifestError(f"{where}: {path} has no column {missing[0]!r}; it has {', '.join(known)}.")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ManifestError(f"{where}: row {number} of {path} has not {len(known)} values, as its first line has.")
    return rows


def plain_value(value: Any, *, name: bool = True) -> Any:
    """A value as it was meant: an id spelled in another way is no other patient, who could then stand in two splits.

    Args:
        value: As it stands in a table.
        name: Whether NA may be a name; of patients and numbers it is none.
    """
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    if not isinstance(value, str):
        return value
    value = value.strip()
    # pandas writes a column of whole numbers so where some are missing
    missing = _MISSING if name else (*_MISSING, *_MISSING_OR_NAME)
    return None if value in missing else re.sub(r"^(\d+)\.0$", r"\1", value)


def is_number(text: str) -> bool:
    """Whether text can be read as one."""
    try:
        float(text)
    except ValueError:
        return False
    return True
