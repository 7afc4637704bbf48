"""From what `medcontrast data split` was asked to the manifests it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcontrast.data.listing import Tree, tree_from_source, tree_inside
from medcontrast.data.source import Source, read_source, read_table
from medcontrast.data.split import Splits, fold_cases, patients_from_file, patients_from_pattern, split_cases
from medcontrast.errors import InputError, ManifestError
from medcontrast.files import require_free
from medcontrast.labels import LabelTable


@dataclass(frozen=True)
class SplitRequest:
    """The options of the command, as typed; see its help."""

    output: Path
    labeled: int
    source: Path | None = None
    validation: int = 0
    test: int = 0
    seed: int = 0
    folds: int | None = None
    inside: Path | None = None
    patients: Path | None = None
    patient_pattern: str | None = None
    labels: tuple[str, ...] = ()
    labels_from: Path | None = None
    root: Path | None = None


def split_trees(request: SplitRequest, *, overwrite: bool = False) -> tuple[dict[Path, Tree], list[str]]:
    """The manifests by the path they belong at, and sentences on patients and on what was left out.

    Raises:
        InputError: Options exclude each other.
        OutputError: One of the manifests exists already.
        ManifestError: The source cannot be split as asked.
    """
    _require_possible(request)
    paths = [request.output]
    if request.folds is not None:
        stem, suffix = request.output.stem, request.output.suffix
        paths = [request.output.with_name(f"{stem}_fold{fold}{suffix}") for fold in range(request.folds)]
    require_free(*paths, overwrite=overwrite)
    if request.inside is not None:
        tree = tree_inside(request.inside, labeled=request.labeled, validation=request.validation, out=paths[0])
        return {paths[0]: tree}, []
    assert request.source is not None
    return _from_source(request, read_source(request.source), paths)


def _from_source(request: SplitRequest, source: Source, paths: list[Path]) -> tuple[dict[Path, Tree], list[str]]:
    everyone = [case.name for case in source.cases]
    patients = None
    if request.patients is not None:
        patients = patients_from_file(request.patients, everyone)
    elif request.patient_pattern is not None:
        patients = patients_from_pattern(request.patient_pattern, everyone)
    table = _table(request)
    drawn = _drawn(request, source, patients)
    trees = {
        path: tree_from_source(source, splits, out=path, root=request.root, table=table, patients=patients)
        for path, splits in zip(paths, drawn, strict=True)
    }
    notes = [f"{source.folder}: {note}." for note in (*source.notes, *source.warnings)]
    if patients is not None:
        notes.insert(0, f"{source.folder}: {len(patients)} cases of {len(set(patients.values()))} patients.")
    for path, tree in trees.items():
        lost = len(everyone) - sum(len(entries) for entries in tree.values() if isinstance(entries, list))
        if lost:
            notes.append(f"{path}: {lost} scan(s) without labels left out, whose patients are in validation or test.")
    return trees, notes


def _drawn(request: SplitRequest, source: Source, patients: dict[str, str] | None) -> list[Splits]:
    names = [case.name for case in source.labeled]
    if not names:
        none = "; ".join([f"none of its {len(source.cases)} scan(s) has a label", *source.notes])
        raise ManifestError(
            f"{source.folder}: {none}; labels belong into labels/ or labelsTr/ or, called label, beside each image."
        )
    numbers = {"labeled": request.labeled, "test": request.test, "seed": request.seed}
    try:
        if request.folds is not None:
            return fold_cases(names, folds=request.folds, patients=patients, **numbers)
        return [split_cases(names, validation=request.validation, patients=patients, **numbers)]
    except ManifestError as error:
        # what was not taken may be the labels that are too few
        known = [f"{len(source.unlabeled)} scan(s) have no label"] if source.unlabeled else []
        parts = [str(error).removesuffix("."), *known, *source.notes]
        raise ManifestError(f"{source.folder}: {'; '.join(parts)}.") from None


def _require_possible(request: SplitRequest) -> None:
    if (request.source is None) == (request.inside is None):
        raise InputError("name either a SOURCE to split or --inside MANIFEST, and not both.")
    only_source = {
        "--test": request.test,
        "--seed": request.seed,
        "--folds": request.folds,
        "--patients": request.patients,
        "--patient-pattern": request.patient_pattern,
        "--label": request.labels,
        "--labels-from": request.labels_from,
        "--root": request.root,
    }
    wrong = [option for option, value in only_source.items() if value]
    if request.inside is not None and wrong:
        raise InputError(f"--inside keeps the order, files and labels of its manifest; leave {', '.join(wrong)} out.")
    if request.patients is not None and request.patient_pattern is not None:
        raise InputError("--patients and --patient-pattern say the same thing; give one of them.")
    if request.labels and request.labels_from is not None:
        raise InputError("--label and --labels-from say the same thing; give one of them.")
    if request.folds is not None and request.validation:
        raise InputError("--folds makes every block the validation of one fold; leave --validation out.")


def _table(request: SplitRequest) -> dict[str, Any] | None:
    if request.labels_from is not None:
        return read_table(request.labels_from)
    if not request.labels:
        return None
    given: dict[str, str] = {}
    for item in request.labels:
        text, equals, name = item.partition("=")
        if not equals or not text.strip().isdecimal() or not name.strip():
            raise InputError(f"--label {item}: expected VALUE=NAME, for example --label '1=left atrium'.")
        value = str(int(text))  # 01 is 1
        if value in given:
            raise InputError(f"--label {item}: value {value} is called {given[value]} already; name each value once.")
        given[value] = name.strip()
    # nnU-Net's word for what nothing learns from, as where a dataset.json says it
    ignored = [value for value, name in given.items() if name == "ignore"]
    if len(ignored) > 1:
        raise InputError(f"--label: values {' and '.join(ignored)} are called ignore; one value can be.")
    table: dict[str, Any] = {"labels": {"0": "background", **given}}
    for value in ignored:
        del table["labels"][value]
        table["ignore_label"] = int(value)
    LabelTable.from_json(table, where="--label")
    return table
