"""From what `medcontrast data split` was asked to the manifests it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcontrast.data.listing import Tree, tree_from_source, tree_inside
from medcontrast.data.source import Source, read_source, read_table
from medcontrast.data.split import fold_cases, patients_from_file, patients_from_pattern, split_cases
from medcontrast.errors import InputError
from medcontrast.files import require_free


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
    """The manifests by the path they belong at, and sentences on what was left out.

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
    names = [case.name for case in source.labeled]
    everyone = [*names, *(case.name for case in source.unlabeled)]
    patients = None
    if request.patients is not None:
        patients = patients_from_file(request.patients, everyone)
    elif request.patient_pattern is not None:
        patients = patients_from_pattern(request.patient_pattern, everyone)
    if request.folds is None:
        numbers = {"validation": request.validation, "test": request.test}
        drawn = [split_cases(names, labeled=request.labeled, seed=request.seed, patients=patients, **numbers)]
    else:
        drawn = fold_cases(
            names,
            folds=request.folds,
            labeled=request.labeled,
            test=request.test,
            seed=request.seed,
            patients=patients,
        )
    table = _table(request)
    trees = {
        path: tree_from_source(source, splits, out=path, root=request.root, table=table, patients=patients)
        for path, splits in zip(paths, drawn, strict=True)
    }
    notes = []
    for path, tree in trees.items():
        lost = len(everyone) - sum(len(entries) for entries in tree.values() if isinstance(entries, list))
        if lost:
            notes.append(f"{path}: {lost} scan(s) without labels left out, whose patients are in validation or test.")
    return trees, notes


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
    table = {"0": "background"}
    for item in request.labels:
        value, equals, name = item.partition("=")
        if not equals or not value.strip().isdigit() or not name.strip():
            raise InputError(f"--label {item}: expected VALUE=NAME, for example --label '1=left atrium'.")
        table[value.strip()] = name.strip()
    return {"labels": table}
