"""The segments that 3D Slicer names in the header of a .seg.nrrd, held against a label table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medcontrast.errors import ManifestError, OutputError, VolumeError
from medcontrast.files import read_json
from medcontrast.labels import Label, LabelTable
from medcontrast.volume.grid import Grid
from medcontrast.volume.read import Volume, read_volume
from medcontrast.volume.values import voxels_by_value
from medcontrast.volume_names import output_stem

SAVED_WHOLE = (
    "make the scan its reference geometry there (Segment Editor, Specify geometry) and save it again with "
    '"Crop to minimum extent" off'
)
"""How a mask comes out of 3D Slicer on the grid of its scan."""
_EXPORTS = {".seg.nrrd": b"NRRD0004\ntype: ", ".ctbl": b"# Color table file: index name R G B A\n"}
"""How the files that an export makes begin; what 3D Slicer saves in their place begins otherwise, and is a person's."""
_NAME = re.compile(r"Segment(\d+)_Name")
_GENERIC = re.compile(r"((segment|label) ?)?\d*")  # names that 3D Slicer makes up, and those of a table of values
_SHOWN = 5


@dataclass(frozen=True)
class Segment:
    """One named structure of a .seg.nrrd, or of a record."""

    name: str
    value: int


def how_to_place(path: Path, grid: Grid, scan: Grid) -> str:
    """What to do with a file of a case that does not lie on the grid of its scan, as the end of a sentence."""
    if path.name.lower().endswith(".seg.nrrd"):
        return f"in 3D Slicer, {SAVED_WHOLE}"
    if grid.shape != scan.shape:
        return "resample it onto that grid"
    # resampled by a header that is wrong, a label would lie beside what it was drawn around, or be empty
    return (
        "if it was drawn on this scan, its header was lost: copy the scan's header onto it, and do not resample it; "
        "else resample it onto that grid"
    )


def is_own_export(path: Path) -> bool:
    """Whether an export wrote this file, and nobody has saved it since; what cannot be read is taken for a person's."""
    words = next((words for ending, words in _EXPORTS.items() if path.name.lower().endswith(ending)), None)
    try:
        with path.open("rb") as file:
            return words is not None and file.read(len(words)) == words
    except OSError:
        return False


def require_no_edits(exported: Iterable[Path]) -> None:
    """Refuses to write over exports that somebody has saved since.

    Raises:
        OutputError: One of these files is there, and no export wrote it as it is.
    """
    for path in exported:
        if path.exists() and not is_own_export(path):
            raise OutputError(
                f"{path}: was saved by 3D Slicer or another program since it was exported, and --overwrite would "
                "delete the manual edits that it may hold; move it away, or name another output with -o."
            )


def named_segments(path: Path, labels: LabelTable | None = None) -> list[Segment]:
    """The segments that the header of a NRRD file names, in its order, or the record of `infer` beside another mask.

    Args:
        path: The mask.
        labels: A name of this table is never one that was made up, be it "Segment 2".
    """
    known = {_plain(label.name) for label in labels.labels if not _is_of_values(label)} if labels else set[str]()
    found = _recorded(path) if (fields := _fields(path)) is None else _segments(fields)
    return [
        segment for segment in found if not _GENERIC.fullmatch(_plain(segment.name)) or _plain(segment.name) in known
    ]


def _is_of_values(label: Label) -> bool:
    """Whether its name says its value alone, as in a table that was made of the values of files."""
    return _plain(label.name) == f"label {label.value}"


def require_one_layer(path: Path) -> None:
    """Refuses a .seg.nrrd in which a voxel may belong to several segments.

    Raises:
        VolumeError: It holds several layers.
    """
    fields = _fields(path) or {}
    sizes = fields.get("sizes", "").split()
    # an axis of length 1 at the end is no layer, but a fourth axis that means nothing
    if len(sizes) == 4 and "1" not in (sizes[0], sizes[-1]) and any(_NAME.fullmatch(key) for key in fields):
        raise VolumeError(
            f"{path}: holds {sizes[0]} layers of segments that may overlap, but a mask has one value a voxel; in 3D "
            "Slicer, collapse them (Segmentations module, Binary labelmap layers, Force collapse to single layer) and "
            "save it again."
        )


def read_label_map(path: Path, labels: LabelTable) -> tuple[Volume, list[str]]:
    """Reads a label map, with the values of the table where its header, or its record, names its segments otherwise.

    3D Slicer numbers segments in the order in which they stand in its list, so that values alone say little, and
    another checkpoint may number structures otherwise. Files without names, and with names that 3D Slicer makes up
    (Segment_1), are read as they are.

    Returns:
        The mask, and sentences on what was read otherwise than it is stored or could not be checked.

    Raises:
        VolumeError: As `read_volume`; several layers; or names that contradict the table.
    """
    require_one_layer(path)
    volume, segments = read_volume(path, "label"), named_segments(path, labels)
    if not segments:
        return volume, []
    present = set(voxels_by_value(volume.array))
    here = [segment for segment in segments if segment.value in present]
    known = _by_name(here, labels)
    moved = {segment: label for segment, label in known.items() if segment.value != label.value}
    if not moved:
        return volume, _unknown_names(path, here, known, labels)
    _require_mappable(path, present, here, known, labels)
    array = volume.array.copy()
    for segment, label in moved.items():
        array[volume.array == segment.value] = label.value
    changes = ", ".join(f"{label.name} {segment.value} as {label.value}" for segment, label in moved.items())
    sentence = f"{path}: its segments have other values than in the label table, and are read by name: {changes}."
    return replace(volume, array=array), [sentence]


