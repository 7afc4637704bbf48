"""Writes manifests: splits of names and the files behind them, as JSON with one case a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcontrast.data.found import SourceCase
from medcontrast.data.manifest import ROOT_VARIABLE, SPLITS, load_manifest, manifest_from_json
from medcontrast.data.source import TABLE_KEYS, Source, require_channels
from medcontrast.data.split import Splits, split_inside
from medcontrast.errors import ManifestError
from medcontrast.files import relative_name, write_text

Tree = dict[str, Any]


def tree_from_source(
    source: Source,
    splits: Splits,
    *,
    out: Path,
    root: Path | None = None,
    table: Mapping[str, Any] | None = None,
    patients: Mapping[str, str] | None = None,
) -> Tree:
    """The manifest of a data set on disk; scans without labels are added to unlabeled.

    Args:
        source: Where the files are.
        splits: Names of labeled cases by split.
        out: Where the manifest will be written; its name without suffix becomes the manifest's.
        root: Paths are written relative to this folder, and no root is written: the reader names it. Default:
            MEDCONTRAST_DATA when the source lies inside it, else the source itself, which is then written as root.
        table: Label table and texts that replace the source's own.
        patients: Patient id of cases, or None. A scan without labels whose patient is in validation or test is
            left out.

    Raises:
        ManifestError: There is no label table, cases have not one file a channel, or a path lies outside root.
    """
    texts = {**source.table, **(table or {})}
    if "labels" not in texts:
        raise ManifestError(
            f"{source.folder}: nothing says what the label values mean. Give --label 1=NAME for each, "
            "or --labels-from a JSON file with a label table."
        )
    require_channels(source, texts)
    base, written_root = _base(source.folder, out, root)
    by_name = {case.name: case for case in source.labeled}
    tree: Tree = {"name": out.stem, **{key: texts[key] for key in TABLE_KEYS if key in texts}}
    if written_root is not None:
        tree["root"] = written_root
    held_out = {patients[name] for split in ("validation", "test") for name in splits[split]} if patients else set()
    for split in SPLITS:
        cases = [by_name[name] for name in splits[split]]
        if split == "unlabeled":
            cases += [case for case in source.unlabeled if not patients or patients.get(case.name) not in held_out]
        if cases:
            tree[split] = [_entry(case, base, patients) for case in cases]
    return tree


def tree_inside(manifest: Path, *, labeled: int, validation: int, out: Path) -> Tree:
    """The manifest that `split_inside` draws from the training cases of another, in their order.

    Raises:
        ManifestError: There are fewer cases with a label file than wanted.
    """
    inner = load_manifest(manifest)
    raw = inner.raw
    entries = [*raw.get("labeled", []), *raw.get("unlabeled", [])]
    cases = [*inner.labeled, *inner.unlabeled]
    by_name = {case.name: entry for case, entry in zip(cases, entries, strict=True)}
    splits = split_inside(
        [case.name for case in cases],
        labeled=labeled,
        validation=validation,
        bare={case.name for case in cases if case.label is None},
        patients={case.name: case.patient for case in cases if case.patient is not None},
    )
    tree: Tree = {"name": out.stem, **{key: raw[key] for key in TABLE_KEYS if key in raw}}
    if raw.get("root"):
        tree["root"] = relative_name(inner.root.resolve(), out.parent.resolve())
    tree.update({split: [by_name[name] for name in splits[split]] for split in SPLITS if splits[split]})
    return tree


def write_manifest(path: Path, tree: Tree, *, overwrite: bool = False) -> None:
    """Checks the manifest and writes it.

    Raises:
        OutputError: The file exists already, or cannot be written.
        ManifestError: The manifest is not usable.
    """
    text = manifest_text(tree)
    manifest_from_json(json.loads(text), path)
    write_text(path, text, overwrite=overwrite)


def manifest_text(tree: Tree) -> str:
    """JSON with one case, one label and one image's boxes a line, so that differences between versions can be read."""
    parts = []
    for key, value in tree.items():
        if key in (*SPLITS, "train") and value:
            lines = ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in value)
            parts.append(f" {json.dumps(key)}: [\n{lines}\n ]")
        elif key in ("labels", "lesion_boxes") and value and isinstance(value, dict):
            lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
            parts.append(f" {json.dumps(key)}: {{\n{lines}\n }}")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _base(folder: Path, out: Path, root: Path | None) -> tuple[Path, str | None]:
    if root is not None:
        return root.resolve(), None
    shared = os.environ.get(ROOT_VARIABLE)
    if shared and folder.resolve().is_relative_to(Path(shared).resolve()):
        return Path(shared).resolve(), None
    return folder.resolve(), relative_name(folder.resolve(), out.parent.resolve())


def _entry(case: SourceCase, base: Path, patients: Mapping[str, str] | None) -> dict[str, Any]:
    images = [_inside(path, base) for path in case.images]
    entry: dict[str, Any] = {"case": case.name}
    if patients and case.name in patients:
        entry["patient"] = patients[case.name]
    entry["image"] = images[0] if len(images) == 1 else images
    if case.label is not None:
        entry["label"] = _inside(case.label, base)
    return entry


def _inside(path: Path, base: Path) -> str:
    # normpath, not resolve: a data set made of links keeps its own names
    complete = Path(os.path.normpath(path.parent.resolve() / path.name))
    if not complete.is_relative_to(base):
        raise ManifestError(f"{path} lies outside the root {base}; choose a --root that holds every file.")
    return complete.relative_to(base).as_posix()


def names_from_file(path: Path) -> list[str]:
    """Names, one a line; empty lines are left out.

    Raises:
        ManifestError: The file cannot be read, is empty, or names something twice.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no such file; name a list of cases, one name a line.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(
            f"{path}: cannot be read ({reason}); name a list of cases, one name a line in UTF-8."
        ) from None
    if not names or len(set(names)) != len(names):
        raise ManifestError(f"{path}: expected one case name a line, each once, but it holds {_count(names)}.")
    return names


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} names, {len(set(names))} of them different"
