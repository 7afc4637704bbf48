"""What the text headers of NRRD and MetaImage leave out or mean otherwise: SimpleITK fills in and passes over both."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medcontrast.errors import VolumeError

# SimpleITK turns these three into LPS, and takes every other space for LPS as it is.
_PATIENT_SPACES = {
    *("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las"),
    *("left-posterior-superior-time", "lpst"),  # its first three axes need no turn
}
_NRRD_SUFFIXES = (".nrrd", ".nhdr")
_FIELDS_OF_A_SPACE = {"space directions", "space origin", "space units", "measurement frame"}
_VECTOR = re.compile(r"\((?!\s*nan)", re.IGNORECASE)  # an axis outside space has "none", or NaN
_METAIMAGE_FIELD = re.compile(r"([^=:]*?)\s*[=:]\s*(.*)")
_NRRD_DATA = re.compile(r"data ?file: (.*)", re.IGNORECASE)
_METAIMAGE_DATA = re.compile(r"ElementDataFile\s*[=:]\s*(.*)")
# one number in a name, then the first, the last and the step, and in NRRD the axes of a file
_PATTERN = re.compile(r"([^%]*%\d*d[^%]*?)\s+(-?\d+)\s+(-?\d+)\s+(-?[1-9]\d*)(?:\s+\d+)?")
_LIST = re.compile(r"LIST(?:\s+(\d+)D?)?")
_MILLIMETRE = re.compile(r"mm|millimet(er|re)s?", re.IGNORECASE)
_UNNAMED_UNITS = ("", "?")
_DIRECTION_KEYS = ("TransformMatrix", "Rotation", "Orientation")
_ORIGIN_KEYS = ("Offset", "Position", "Origin")
_SPACING_KEYS = ("ElementSpacing", "ElementSize")


@dataclass(frozen=True)
class StatedPlace:
    """What a header says of the place of its volume.

    Attributes:
        names_unit: Whether it says that its lengths are in millimetres; where it does not, they are assumed.
        warnings: Sentences on what is left out.
    """

    names_unit: bool
    warnings: tuple[str, ...]


def stated_place(path: Path) -> StatedPlace:
    """Reads the header of a NRRD or MetaImage file that SimpleITK could read.

    Raises:
        VolumeError: It does not name a space of the patient (NRRD) or the size of its voxels, or is in other units
            than millimetres, which other programs would pass over.
    """
    if is_nrrd(path):
        return _nrrd_place(path, nrrd_header(path)[0])
    return _metaimage_place(path, metaimage_header(path)[0])


def is_nrrd(path: Path) -> bool:
    """Whether its name is one of NRRD, .seg.nrrd included."""
    return path.suffix.lower() in _NRRD_SUFFIXES


def require_named_space(path: Path) -> None:
    """Refuses a NRRD file that has directions, an origin or units of a space, but names none; ITK cannot read it.

    Raises:
        VolumeError: There is such a field, and neither a space nor how many dimensions it has.
    """
    if not is_nrrd(path):
        return
    with path.open("rb") as file:
        if file.read(4) != b"NRRD":
            return
    fields = nrrd_header(path)[0]
    if not fields.keys() & {"space", "space dimension"} and fields.keys() & _FIELDS_OF_A_SPACE:
        raise _spaceless(path)


def require_sound_metaimage(path: Path) -> None:
    """Refuses a MetaImage header by which ITK would end the whole process, or make up what is missing.

    It divides by the step of a pattern of files and counts upwards alone, makes up slices that no file holds, and
    writes beyond its own memory for a hundred axes.

    Raises:
        VolumeError: Files are counted without a step, or backwards, or are too few; axes are too many.
    """
    fields = metaimage_header(path)[0]
    axes = fields.get("NDims", "3")
    if axes not in map(str, range(1, 11)):
        raise VolumeError(f"{path}: its header is damaged: NDims = {axes}, but a volume has 3 axes.")
    value = fields.get("ElementDataFile", "")
    pattern, *numbers = value.split() or [""]
    counted = "%" in pattern and bool(numbers)
    if counted and not re.match(r"\+?0*[1-9]", "".join(numbers[2:3])):
        raise VolumeError(
            f"{path}: ElementDataFile = {value} needs a step of 1 or more; write the first number, the last one and "
            f"the step, such as {pattern} 0 9 1."
        )
    of_each = _LIST.fullmatch(value)
    if counted or of_each:
        sizes = [int(size) for size in re.findall(r"\d+", fields.get("DimSize", ""))]
        slices, files = math.prod(sizes[int((of_each and of_each[1]) or len(sizes) - 1) :]), len(data_files(path))
        if files < slices:
            raise VolumeError(f"{path}: its header names {files} file(s) of voxels, but has {slices} slices.")


def _spaceless(path: Path) -> VolumeError:
    return VolumeError(
        f"{path}: does not say where it lies or which side is left: its header names no space such as "
        "left-posterior-superior; add it, with space directions and space origin."
    )


def _nrrd_place(path: Path, fields: dict[str, str]) -> StatedPlace:
    if "space" not in fields:
        raise _spaceless(path)
    if fields["space"].lower() not in _PATIENT_SPACES:
        raise VolumeError(
            f"{path}: does not say which side is left: its header names the space {fields['space']}; "
            "make it left-posterior-superior, right-anterior-superior or left-anterior-superior, with space directions "
            "and space origin to match."
        )
    if len(_VECTOR.findall(fields.get("space directions", ""))) < 3:
        raise VolumeError(
            f"{path}: does not say how large its voxels are: its header lacks space directions of an axis; add them."
        )
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))[:3]  # a unit of time may follow
    named = [_require_millimetres(path, unit) for unit in units]
    unplaced = [] if _VECTOR.match(fields.get("space origin", "")) else [without_origin(path, "space origin")]
    return StatedPlace(bool(named) and all(named), tuple(unplaced))


def _metaimage_place(path: Path, fields: dict[str, str]) -> StatedPlace:
    if not any(key in fields for key in _SPACING_KEYS):
        raise VolumeError(f"{path}: does not say how large its voxels are: its header has no ElementSpacing; add it.")
    warnings = []
    if not any(key in fields for key in _DIRECTION_KEYS):
        warnings.append(without_directions(path, "TransformMatrix"))
    if not any(key in fields for key in _ORIGIN_KEYS):
        warnings.append(without_origin(path, "Offset"))
    return StatedPlace(_require_millimetres(path, fields.get("DistanceUnits", "")), tuple(warnings))


def _require_millimetres(path: Path, unit: str) -> bool:
    """Whether there is a unit at all; any but mm is refused."""
    if unit in _UNNAMED_UNITS:
        return False
    if _MILLIMETRE.fullmatch(unit) is None:
        # converted, its masks would not lie on it where it is shown as millimetres
        raise VolumeError(
            f"{path}: its lengths are in {unit}, which other programs take for mm; convert its header to mm."
        )
    return True


def without_directions(path: Path, field: str) -> str:
    """What to say of a file whose axes are taken as LPS, because this field is missing."""
    return (
        f"{path}: does not say how it lies or which side is left (its header has no {field}); its axes are "
        "taken as running to the left, to the back and upwards."
    )


def without_origin(path: Path, field: str) -> str:
    """What to say of a file whose origin is made up, because this field is missing."""
    return f"{path}: does not say where it lies (its header has no {field}); its first voxel is taken as at 0, 0, 0."


def nrrd_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields by name in lower case, key/value pairs (":=") left out, and how many bytes the header takes."""
    fields, length = {}, 0
    with path.open("rb") as file:
        for line in file:
            length += len(line)
            text = _text(line)
            if not text:
                break  # voxels follow
            name, separator, value = text.partition(": ")
            if separator and ":=" not in name and not text.startswith("#"):
                fields[name.lower()] = value.strip()
    return fields, length


