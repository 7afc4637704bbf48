"""The manifest: named lists of cases and the label table, as JSON in the MONAI/Decathlon datalist style."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcontrast.errors import ManifestError
from medcontrast.files import read_object
from medcontrast.labels import LabelTable
from medcontrast.say import quoted
from medcontrast.volume_names import output_stem

SPLITS = ("labeled", "unlabeled", "validation", "test")
KIND = "images"
"""What a manifest of images says it is; one of volumes says nothing."""
_KEYS = {"name", "description", "source", "licence", "root", "channels", "labels", "ignore_label", "regions", *SPLITS}
ROOT_VARIABLE = "MEDCONTRAST_DATA"


@dataclass(frozen=True)
class Case:
    """One scan, its channels, and its label file where there is one.

    Attributes:
        name: Unique in the manifest.
        images: One file (or DICOM folder) a channel.
        label: The label file, or None.
        patient: Cases of one patient must not stand in different splits; None where unknown.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    patient: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Which cases there are and what each is for; paths are complete.

    Attributes:
        path: The JSON file it came from.
        name: Short name of the data set and its split.
        root: Folder that relative paths in the file started from.
        channels: Names of the image channels.
        labels: The label table.
        labeled: Cases that training learns from with their labels.
        unlabeled: Cases whose labels training never opens.
        validation: Cases for watching and choosing; labels needed.
        test: Cases for the final score; labels needed.
    """

    path: Path
    name: str
    root: Path
    channels: tuple[str, ...]
    labels: LabelTable
    labeled: tuple[Case, ...] = ()
    unlabeled: tuple[Case, ...] = ()
    validation: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    description: str = ""
    source: str = ""
    licence: str = ""
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def split(self, name: str, instead: str = "choose one of these") -> tuple[Case, ...]:
        """The cases of one of `labeled`, `unlabeled`, `validation`, `test`.

        Args:
            name: Of the split.
            instead: What to do where it is empty.

        Raises:
            ManifestError: No such split, or nothing in it.
        """
        if name not in SPLITS:
            raise ManifestError(f"{self.path}: there is no split {name!r}; choose one of {', '.join(SPLITS)}.")
        cases: tuple[Case, ...] = getattr(self, name)
        if not cases:
            filled = [split for split in SPLITS if getattr(self, split)]
            raise ManifestError(f"{self.path}: the split {name!r} is empty; it has {', '.join(filled)}; {instead}.")
        return cases

    def patients_of(self, names: Iterable[str]) -> dict[str, str]:
        """Of those of these cases whose patient is known, the patient."""
        known = {case.name: case.patient for _, cases in self.splits() for case in cases if case.patient is not None}
        return {name: known[name] for name in names if name in known}

    def splits(self) -> Iterator[tuple[str, tuple[Case, ...]]]:
        """Every split that is not empty, with its name."""
        for name in SPLITS:
            if getattr(self, name):
                yield name, getattr(self, name)


def load_manifest(path: Path, root: Path | None = None) -> Manifest:
    """Reads and checks a manifest; opens none of the files it names.

    Args:
        path: The JSON file.
        root: Folder for relative paths; default: the manifest's own `root` (relative to the file itself),
            else the environment variable MEDCONTRAST_DATA, else ./data.

    Raises:
        ManifestError: With every fault found, one a line.
    """
    if path.is_dir():
        raise ManifestError(
            f"{path}: is a folder, not a manifest; `medcontrast data split {quoted(path)} --labeled 8 --label 1=NAME "
            "-o my.json` makes a manifest of it."
        )
    return manifest_from_json(read_object(path), path, root)


def manifest_from_json(raw: dict[str, Any], path: Path, root: Path | None = None) -> Manifest:
    """Checks what `load_manifest` reads.

    Args:
        raw: The JSON object.
        path: The file that it stands in, or will.
        root: As for `load_manifest`.

    Raises:
        ManifestError: With every fault found, one a line.
    """
    if "training" in raw and not any(split in raw for split in SPLITS):
        raise ManifestError(
            f"{path}: this is a Decathlon dataset.json, which does not say what is labeled. "
            f"Split it first: medcontrast data split {quoted(path)} --labeled 8 --validation 40 -o manifest.json"
        )
    if raw.get("kind") == KIND:
        raise ManifestError(
            f"{path}: a segmentation takes a manifest of volumes, with the splits {', '.join(SPLITS)}; this is one of "
            f"the kind {KIND!r}, for pre-training and `medcontrast probe`."
        )
    if "kind" in raw:
        raise ManifestError(
            f'{path}: there is no kind {raw["kind"]!r} of manifest; one of images has "kind": "{KIND}", one of '
            "volumes none."
        )
    unknown = sorted(set(raw) - _KEYS)
    if unknown:
        raise ManifestError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(sorted(_KEYS))}.")
    labels = LabelTable.from_json(raw, where=str(path))
    channels = _channels(raw, path)
    folder = root_folder(raw, path, root)
    faults: list[str] = []
    splits = {name: _cases(raw.get(name, []), name, folder, len(channels), faults) for name in SPLITS}
    if not any(splits.values()):
        faults.append(f"no cases: at least one of {', '.join(SPLITS)} is needed")
    faults += _overlaps(splits)
    if faults:
        raise ManifestError("\n".join([f"{path}: {len(faults)} fault(s):", *(f"  - {fault}" for fault in faults)]))
    return Manifest(
        path,
        str(raw.get("name") or path.stem),
        folder,
        channels,
        labels,
        labeled=splits["labeled"],
        unlabeled=splits["unlabeled"],
        validation=splits["validation"],
        test=splits["test"],
        description=str(raw.get("description") or ""),
        source=str(raw.get("source") or ""),
        licence=str(raw.get("licence") or ""),
        raw=raw,
    )


def root_folder(raw: dict[str, Any], path: Path, root: Path | None) -> Path:
    """Folder that a manifest's relative paths start from; see `load_manifest`."""
    if root is not None:
        return root
    if raw.get("root"):
        return (path.parent / str(raw["root"])).resolve()
    return Path(os.environ.get(ROOT_VARIABLE) or "data")


