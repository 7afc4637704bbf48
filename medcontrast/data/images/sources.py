"""From one source of a manifest to its images: a file, an array of many, a folder, a list, or slices of volumes.

Lists and headers are opened here, and IDX files whole, as they are one stream; other pixels are read by
medcontrast.data.images.pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from medcontrast.data.images.arrays import csv_rows, idx_array, is_number, npz_column, npz_length, plain_value
from medcontrast.data.images.choice import CHOICE, FOLDS_BY, chosen, rows_with
from medcontrast.data.images.lesion_boxes import Box, parse_boxes
from medcontrast.errors import ManifestError

QUALITIES = ("high", "low")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")
COLUMNS = ("target", "domain", "quality", "patient", "text", "of")
_KNOWN = (*COLUMNS, "attributes")
"""What may be known of an image, whatever it comes from."""
_BOXES = "lesion_boxes"
"""May be known of an image, not of a whole volume."""
CSV_COLUMNS = ("image", *COLUMNS, _BOXES)
"""Columns of a csv that are read by their names."""


def fields_of(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is known of some of these images: of cases their `vars`, or the sources themselves."""
    return [name for name in (*_KNOWN, _BOXES) if any(each.get(name) not in (None, "", (), {}) for each in facts)]


def listed_fields(fields: Sequence[str]) -> str:
    """As messages list them."""
    return ", ".join(fields) or "no fields"


def no_counterfactuals(cases: Sequence[ImageCase], where: str) -> str:
    """What to say of a split none of whose images is another's counterfactual, though a view shows some."""
    return (
        f"{where} has no counterfactuals (no image has `of`; they have {_known_of(cases)}), but a view shows them; "
        "make some with `medcontrast counterfactuals`, or set its source to image"
    )


def no_lesion_boxes(cases: Sequence[ImageCase], where: str) -> str:
    """What to say of a split without lesion boxes, though a view's crop is around them."""
    return (
        f"{where}: no image has lesion boxes (they have {_known_of(cases)}), but a view's crop is around them; make "
        "some with `medcontrast data boxes`, or set its crop.kind to random"
    )


def _known_of(cases: Sequence[ImageCase]) -> str:
    return listed_fields(fields_of([vars(case) for case in cases]))


@dataclass(frozen=True)
class ImageCase:
    """One image and what is known of it.

    Attributes:
        name: Unique in its split.
        file: Where its pixels are.
        key: Array of an .npz file; None for other files.
        index: Place in that array, or number of the slice.
        axis: Canonical axis that slices are counted along; None where the file is one image.
        target: Class index, or None.
        domain: Where it comes from, such as a scanner.
        quality: "high" or "low"; None counts as high.
        patient: Images of one patient must not stand in different splits.
        text: A caption.
        of: Name of the image that this one is a counterfactual of.
        attributes: Numbers, such as age.
        label: Label volume of a slice.
        lesion_boxes: Parts of the image that hold a lesion, in pixels of its file.
    """

    name: str
    file: Path
    key: str | None = None
    index: int | None = None
    axis: int | None = None
    target: int | None = None
    domain: str | None = None
    quality: str | None = None
    patient: str | None = None
    text: str | None = None
    of: str | None = None
    attributes: dict[str, float] = field(default_factory=dict)
    label: Path | None = None
    lesion_boxes: tuple[Box, ...] = ()


class Source(NamedTuple):
    """One kind of source: the other keys it takes, and how it becomes images."""

    keys: tuple[str, ...]
    expand: Callable[[dict[str, Any], Path, _Place], list[ImageCase]]