def names_of_values(paths: Sequence[Path]) -> dict[int, str]:
    """What the headers of several files call their values, the first that names one leading.

    Raises:
        VolumeError: A name stands under different values, and without a table nobody knows which is meant.
    """
    names: dict[int, str] = {}
    first: dict[str, tuple[int, Path]] = {}
    for path in paths:
        for segment in named_segments(path):
            value, where = first.setdefault(_plain(segment.name), (segment.value, path))
            if value != segment.value:
                raise VolumeError(
                    f"{path}: its segment {segment.name} has the value {segment.value}, but {value} in {where}; say "
                    "which value is meant by naming the labels with --manifest."
                )
            names.setdefault(segment.value, segment.name)
    return names


def _segments(fields: dict[str, str]) -> list[Segment]:
    numbers = sorted(int(match[1]) for key in fields if (match := _NAME.fullmatch(key)))
    segments = []
    for number in numbers:
        name = fields[f"Segment{number}_Name"].strip()
        # 3D Slicer reads a value that is not there as 1; of several segments that would be one value for all
        stored = fields.get(f"Segment{number}_LabelValue", "1" if len(numbers) == 1 else "")
        if stored.isdecimal():
            segments.append(Segment(name, int(stored)))
    return segments


def record_file(path: Path) -> Path:
    """Where the record of a mask lies, if it has one."""
    return path.with_name(f"{output_stem(path)}.json")


def _recorded(path: Path) -> list[Segment]:
    """The labels of the record that `infer` left beside its mask; JSON of that name may be anybody's."""
    try:
        record = read_json(record_file(path))
        if not isinstance(record, dict) or record.get("mask") != path.name:
            return []
        return [Segment(label.name, label.value) for label in LabelTable.from_record(record, where=str(path)).labels]
    except ManifestError:
        return []  # whoever needs the names says what is wrong


def _by_name(segments: Sequence[Segment], labels: LabelTable) -> dict[Segment, Label]:
    """The label of each segment that has a label's name; capitals count where two labels differ in nothing else."""
    plain = [_plain(label.name) for label in labels.labels]
    exact = {label.name: label for label in labels.labels}
    alike = {name: label for name, label in zip(plain, labels.labels, strict=True) if plain.count(name) == 1}
    found = {segment: exact.get(segment.name) or alike.get(_plain(segment.name)) for segment in segments}
    return {segment: label for segment, label in found.items() if label is not None}


def _unknown_names(
    path: Path, segments: Sequence[Segment], known: dict[Segment, Label], labels: LabelTable
) -> list[str]:
    """A sentence on names that are not the table's; a value that is not the table's is another's to refuse."""
    names = {label.value: label.name for label in labels.labels}
    others = [segment for segment in segments if segment not in known and segment.value in names]
    if not others:
        return []
    taken = ", ".join(f"{segment.name} as {names[segment.value]}" for segment in others)
    return [f"{path}: names segments that the label table does not, and they are read by value: {taken}."]


def _require_mappable(
    path: Path, present: set[int], segments: Sequence[Segment], known: dict[Segment, Label], labels: LabelTable
) -> None:
    """Where one segment has moved, every value that the file holds needs a name of the table, each its own."""
    values, targets = [segment.value for segment in segments], [label.name for label in known.values()]
    strange = [segment.name for segment in segments if segment not in known and segment.value != labels.ignore_value]
    nameless = sorted(present - set(values) - {labels.ignore_value})
    reasons = [
        *(f"the table knows no {name}" for name in strange),
        *(f"the value {value} has several names" for value in values if values.count(value) > 1),
        *(f"{name} has several values" for name in targets if targets.count(name) > 1),
        *(f"its value {value} has no name" for value in nameless),
    ]
    if reasons:
        raise VolumeError(
            f"{path}: its segments are {_listed(segments)}, which contradicts the label table "
            f"({_listed(labels.labels)}) and cannot be read by name, as {reasons[0]}; in 3D Slicer, give every segment "
            "its name of the table, and take away what the table does not name."
        )


def _listed(named: Sequence[Segment] | Sequence[Label]) -> str:
    shown = ", ".join(f"{each.value} {each.name}" for each in named[:_SHOWN])
    return shown + (", ..." if len(named) > _SHOWN else "")


def _plain(name: str) -> str:
    """As names are compared: a colour table has underscores for spaces, and capitals are a matter of taste."""
    return " ".join(name.replace("_", " ").split()).casefold()


def _fields(path: Path) -> dict[str, str] | None:
    """Fields and key/value pairs of a NRRD header by name; none of what cannot be read, and None of other files."""
    fields: dict[str, str] = {}
    if path.suffix.lower() not in (".nrrd", ".nhdr"):
        return None
    try:
        with path.open("rb") as file:
            if file.read(4) != b"NRRD":
                return fields
            for raw in file:
                line = raw.decode("utf-8", errors="replace").strip()
                if not line:
                    break  # voxels follow
                key, separator, value = line.partition(":=") if ":=" in line else line.partition(": ")
                if separator and not line.startswith("#"):
                    fields[key] = re.sub(r"\\(.)", lambda escaped: "\n" if escaped[1] == "n" else escaped[1], value)
    except OSError:
        return {}  # whoever reads the volume says why
    return fields