def root_advice(raw: dict[str, Any], data_root: str | None = None) -> str:
    """What to do where files are not there: correct what `root_folder` went by, for nothing else would change it.

    Args:
        raw: The manifest as it stands in its file.
        data_root: The recipe's data.root, which wins.
    """
    where = "the folder that its paths start from"
    if data_root:
        return f"correct the recipe's data.root {data_root} to {where}"
    if raw.get("root"):
        return f"correct the manifest's root {raw['root']} to {where}"
    return f"set {ROOT_VARIABLE} to {where}"


def _channels(raw: dict[str, Any], path: Path) -> tuple[str, ...]:
    channels = raw.get("channels", {"0": "image"})
    if not isinstance(channels, dict) or sorted(channels) != sorted(str(index) for index in range(len(channels))):
        raise ManifestError(
            f'{path}: expected "channels" as {{"0": "name", "1": ...}} from 0 up, but got {channels!r}.'
        )
    return tuple(str(channels[str(index)]) for index in range(len(channels)))


def _cases(entries: Any, split: str, root: Path, channels: int, faults: list[str]) -> tuple[Case, ...]:
    if not isinstance(entries, list):
        faults.append(f"{split}: expected a list of cases, but got {type(entries).__name__}")
        return ()
    cases = []
    for number, entry in enumerate(entries):
        place = f"{split}[{number}]"
        if not isinstance(entry, dict) or not entry.get("image"):
            faults.append(f'{place}: expected {{"case", "image", "label"}}, but got {entry!r}')
            continue
        unknown = sorted(set(entry) - {"case", "image", "label", "patient"})
        if unknown:
            faults.append(f"{place}: unknown key {unknown[0]!r}; known: case, image, label, patient")
        images = [entry["image"]] if isinstance(entry["image"], str) else entry["image"]
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            faults.append(f"{place}: image is a path or a list of paths, one a channel, but got {entry['image']!r}")
            continue
        name = str(entry.get("case") or output_stem(Path(images[0])))
        if len(images) != channels:
            faults.append(f"{place} {name}: {len(images)} image file(s), but the manifest has {channels} channel(s)")
        label = entry.get("label")
        if not isinstance(label, str | None):
            faults.append(f"{place} {name}: label is a path, but got {label!r}")
            continue
        if split != "unlabeled" and not label:
            faults.append(f"{place} {name}: the split {split} needs a label file")
        patient = str(entry["patient"]) if entry.get("patient") is not None else None
        paths = tuple(root / image for image in images)
        if label and _file_identity(root / label) in map(_file_identity, paths):
            faults.append(f"{place} {name}: its label file {label} is its image file too")
        cases.append(Case(name, paths, root / label if label else None, patient))
    return tuple(cases)


def _overlaps(splits: dict[str, tuple[Case, ...]]) -> list[str]:
    faults = []
    for kind in ("case", "patient", "image file", "label file"):
        seen: dict[Hashable, str] = {}
        for split, cases in splits.items():
            for key, shown in [found for case in cases for found in _identities(case, kind)]:
                first = seen.setdefault(key, split)
                # a patient's scans may be partly labeled: both splits are training
                if first != split and not (kind == "patient" and {first, split} == {"labeled", "unlabeled"}):
                    faults.append(f"{kind} {shown} stands in {first} and in {split}; splits must not overlap")
        if kind == "case":
            for split, cases in splits.items():
                names = [case.name for case in cases]
                twice = sorted({name for name in names if names.count(name) > 1})
                faults += [f"case {name} stands in {split} more than once" for name in twice]
    return faults


def _identities(case: Case, kind: str) -> list[tuple[Hashable, str]]:
    """What must not stand in two splits, and how messages call it."""
    if kind == "case":
        return [(case.name, case.name)]
    if kind == "patient":
        return [] if case.patient is None else [(case.patient, case.patient)]
    files = case.images if kind == "image file" else [case.label] if case.label is not None else []
    return [(_file_identity(file), str(file)) for file in files]


def _file_identity(path: Path) -> Hashable:
    """The same for one file by another spelling of its path, or by a link to it."""
    try:
        found = path.stat()
    except OSError:
        return str(path.resolve())  # not there: whoever reads it says so
    return found.st_dev, found.st_ino
