"""From one source of a manifest to its images: a file, an array of many, a folder, a list, or slices of volumes.

Lists and headers are opened here, pixels are not; medcontrast.data.images reads those.
"""

from __future__ import annotations

import csv
import gzip
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medcontrast.errors import ManifestError

if TYPE_CHECKING:  # `medcontrast check` answers without what this imports
    from numpy.typing import NDArray

QUALITIES = ("high", "low")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm")
_KNOWN = ("target", "domain", "quality", "patient", "text", "of", "attributes")
"""What may be known of an image, whatever it comes from."""


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


class Source(NamedTuple):
    """One kind of source: the other keys it takes, and how it becomes images."""

    keys: tuple[str, ...]
    expand: Callable[[dict[str, Any], Path, _Facts], list[ImageCase]]


@dataclass(frozen=True)
class _Facts:
    """Turns what is known of an image into a case's fields; knows the classes and the place in the manifest."""

    classes: tuple[str, ...]
    where: str

    def fields(self, known: dict[str, Any]) -> dict[str, Any]:
        found = {key: value for key, value in known.items() if value is not None and value != ""}
        if "target" in found:
            found["target"] = self.target(found["target"])
        if found.get("quality", "high") not in QUALITIES:
            raise ManifestError(f'{self.where}: quality is "high" or "low", but got {found["quality"]!r}.')
        for key in ("domain", "patient", "text", "of"):
            if key in found:
                found[key] = str(found[key])
        attributes = found.get("attributes", {})
        try:
            found["attributes"] = {str(name): float(value) for name, value in attributes.items()}
        except (AttributeError, TypeError, ValueError):
            raise ManifestError(f"{self.where}: attributes are numbers by name, but got {attributes!r}.") from None
        return found

    def target(self, value: Any) -> int:
        """A class index, from itself or from the name of a class."""
        text = str(value)
        if text in self.classes:
            return self.classes.index(text)
        if text.isdigit() and int(text) < len(self.classes):
            return int(text)
        names = ", ".join(self.classes) or 'none; add "classes", a list of names'
        raise ManifestError(f"{self.where}: target {value!r} is not one of the manifest's classes ({names}).")


def expand(source: dict[str, Any], root: Path, classes: tuple[str, ...], *, where: str) -> list[ImageCase]:
    """Every image of a source.

    Args:
        source: As it stands in the manifest; its kind is the one key out of `SOURCES`.
        root: Folder of relative paths.
        classes: Names of the targets.
        where: Place in the manifest, for messages.

    Raises:
        ManifestError: A list or header that is missing or does not fit.
    """
    kind = next(key for key in SOURCES if key in source)
    path = root / source[kind]
    if not path.exists():
        raise ManifestError(f"{where}: {path} is not there; set MEDCONTRAST_DATA or data.root to where the data is.")
    return SOURCES[kind].expand(source, path, _Facts(classes, where))