def metaimage_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of a MetaImage header, and how many bytes it takes."""
    fields, length = {}, 0
    with path.open("rb") as file:
        for line in file:
            length += len(line)
            if field := _METAIMAGE_FIELD.match(_text(line)):
                fields[field[1]] = field[2]
            if "ElementDataFile" in fields:  # the last; voxels follow
                break
    return fields, length


def data_files(path: Path) -> list[Path]:
    """Files that the header of a NRRD or MetaImage file names for its voxels; none where they follow the header."""
    nrrd = is_nrrd(path)
    with path.open("rb") as file:
        lines = (os.fsdecode(line).strip() for line in file)
        for line in lines:
            if nrrd and not line:
                break  # voxels follow
            if named := (_NRRD_DATA if nrrd else _METAIMAGE_DATA).fullmatch(line):
                return [path.parent / name for name in _data_names(named[1], lines)]
    return []


def _data_names(value: str, lines: Iterator[str]) -> list[str]:
    """Names that a field means: one, those of the lines that follow, or a pattern's with first, last and step."""
    if value.upper() == "LOCAL":
        return []
    if _LIST.fullmatch(value):
        return [line for line in lines if line]
    if pattern := _PATTERN.fullmatch(value):
        first, last, step = (int(number) for number in pattern.groups()[1:])
        return [pattern[1] % number for number in range(first, last + (1 if step > 0 else -1), step)]
    return [value]


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").strip()
