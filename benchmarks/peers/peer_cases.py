"""The cases of a manifest as a folder that a peer reads: links to files, lists as CSV, and what is asked as JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medcontrast.data.manifest import Case, Manifest
from medcontrast.errors import InputError
from medcontrast.volume_names import NIFTI_SUFFIXES, volume_suffix


def write_cases(manifest: Manifest, split: str, folder: Path, job: dict[str, Any]) -> None:
    """Writes job.json, the lists and the links; the folder must not hold a job yet.

    A label file is linked only for labeled cases, and in `reference/` for the scored ones, which no list names.

    Args:
        manifest: Its labeled and unlabeled cases are trained on.
        split: The cases to predict: validation or test.
        folder: Created; holds `images/`, `labels/`, `reference/`, and the lists labeled.csv, unlabeled.csv,
            watched.csv (one labeled case, for peers that cannot do without a validation) and test.csv.
        job: What is asked of the peer; channels, classes and label names are added.

    Raises:
        InputError: Label values are not 0, 1, 2, ..., voxels are to be ignored, or a file is no NIfTI file.
    """
    _require_dense(manifest)
    scored = manifest.split(split)
    for name in ("images", "labels", "reference"):
        (folder / name).mkdir(parents=True)
    rows = {
        "labeled": [_row(case, folder, "labels") for case in manifest.labeled],
        "unlabeled": [_row(case, folder, None) for case in manifest.unlabeled],
        "test": [_row(case, folder, None) for case in scored],
    }
    for case in scored:
        assert case.label is not None  # the manifest demands it of scored splits
        _link(case.label, folder / "reference", case.name)
    rows["watched"] = rows["labeled"][:1]
    for name, lines in rows.items():
        _write_list(folder / f"{name}.csv", lines, len(manifest.channels), labels=name in ("labeled", "watched"))
    names = {str(label.value): label.name for label in manifest.labels.labels}
    content = {**job, "channels": len(manifest.channels), "classes": manifest.labels.classes, "labels": names}
    (folder / "job.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _require_dense(manifest: Manifest) -> None:
    table = manifest.labels
    if table.values != tuple(range(table.classes)) or table.ignore_value is not None:
        raise InputError(
            f"{manifest.path}: peers take label files with the values 0, 1, 2, ... and none to ignore, but got "
            f"{list(table.values)}, ignored {table.ignore_value}; write label files with those values first."
        )


def _row(case: Case, folder: Path, labels: str | None) -> list[str]:
    """Paths relative to the folder: one an image channel, then the label where it may be seen."""
    found = [
        _link(image, folder / "images", case.name if channel == 0 else f"{case.name}_channel{channel}")
        for channel, image in enumerate(case.images)
    ]
    if labels is not None:
        assert case.label is not None
        found.append(_link(case.label, folder / labels, case.name))
    return [str(path.relative_to(folder)) for path in found]


def _link(source: Path, folder: Path, name: str) -> Path:
    suffix = volume_suffix(source)
    if suffix not in NIFTI_SUFFIXES or not source.is_file():
        raise InputError(f"{source}: peers read NIfTI files (.nii, .nii.gz), and there is none of that name.")
    target = folder / f"{name}{suffix}"
    target.symlink_to(source.absolute())
    return target


def _write_list(path: Path, rows: Sequence[Sequence[str]], channels: int, *, labels: bool) -> None:
    head = ["image", *(f"image_{channel}" for channel in range(1, channels)), *(["label"] if labels else [])]
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([head, *rows])


def read_list(path: Path) -> list[list[Path]]:
    """The paths of every row of such a list, complete."""
    with path.open(encoding="utf-8", newline="") as stream:
        _, *rows = csv.reader(stream)
    return [[path.parent / entry for entry in row] for row in rows]