@dataclass(frozen=True)
class _Place:
    """Where a source stands: what the facts of its images mean, and where its other files lie."""

    root: Path
    classes: tuple[str, ...]
    where: str
    advice: str = ""

    def file(self, path: Any) -> Path:
        """A file that the source names."""
        if not isinstance(path, str):
            raise ManifestError(f"{self.where}: expected a path, but got {path!r}.")
        if not (self.root / path).exists():
            advice = f"; {self.advice}" if self.advice else ""
            raise ManifestError(f"{self.where}: {self.root / path} is not there{advice}.")
        return self.root / path

    def columns(self, names: Any) -> list[str]:
        """Names of columns with attributes."""
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ManifestError(f"{self.where}: attributes is a list of columns here, but got {names!r}.")
        return names

    def facts(self, known: dict[str, Any], name: str = "") -> dict[str, Any]:
        """Fields of an ImageCase; `name` of the image stands in messages."""
        where = f"{self.where}: {name}" if name else self.where
        plain = {key: plain_value(value, name=key != "patient") for key, value in known.items()}
        found: dict[str, Any] = {key: value for key, value in plain.items() if value is not None and value != ""}
        written = known.get("target")
        if isinstance(written, str) and written.strip() in self.classes:  # as it stands: a class may be called 1.0
            found["target"] = self.classes.index(written.strip())
        elif "target" in found:
            found["target"] = self._target(found["target"], where)
        if found.get("quality", "high") not in QUALITIES:
            raise ManifestError(f'{where}: quality is "high" or "low", but got {found["quality"]!r}.')
        for key in ("domain", "patient", "text", "of"):
            if key in found:
                if not isinstance(found[key], str | int | float):
                    raise ManifestError(f"{where}: {key} is a word or a number, but got {found[key]!r}.")
                found[key] = str(found[key])
        attributes = found.get("attributes", {})
        try:
            numbers = {str(key): plain_value(value, name=False) for key, value in attributes.items()}
            found["attributes"] = {key: float(value) for key, value in numbers.items() if value not in (None, "")}
        except (AttributeError, TypeError, ValueError):
            raise ManifestError(f"{where}: attributes are numbers by name, but got {attributes!r}.") from None
        if not all(math.isfinite(value) for value in found["attributes"].values()):
            raise ManifestError(f"{where}: attributes must be finite, but got {attributes!r}.")
        if _BOXES in found:
            found[_BOXES] = parse_boxes(found[_BOXES], where)
        return found

    def _target(self, value: Any, where: str) -> int:
        """A class index, from itself (a number, or text that can be no name) or from the name of a class (text)."""
        text, numbered = str(value), any(is_number(name) for name in self.classes)
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value < len(self.classes):
                return value
        elif text in self.classes:
            return self.classes.index(text)
        # where classes are called 1, 2, 3, a column of indices would read as names but for its 0
        elif text.isdecimal() and not numbered and int(text) < len(self.classes):
            return int(text)
        names = ", ".join(self.classes) or 'none; add "classes", a list of names'
        hint = "; a number counts them from 0, text is a name" if text.isdecimal() and numbered else ""
        raise ManifestError(f"{where}: target {value!r} is not one of the manifest's classes ({names}){hint}.")


def source_kind(source: dict[str, Any]) -> str | None:
    """The kind of a source: its one key out of `SOURCES`, another's companion (an IDX file's csv) aside."""
    kinds = [key for key in SOURCES if key in source]
    leading = [kind for kind in kinds if not any(kind in SOURCES[other].keys for other in kinds)]
    return leading[0] if len(leading) == 1 else None


def expand(
    source: dict[str, Any], root: Path, classes: tuple[str, ...], *, where: str, advice: str = ""
) -> list[ImageCase]:
    """Every image of a source.

    Args:
        source: As it stands in the manifest.
        root: Folder of relative paths.
        classes: Names of the targets.
        where: Place in the manifest, for messages.
        advice: What to do where a file is not there, for messages.

    Raises:
        ManifestError: A file, list or header that is missing or does not fit.
    """
    kind = source_kind(source)
    if kind is None:
        raise ManifestError(f"{where}: expected one of the keys {', '.join(SOURCES)}, but got {source!r}.")
    place = _Place(root, classes, where, advice)
    return SOURCES[kind].expand(source, place.file(source[kind]), place)


def without_counterfactuals(
    source: dict[str, Any], root: Path, classes: tuple[str, ...], *, where: str
) -> dict[str, Any] | None:
    """A source that takes the same images but for those with `of`; None where it has no others.

    Args:
        source: As it stands in the manifest.
        root: Folder of relative paths.
        classes: Names of the targets.
        where: Place in the manifest, for messages.

    Raises:
        ManifestError: As for `expand`.
    """
    made = [case.of is not None for case in expand(source, root, classes, where=where)]
    if all(made):
        return None
    if not any(made):
        return source
    # images of the other kinds share one `of`, or have none
    kind, rows = ("csv", _csv_rows) if source_kind(source) == "csv" else ("npz", _npz_rows)
    taken = rows(source, root / source[kind], _Place(root, classes, where))
    left_out = [place for (place, _), drop in zip(taken, made, strict=True) if drop]
    return {**source, "without": sorted({*source.get("without", []), *left_out})}


