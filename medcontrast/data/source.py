"""Data sets as they lie on disk: a Decathlon dataset.json or a folder, read into a list of named files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcontrast.data.folders import listed
from medcontrast.data.found import Found, SourceCase
from medcontrast.data.pairing import find_cases, seen_in_training, unlisted_scans
from medcontrast.errors import ManifestError
from medcontrast.files import read_object
from medcontrast.labels import LabelTable
from medcontrast.say import quoted
from medcontrast.volume_names import output_stem

TABLE_KEYS = ("description", "source", "licence", "channels", "labels", "ignore_label", "regions")


@dataclass(frozen=True)
class Source:
    """A data set before it is split.

    Attributes:
        folder: Where it lies.
        labeled: Cases with a label file.
        unlabeled: Cases without.
        table: What the source says of itself, in the manifest's keys (labels, channels, licence, ...).
        notes: Words on what was found and not taken.
        warnings: Words on what was taken and may not be meant to.
        channels: Names of the channels in each case's files, where the files tell them.
    """

    folder: Path
    labeled: tuple[SourceCase, ...]
    unlabeled: tuple[SourceCase, ...]
    table: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    @property
    def cases(self) -> tuple[SourceCase, ...]:
        """All of them."""
        return (*self.labeled, *self.unlabeled)


def read_source(path: Path) -> Source:
    """Finds the cases of a Decathlon dataset.json or of a folder; opens no image and no label.

    A folder holds imagesTr/ and labelsTr/ (imagesTs/ has further scans without labels, and is kept out where labelsTs/
    has theirs), or images/ and labels/ (unlabeled/ has further ones), whose files of several channels end in _0000,
    _0001, ...; or one folder a case with `image` and `label` in it, or with CASE_flair, CASE_t1, ... and CASE_seg. An
    image may be a DICOM folder, or one alone in a folder.

    Raises:
        ManifestError: There is nothing of the kind, or a label has no scan.
    """
    if path.is_file():
        return _from_dataset_json(path)
    if not path.is_dir():
        raise ManifestError(f"{path}: there is no such folder or dataset.json.")
    described = path / "dataset.json"
    table = _table(read_object(described, "dataset.json"), described) if described.is_file() else {}
    found = find_cases(path)
    if found.channels:
        found.notes.append(f"channels, by the names of the files: {', '.join(found.channels)}")
        table.setdefault("channels", {str(number): name for number, name in enumerate(found.channels)})
    return _source(path, table, found)


def read_table(path: Path) -> dict[str, Any]:
    """The label table and texts of a manifest, of a dataset.json, or of any JSON object with those keys.

    Raises:
        ManifestError: The file cannot be read, or holds no labels or unusable ones.
    """
    table = _table(read_object(path, "label table"), path)
    if "labels" not in table:
        raise ManifestError(f'{path}: holds no "labels".')
    LabelTable.from_json(table, where=str(path))  # what is wrong is said of this file, not of the manifest to be made
    return table


def names_by_value(raw: Any, *, where: object) -> Any:
    """A JSON object whose labels stand as value: name, as in a manifest, also where it is a dataset.json of nnU-Net.

    nnU-Net writes name: value, and calls what is not learned from "ignore". Anything else comes back as it is.

    Args:
        raw: What a file holds.
        where: The file, for messages.

    Raises:
        ManifestError: Two names have one value, or one has several.
    """
    labels = raw.get("labels") if isinstance(raw, dict) else None
    if not isinstance(labels, dict) or not labels:
        return raw
    joined = next((name for name, values in labels.items() if isinstance(values, list)), None)
    if joined is not None:
        raise ManifestError(
            f"{where}: label {joined} is a region of several values, as nnU-Net writes them; give a table of single "
            f'values by --labels-from, with "regions": {{"{joined}": {labels[joined]}}} in it.'
        )
    if not all(type(value) is int for value in labels.values()):
        return raw
    twice = [value for value, count in Counter(labels.values()).items() if count > 1]
    if twice:
        names = ", ".join(name for name, value in labels.items() if value == twice[0])
        raise ManifestError(f"{where}: label value {twice[0]} has several names: {names}; keep one.")
    turned = {**raw, "labels": {str(value): name for name, value in labels.items() if name != "ignore"}}
    return {**turned, "ignore_label": labels["ignore"]} if "ignore" in labels else turned


def require_channels(source: Source, texts: Mapping[str, Any]) -> None:
    """Checks, once for all cases, that each has a file for every channel.

    Args:
        source: The cases.
        texts: What says their channels, in the manifest's keys.

    Raises:
        ManifestError: Cases have different numbers of files, or others than there are channels, or other names.
    """
    channels = texts.get("channels") or {"0": "image"}
    if not source.cases or not isinstance(channels, dict):
        return
    usual = Counter(len(case.images) for case in source.cases).most_common(1)[0][0]
    odd = [case for case in source.cases if len(case.images) != usual]
    if odd:
        shown = listed([image for case in odd for image in case.images], source.folder)
        raise ManifestError(
            f"{source.folder}: {len(odd)} of {len(source.cases)} cases have not {usual} image file(s), one a channel, "
            f"as the others have: {shown}; add what is missing, or take them away."
        )
    if usual == len(channels):
        if usual > 1 and source.channels and [str(name).lower() for name in channels.values()] != [*source.channels]:
            raise ManifestError(
                f"{source.folder}: the files are of the channels {', '.join(source.channels)}, in this order, but they "
                f"are to be called {', '.join(map(str, channels.values()))}; leave the channels out, or name them so."
            )
        return
    if usual == 1:
        raise ManifestError(
            f"{source.folder}: {len(channels)} channels are named, but each case has one file; a manifest lists one "
            "file a channel, so split the 4D images into NAME_0000.nii.gz, NAME_0001.nii.gz, ... first."
        )
    example = ", ".join(f'"{channel}": "NAME"' for channel in range(usual))
    said = f"{len(channels)} channel(s) are named" if texts.get("channels") else "nothing names these channels"
    raise ManifestError(
        f"{source.folder}: each case has {usual} image files ({listed(source.cases[0].images, source.folder)}), but "
        f'{said}; write "channel_names": {{{example}}} into {source.folder / "dataset.json"} or the file of '
        "--labels-from."
    )


def _from_dataset_json(path: Path) -> Source:
    raw = read_object(path, "dataset.json")
    if not isinstance(raw.get("training"), list):
        raise ManifestError(
            f'{path}: a Decathlon dataset.json has a list "training", but this file has none; of an nnU-Net data set '
            f"give the folder: medcontrast data split {quoted(path.parent)}."
        )
    folder, cases = path.parent, []
    for entry in [*raw["training"], *(raw.get("test") or [])]:
        entry = {"image": entry} if isinstance(entry, str) else entry
        known = isinstance(entry, dict) and isinstance(entry.get("image"), str)
        if not known or not isinstance(entry.get("label"), str | None):
            raise ManifestError(f'{path}: expected {{"image", "label"}} or a path, but got {entry!r}.')
        image = folder / entry["image"]
        label = folder / entry["label"] if entry.get("label") else None
        cases.append(SourceCase(output_stem(image), (image,), label))
    blind = len([case for case in cases[len(raw["training"]) :] if case.label is None])
    warnings = [seen_in_training(blind, f'the list "test" of {path.name}')] if blind else []
    found = Found(cases, notes=_unlisted(path, cases), warnings=warnings)
    return _source(folder, _table(raw, path), found)


def _unlisted(path: Path, cases: list[SourceCase]) -> list[str]:
    scans = unlisted_scans(path.parent, cases)
    if not scans:
        return []
    return [
        f"{len(scans)} scan(s) of imagesTr/ are not in the lists of {path.name} and not taken: "
        f"{listed(scans, path.parent)}; give the folder in place of the JSON to take them too, as unlabeled where they "
        f"have no label: medcontrast data split {quoted(path.parent)}"
    ]


def _table(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """The manifest's keys out of a manifest, or of a Decathlon or nnU-Net dataset.json."""
    raw = names_by_value(raw, where=path)
    table = {
        **{key: raw.get(key) for key in TABLE_KEYS},
        "source": raw.get("source") or raw.get("reference"),
        "licence": raw.get("licence") or raw.get("license"),
        "channels": raw.get("channels") or raw.get("modality") or raw.get("channel_names"),
    }
    return {key: value for key, value in table.items() if value is not None and value not in ("", {}, [])}


def _source(folder: Path, table: dict[str, Any], found: Found) -> Source:
    seen: dict[str, SourceCase] = {}
    for case in found.cases:
        if case.name in seen:
            raise ManifestError(
                f"{folder}: two scans are called {case.name}: {seen[case.name].images[0]} and {case.images[0]}."
            )
        seen[case.name] = case
    labeled = tuple(case for case in found.cases if case.label is not None)
    unlabeled = tuple(case for case in found.cases if case.label is None)
    return Source(folder, labeled, unlabeled, table, tuple(found.notes), tuple(found.warnings), found.channels)