def npz_array(path: Path, key: str, where: str) -> NDArray[Any]:
    """One array of an .npz file.

    Raises:
        ManifestError: No such file or array.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            if key not in arrays:
                raise ManifestError(f"{where}: {path} has no array {key!r}; it has {', '.join(arrays.files)}.")
            found: NDArray[Any] = arrays[key]
            return found
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ManifestError(f"{where}: {path} cannot be read as .npz ({error}).") from None


def idx_array(path: Path) -> NDArray[Any]:
    """An array of bytes in the IDX form of MNIST, gzipped or not.

    Raises:
        ManifestError: Not such a file.
    """
    import numpy as np

    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, axes = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
        if zero != 0 or kind != 8:
            raise ValueError("not bytes in the IDX form")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise ManifestError(f"{path}: cannot be read as an IDX file ({error}).") from None


def _single(source: dict[str, Any], path: Path, facts: _Facts) -> list[ImageCase]:
    known = facts.fields({key: source.get(key) for key in _KNOWN})
    return [ImageCase(name=str(source.get("name") or source["image"]), file=path, **known)]


def _npz(source: dict[str, Any], path: Path, facts: _Facts) -> list[ImageCase]:
    key = source.get("images", "images")
    count = _npz_length(path, key, facts.where)
    columns: dict[str, NDArray[Any]] = {}
    same = {"quality": source["quality"]} if source.get("quality") in QUALITIES else {}  # of all images
    arrays = {name: source[name] for name in _KNOWN[:-1] if isinstance(source.get(name), str) and name not in same}
    arrays |= {f"attributes.{name}": array for name, array in (source.get("attributes") or {}).items()}
    for name, array in arrays.items():
        columns[name] = npz_array(path, array, facts.where).reshape(count, -1)[:, 0]
    cases = []
    for index in _chosen(source, count, facts.where):
        known = {**same, **{name: column[index].item() for name, column in columns.items() if "." not in name}}
        known["attributes"] = {
            name.partition(".")[2]: column[index].item() for name, column in columns.items() if "." in name
        }
        name = f"{path.name}#{key}[{index}]"
        cases.append(ImageCase(name=name, file=path, key=key, index=index, **facts.fields(known)))
    return cases


def _npz_length(path: Path, key: str, where: str) -> int:
    """First side of an array, from its header alone."""
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return int(read(stream)[0][0])
    except (KeyError, IndexError):
        return len(npz_array(path, key, where))  # says which arrays there are
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ManifestError(f"{where}: {path} cannot be read as .npz ({error}).") from None


def _folder(source: dict[str, Any], path: Path, facts: _Facts) -> list[ImageCase]:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ManifestError(f"{facts.where}: {path} holds no image ({', '.join(SUFFIXES)}).")
    cases = []
    for index in _chosen(source, len(files), facts.where):
        relative = files[index].relative_to(path)
        by_folder = relative.parts[0] if source.get("target") == "subfolder" and len(relative.parts) > 1 else None
        known = {"target": by_folder, **{key: source.get(key) for key in ("domain", "quality")}}
        name = f"{source['folder']}/{relative.as_posix()}"
        cases.append(ImageCase(name=name, file=files[index], **facts.fields(known)))
    return cases


def _csv(source: dict[str, Any], path: Path, facts: _Facts) -> list[ImageCase]:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    columns = list(rows[0]) if rows else []
    wanted = source.get("attributes") or []
    missing = [name for name in ("image", *wanted) if name not in columns]
    if missing:
        raise ManifestError(f"{facts.where}: {path} has no column {missing[0]!r}; it has {', '.join(columns)}.")
    base = path.parent if source.get("relative_to") == "csv" else Path(str(path)[: -len(source["csv"])])
    cases = []
    for index in _chosen(source, len(rows), facts.where):
        row = rows[index]
        known: dict[str, Any] = {key: row.get(key) for key in _KNOWN[:-1]}
        known["attributes"] = {name: row[name] for name in wanted}
        cases.append(ImageCase(name=row["image"], file=base / row["image"], **facts.fields(known)))
    return cases


def _idx(source: dict[str, Any], path: Path, facts: _Facts) -> list[ImageCase]:
    count = len(idx_array(path))
    beside = Path(str(path)[: -len(source["idx"])])
    targets = idx_array(beside / source["target"]) if source.get("target") else None
    columns: dict[str, list[str]] = {}
    if source.get("csv"):
        with (beside / source["csv"]).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        columns = {name: [row[name] for row in rows] for name in source.get("attributes") or []}
    for name, values in {"target": targets, **columns}.items():
        if values is not None and len(values) != count:
            raise ManifestError(f"{facts.where}: {len(values)} values of {name} for {count} images in {path}.")
    return [
        ImageCase(
            name=f"{path.name}[{index}]",
            file=path,
            index=index,
            **facts.fields(
                {
                    "target": None if targets is None else int(targets[index]),
                    "attributes": {name: values[index] for name, values in columns.items()},
                }
            ),
        )
        for index in _chosen(source, count, facts.where)
    ]


def _slices(source: dict[str, Any], path: Path, facts: _Facts) -> list[ImageCase]:
    from medcontrast.data.slices import slice_count

    axis, every = source.get("axis", 2), source.get("every", 1)
    if axis not in (0, 1, 2) or not isinstance(every, int) or every < 1:
        raise ManifestError(f"{facts.where}: axis is 0, 1 or 2 and every 1 or more, but got {axis!r} and {every!r}.")
    label = Path(str(path)[: -len(source["slices"])]) / source["label"] if source.get("label") else None
    known = facts.fields({"patient": source["slices"], **{key: source.get(key) for key in _KNOWN}})
    return [
        ImageCase(name=f"{source['slices']}[{axis}:{index}]", file=path, index=index, axis=axis, label=label, **known)
        for index in range(0, slice_count(path, axis), every)
    ]


def _chosen(source: dict[str, Any], count: int, where: str) -> Sequence[int]:
    """Places that the source takes: those of `rows`, and of them those whose place in it falls into the taken folds."""
    rows = source.get("rows", [0, count])
    if not (isinstance(rows, list) and len(rows) == 2 and all(isinstance(row, int) for row in rows)):
        raise ManifestError(f"{where}: rows is [first, end], the end not included, but got {rows!r}.")
    if not 0 <= rows[0] < rows[1] <= count:
        raise ManifestError(f"{where}: rows {rows} do not lie in the {count} images that are there.")
    folds, take = source.get("folds", 1), source.get("take", [0])
    if not (isinstance(folds, int) and folds >= 1 and isinstance(take, list) and set(take) <= set(range(folds))):
        raise ManifestError(f"{where}: take is a list of numbers below folds, but got {take!r} of {folds!r}.")
    return [row for row in range(*rows) if (row - rows[0]) % folds in take]


_CHOICE = ("rows", "folds", "take")
"""Which images of a source with many: first and end; every how many-th, and which of those."""

SOURCES: dict[str, Source] = {
    "image": Source(("name", *_KNOWN), _single),
    "npz": Source(("images", *_CHOICE, *_KNOWN), _npz),
    "folder": Source(("target", "domain", "quality", *_CHOICE), _folder),
    "csv": Source(("attributes", "relative_to", *_CHOICE), _csv),
    "idx": Source(("target", "csv", "attributes", *_CHOICE), _idx),
    "slices": Source(("label", "axis", "every", *_KNOWN), _slices),
}
"""Every kind of source, by the key that names its file."""