def _single(source: dict[str, Any], path: Path, place: _Place) -> list[ImageCase]:
    known = place.facts({key: source.get(key) for key in (*_KNOWN, _BOXES)})
    return [ImageCase(name=str(source.get("name") or _name(source["image"])), file=path, **known)]


def _npz(source: dict[str, Any], path: Path, place: _Place) -> list[ImageCase]:
    key = source.get("images", "images")
    cases = []
    for index, known in _npz_rows(source, path, place):
        name = f"{_name(source['npz'])}#{key}[{index}]"
        cases.append(ImageCase(name=name, file=path, key=key, index=index, **place.facts(known, name)))
    return cases


def _npz_rows(source: dict[str, Any], path: Path, place: _Place) -> list[tuple[int, dict[str, Any]]]:
    """Places that the source takes, each with what the arrays say of it."""
    key, attributes = source.get("images", "images"), source.get("attributes") or {}
    if not isinstance(key, str):
        raise ManifestError(f"{place.where}: images is the name of an array, but got {key!r}.")
    same = {"quality": source["quality"]} if source.get("quality") in QUALITIES else {}  # of all images
    wanted = [name for name in (*COLUMNS, _BOXES) if name not in same]
    arrays = {name: source[name] for name in wanted if source.get(name) is not None}
    named = isinstance(attributes, dict) and all(
        isinstance(name, str) for name in (*arrays.values(), *attributes.values())
    )
    if not named:
        raise ManifestError(
            f"{place.where}: {', '.join((*COLUMNS, _BOXES))} are names of arrays here, and attributes names of arrays "
            "by name."
        )
    count = npz_length(path, key, place.where)
    columns = {name: npz_column(path, array, count, place.where) for name, array in arrays.items()}
    numbers = {name: npz_column(path, array, count, place.where) for name, array in attributes.items()}
    rows = []
    for index in chosen(source, count, place.where, patients=columns.get("patient")):
        known: dict[str, Any] = {**same, **{name: column[index] for name, column in columns.items()}}
        rows.append((index, known | {"attributes": {name: column[index] for name, column in numbers.items()}}))
    return rows


