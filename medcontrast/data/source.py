"""Data sets as they lie on disk: a Decathlon dataset.json or a folder, read into a list of named files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcontrast.errors import ManifestError
from medcontrast.files import read_object
from medcontrast.volume_names import output_stem, volume_suffix

_CHANNEL = re.compile(r"_\d{4}$")
_LAYOUTS = (("imagesTr", "labelsTr"), ("images", "labels"))
TABLE_KEYS = ("description", "source", "licence", "channels", "labels", "ignore_label", "regions")


@dataclass(frozen=True)
class SourceCase:
    """Files of one case.

    Attributes:
        name: Case name.
        images: One file a channel.
        label: The label file, or None.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None


@dataclass(frozen=True)
class Source:
    """A data set before it is split.

    Attributes:
        folder: Where it lies.
        labeled: Cases with a label file.
        unlabeled: Cases without.
        table: What the source says of itself, in the manifest's keys (labels, channels, licence, ...).
    """

    folder: Path
    labeled: tuple[SourceCase, ...]
    unlabeled: tuple[SourceCase, ...]
    table: dict[str, Any] = field(default_factory=dict)


def read_source(path: Path) -> Source:
    """Finds the cases of a Decathlon dataset.json or of a folder; opens no image and no label.

    A folder holds imagesTr/ and labelsTr/ (imagesTs/ has further scans without labels), or images/ and labels/,
    or one folder a case with `image` and `label` in it. Files of several channels end in _0000, _0001, ...

    Raises:
        ManifestError: There is nothing of the kind.
    """
    if path.is_file():
        return _from_dataset_json(path)
    if not path.is_dir():
        raise ManifestError(f"{path}: there is no such folder or dataset.json.")
    described = path / "dataset.json"
    table = _table(read_object(described, "dataset.json"), described) if described.is_file() else {}
    for images, labels in _LAYOUTS:
        if (path / images).is_dir():
            cases = _pair(_volumes(path / images), _volumes(path / labels))
            cases += _pair(_volumes(path / "imagesTs"), []) if images == "imagesTr" else []
            return _source(path, cases, table)
    cases = [case for folder in sorted(path.iterdir()) if folder.is_dir() for case in _case_folder(folder)]
    if not cases:
        raise ManifestError(
            f"{path}: no scans found. Expected imagesTr/ and labelsTr/, or images/ and labels/, "
            "or one folder a case with image.nii.gz and label.nii.gz in it."
        )
    return _source(path, cases, table)


def read_table(path: Path) -> dict[str, Any]:
    """The label table and texts of a manifest, or of any JSON object with those keys.

    Raises:
        ManifestError: The file cannot be read or holds no labels.
    """
    raw = read_object(path, "label table")
    table = {key: raw[key] for key in TABLE_KEYS if key in raw}
    if "labels" not in table:
        raise ManifestError(f'{path}: holds no "labels".')
    return table


def _from_dataset_json(path: Path) -> Source:
    raw = read_object(path, "dataset.json")
    if not isinstance(raw.get("training"), list):
        raise ManifestError(f'{path}: a Decathlon dataset.json has a list "training", but this file has none.')
    folder, cases = path.parent, []
    for entry in [*raw["training"], *(raw.get("test") or [])]:
        entry = {"image": entry} if isinstance(entry, str) else entry
        known = isinstance(entry, dict) and isinstance(entry.get("image"), str)
        if not known or not isinstance(entry.get("label"), str | None):
            raise ManifestError(f'{path}: expected {{"image", "label"}} or a path, but got {entry!r}.')
        image = folder / entry["image"]
        label = folder / entry["label"] if entry.get("label") else None
        cases.append(SourceCase(output_stem(image), (image,), label))
    return _source(folder, cases, _table(raw, path))


def _table(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """The manifest's keys out of a Decathlon or nnU-Net dataset.json."""
    labels = raw.get("labels")
    if isinstance(labels, dict) and all(isinstance(value, int) for value in labels.values()):
        labels = {str(value): name for name, value in labels.items()}  # nnU-Net writes name: value
    table = {
        "description": raw.get("description"),
        "source": raw.get("reference"),
        "licence": raw.get("licence") or raw.get("license"),
        "channels": raw.get("modality") or raw.get("channel_names"),
        "labels": labels,
    }
    return {key: value for key, value in table.items() if value}


def _source(folder: Path, cases: list[SourceCase], table: dict[str, Any]) -> Source:
    seen: dict[str, SourceCase] = {}
    for case in cases:
        if case.name in seen:
            raise ManifestError(
                f"{folder}: two scans are called {case.name}: {seen[case.name].images[0]} and {case.images[0]}."
            )
        seen[case.name] = case
    channels = len(table.get("channels") or {"0": "image"})
    if cases and len(cases[0].images) == 1 and channels > 1:
        raise ManifestError(
            f"{folder}: dataset.json names {channels} channels, but each case has one file. A manifest lists one "
            "file a channel; split the 4D images into NAME_0000.nii.gz, NAME_0001.nii.gz, ... first."
        )
    labeled = tuple(case for case in cases if case.label is not None)
    return Source(folder, labeled, tuple(case for case in cases if case.label is None), table)


def _volumes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in files if volume_suffix(path) is not None)


def _pair(images: list[Path], labels: list[Path]) -> list[SourceCase]:
    by_name = {output_stem(path): path for path in labels}
    names = [output_stem(path) for path in images]
    if images and all(_CHANNEL.search(name) for name in names):
        channels: dict[str, list[Path]] = {}
        for name, path in zip(names, images, strict=True):
            channels.setdefault(name[:-5], []).append(path)
        return [SourceCase(name, tuple(paths), by_name.get(name)) for name, paths in channels.items()]
    return [SourceCase(name, (path,), by_name.get(name)) for name, path in zip(names, images, strict=True)]


def _case_folder(folder: Path) -> list[SourceCase]:
    files = {output_stem(path): path for path in _volumes(folder)}
    if "image" not in files:
        return []
    return [SourceCase(folder.name, (files["image"],), files.get("label"))]