def _folder(source: dict[str, Any], path: Path, place: _Place) -> list[ImageCase]:
    files = sorted(file for file in _below(path) if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ManifestError(f"{place.where}: {path} holds no image ({', '.join(SUFFIXES)}).")
    cases = []
    for index in chosen(source, len(files), place.where):
        relative = files[index].relative_to(path)
        name = _name(source["folder"], relative)
        known = {key: source.get(key) for key in ("target", "domain", "quality")}
        if known["target"] == "subfolder":
            known["target"] = relative.parts[0] if len(relative.parts) > 1 else None
        cases.append(ImageCase(name=name, file=files[index], **place.facts(known, name)))
    return cases


def other_files(folder: Path) -> list[Path]:
    """Files of a folder and of those in it that a source of it does not take."""
    return sorted(file for file in _below(folder) if file.suffix.lower() not in SUFFIXES)


def _below(folder: Path) -> Iterator[Path]:
    """Files of a folder and of those in it, links to folders too; what begins with a dot is left out."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen:  # a link back to where it lies
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if not name.startswith("."))


def _csv(source: dict[str, Any], path: Path, place: _Place) -> list[ImageCase]:
    beside = source.get("relative_to", "root")
    if beside not in ("root", "csv"):
        raise ManifestError(f'{place.where}: relative_to is "root" or "csv", but got {beside!r}.')
    folder = Path(source["csv"]).parent if beside == "csv" else Path()
    wanted = place.columns(source.get("attributes") or [])
    cases = []
    for index, row in _csv_rows(source, path, place):
        known: dict[str, Any] = {key: row.get(key) for key in CSV_COLUMNS[1:]}
        known["attributes"] = {name: row[name] for name in wanted}
        image = row["image"].strip()
        if not image or "\0" in image:
            raise ManifestError(f"{place.where}: row {index + 1} of {path} names no image.")
        name, file = _name(folder, image), place.root / folder / image
        cases.append(ImageCase(name=name, file=file, **place.facts(known, f"row {index + 1} ({name})")))
    return cases


def _csv_rows(source: dict[str, Any], path: Path, place: _Place) -> list[tuple[int, dict[str, str]]]:
    """Places that the source takes, each with its row."""
    wanted = place.columns(source.get("attributes") or [])
    listed = csv_rows(path, wanted, place.where)
    rows = [_by_known_names(row, wanted) for row in listed]
    if "image" not in rows[0]:
        raise ManifestError(f"{place.where}: {path} has no column 'image'; it has {', '.join(rows[0])}.")
    kept = rows_with(source, listed, place.where)
    patients = [row.get("patient") for row in rows]
    return [(index, rows[index]) for index in chosen(source, len(rows), place.where, kept=kept, patients=patients)]


def _by_known_names(row: dict[str, str], attributes: Sequence[str]) -> dict[str, str]:
    """The row with the columns that are read called as they are: Patient is `patient` where there is no other one."""
    meant = {name: name.strip().lower() for name in row if name not in attributes}
    return row | {known: row[name] for name, known in meant.items() if known in CSV_COLUMNS and known not in row}


def _idx(source: dict[str, Any], path: Path, place: _Place) -> list[ImageCase]:
    count = len(idx_array(path))
    wanted = place.columns(source.get("attributes") or [])
    if wanted and not source.get("csv"):
        raise ManifestError(f"{place.where}: attributes are columns of a csv, but the source names none.")
    columns: dict[str, Sequence[Any]] = {}
    if source.get("csv"):
        rows = csv_rows(place.file(source["csv"]), wanted, place.where)
        columns = {name: [row[name] for row in rows] for name in wanted}
    targets = idx_array(place.file(source["target"])).tolist() if source.get("target") else None
    for name, values in {"target": targets, **columns}.items():
        if values is not None and len(values) != count:
            raise ManifestError(f"{place.where}: {len(values)} values of {name} for {count} images in {path}.")
    cases = []
    for index in chosen(source, count, place.where):
        known = {
            "target": None if targets is None else targets[index],
            "attributes": {name: values[index] for name, values in columns.items()},
        }
        name = f"{_name(source['idx'])}[{index}]"
        cases.append(ImageCase(name=name, file=path, index=index, **place.facts(known, name)))
    return cases


def _slices(source: dict[str, Any], path: Path, place: _Place) -> list[ImageCase]:
    from medcontrast.data.images.slices import slice_count

    axis, every = source.get("axis", 2), source.get("every", 1)
    if isinstance(axis, bool) or axis not in (0, 1, 2) or not isinstance(every, int) or every < 1:
        raise ManifestError(f"{place.where}: axis is 0, 1 or 2 and every 1 or more, but got {axis!r} and {every!r}.")
    label = place.file(source["label"]) if source.get("label") else None
    volume = _name(source["slices"])
    known = {key: source.get(key) for key in _KNOWN}
    facts = place.facts({**known, "patient": known["patient"] or volume})  # slices of a scan must not be torn apart
    return [
        ImageCase(name=f"{volume}[{axis}:{index}]", file=path, index=index, axis=axis, label=label, **facts)
        for index in range(0, slice_count(path, axis), every)
    ]


def _name(*parts: str | Path) -> str:
    """One name for a file however its path is spelled."""
    return Path(*parts).as_posix()


SOURCES: dict[str, Source] = {
    "image": Source(("name", *_KNOWN, _BOXES), _single),
    "npz": Source(("images", *CHOICE, FOLDS_BY, *_KNOWN, _BOXES), _npz),
    "folder": Source(("target", "domain", "quality", *CHOICE), _folder),
    "csv": Source(("attributes", "relative_to", "only", *CHOICE, FOLDS_BY), _csv),
    "idx": Source(("target", "csv", "attributes", *CHOICE), _idx),
    "slices": Source(("label", "axis", "every", *_KNOWN), _slices),
}
"""Every kind of source, by the key that names its file."""


def too_few_images(count: int, rows: int) -> str:
    """What is wrong with fewer images than a step has rows."""
    return (
        f"{count} training images are fewer than train.rows {rows}; an image would stand in a step twice. Lower "
        "train.rows"
    )
