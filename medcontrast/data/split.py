"""Splits drawn by one written rule, so that two people with one seed and one set of names get the same lists."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from medcontrast.errors import ManifestError

Splits = dict[str, list[str]]


def split_cases(
    names: Sequence[str],
    *,
    labeled: int,
    validation: int = 0,
    test: int = 0,
    seed: int = 0,
    patients: Mapping[str, str] | None = None,
) -> Splits:
    """Splits case names.

    The rule: `order = numpy.random.default_rng(seed).permutation(sorted(names))`; the first `test` are test, the
    next `validation` are validation, the rest is training in that order, whose first `labeled` are labeled and
    the others unlabeled.

    With `patients` the same is done with patients: their ids are sorted and permuted, and whole patients (their
    cases in sorted order) fill test, then validation, then labeled, each until it holds at least the wanted
    number of cases; the rest is unlabeled.

    Args:
        names: Unique case names that have labels.
        labeled: Wanted number of labeled cases.
        validation: Wanted number of validation cases.
        test: Wanted number of test cases.
        seed: Of the permutation.
        patients: Patient id of every case, or None: every case is its own patient.

    Returns:
        labeled, unlabeled, validation, test: lists of names.

    Raises:
        ManifestError: There are fewer cases than wanted, or a case has no patient.
    """
    groups = _groups(names, seed, patients)
    few = ", or with few labels take --folds 5 or --validation 0" if validation else ""
    _enough(names, {"test": test, "validation": validation, "labeled": labeled}, few)
    out: Splits = {}
    for split, wanted in (("test", test), ("validation", validation), ("labeled", labeled)):
        out[split], groups = _take(groups, wanted)
        if len(out[split]) < wanted:
            raise ManifestError(
                f"{split} needs {wanted} cases, but whole patients leave only {len(out[split])} for it."
            )
    out["unlabeled"] = [name for group in groups for name in group]
    return _ordered(out)


def fold_cases(
    names: Sequence[str],
    *,
    folds: int,
    labeled: int,
    test: int = 0,
    seed: int = 0,
    patients: Mapping[str, str] | None = None,
) -> list[Splits]:
    """Splits case names for k-fold cross-validation.

    The rule: the order and the test cases of `split_cases`; what is left is cut, in that order, into `folds`
    blocks of cases (or of patients) as equal as possible, longer ones first. Block k is fold k's validation, the
    other blocks in their order are its training, whose first `labeled` are labeled.

    Raises:
        ManifestError: There are fewer cases or patients than wanted.
    """
    if folds < 2:
        raise ManifestError(f"cross-validation needs at least 2 folds, but got {folds}.")
    _enough(names, {"test": test})
    tested, groups = _take(_groups(names, seed, patients), test)
    if len(groups) < folds:
        raise ManifestError(f"{folds} folds need as many cases or patients, but only {len(groups)} are left.")
    blocks = [[groups[place] for place in block] for block in np.array_split(np.arange(len(groups)), folds)]
    out = []
    for fold, block in enumerate(blocks):
        training = [group for other, groups in enumerate(blocks) if other != fold for group in groups]
        _enough([name for group in training for name in group], {"labeled": labeled}, " or for more folds")
        chosen, rest = _take(training, labeled)
        held_out = [name for group in block for name in group]
        unlabeled = [name for group in rest for name in group]
        out.append(_ordered({"labeled": chosen, "unlabeled": unlabeled, "validation": held_out, "test": tested}))
    return out


def split_inside(
    training: Sequence[str],
    *,
    labeled: int,
    validation: int,
    bare: Collection[str] = (),
    patients: Mapping[str, str] | None = None,
) -> Splits:
    """Splits the training cases of another split, keeping their order and drawing nothing.

    The rule: the last `validation` with labels are validation, of patients whole ones, in order of their first case;
    the others are training, whose first `labeled` with labels are labeled. There is no test split: what is chosen with
    such a split has not seen the outer validation or test cases.

    Args:
        training: Names of the cases, in order.
        labeled: How many are labeled.
        validation: How many are validation, more where the last patient has more.
        bare: Those without a label file, which can be unlabeled only; of a validation patient they are left out.
        patients: Patient of each case that has one.

    Raises:
        ManifestError: There are fewer cases with labels than wanted.
    """
    owner = {name: (patients or {}).get(name, (name,)) for name in training}  # a case of nobody is its own
    groups: dict[str | tuple[str], list[str]] = {}
    for name in training:
        if name not in bare:
            groups.setdefault(owner[name], []).append(name)
    _enough([name for group in groups.values() for name in group], {"labeled": labeled, "validation": validation})
    taken = set(_take(list(groups.values())[::-1], validation)[0])
    held = {patient for patient, group in groups.items() if taken & set(group)}
    kept = [name for name in training if owner[name] not in held]
    chosen = [name for name in kept if name not in bare][:labeled]
    if len(chosen) < labeled:
        raise ManifestError(
            f"labeled needs {labeled} cases, but whole patients leave only {len(chosen)}; ask for fewer."
        )
    unlabeled = [name for name in kept if name not in set(chosen)]
    held_out = [name for name in training if name in taken]
    return _ordered({"labeled": chosen, "unlabeled": unlabeled, "validation": held_out, "test": []})


def patients_from_file(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Patient ids out of a CSV file or a JSON object {case: patient}.

    The CSV file has a header with the columns case and patient among others, or these two columns alone.

    Raises:
        ManifestError: The file cannot be read, or a case is missing in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            table = {str(case): str(patient) for case, patient in json.loads(text).items()}
        else:
            table = _patients_by_case([line for line in text.splitlines() if line.strip()])
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no such file; name the list of cases and their patients.") from None
    except (OSError, ValueError, AttributeError, csv.Error) as error:
        raise ManifestError(
            f"{path}: expected lines `case,patient` in a CSV file or a JSON object {{case: patient}} ({error})."
        ) from None
    missing = [name for name in names if not table.get(name)]
    if missing:
        raise ManifestError(f"{path}: no patient for {len(missing)} case(s), the first is {missing[0]}.")
    return {name: table[name] for name in names}


def _patients_by_case(lines: Sequence[str]) -> dict[str, str]:
    """Of the columns that a header calls case and patient, in any letters; without one of the only two columns."""
    # of commas and semicolons, which some spreadsheets write, what makes more columns of the first line
    mark = max(",;", key=lambda each: len(next(csv.reader(lines[:1], delimiter=each), ())))
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark)]
    header = [cell.casefold() for cell in rows[0]] if rows else []
    case, patient = 0, 1
    if header.count("case") == header.count("patient") == 1:
        case, patient = header.index("case"), header.index("patient")
    elif (most := max(map(len, rows), default=0)) > 2:
        # the second may be a date, and a patient's scans would then stand in several splits
        raise ValueError(f"it has {most} columns; begin it with a header that calls two of them case and patient")
    short = next((row[0] for row in rows if len(row) <= max(case, patient)), None)
    if short is not None:
        raise ValueError(f"the line of {short!r} has too few columns")
    return {row[case]: row[patient] for row in rows}


def patients_from_pattern(pattern: str, names: Sequence[str]) -> dict[str, str]:
    """Patient ids out of case names: the first group of a regular expression, else its whole match.

    Raises:
        ManifestError: The pattern is not valid, or a name does not match.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ManifestError(f"--patient-pattern {pattern!r} is not a regular expression ({error}).") from None
    out = {}
    for name in names:
        found = compiled.search(name)
        patient = (found.group(1) if compiled.groups else found.group(0)) if found else None
        if not patient:
            raise ManifestError(f"--patient-pattern {pattern!r} finds no patient in the case name {name!r}.")
        out[name] = patient
    return out


def _groups(names: Sequence[str], seed: int, patients: Mapping[str, str] | None) -> list[list[str]]:
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise ManifestError(f"case names must differ, but {twice[0]!r} stands there more than once.")
    if patients is None:
        return [[str(name)] for name in np.random.default_rng(seed).permutation(sorted(names))]
    by_patient: dict[str, list[str]] = {}
    for name in sorted(names):
        if name not in patients:
            raise ManifestError(f"case {name!r} has no patient id.")
        by_patient.setdefault(patients[name], []).append(name)
    return [by_patient[str(patient)] for patient in np.random.default_rng(seed).permutation(sorted(by_patient))]


def _take(groups: list[list[str]], wanted: int) -> tuple[list[str], list[list[str]]]:
    taken: list[str] = []
    count = 0
    while len(taken) < wanted and count < len(groups):
        taken += groups[count]
        count += 1
    return taken, groups[count:]


def _enough(names: Sequence[str], wanted: dict[str, int], instead: str = "") -> None:
    if min(wanted.values()) < 0:
        raise ManifestError(f"numbers of cases cannot be negative, but got {wanted}.")
    total = sum(wanted.values())
    if total > len(names):
        shown = " + ".join(f"{count} {split}" for split, count in wanted.items() if count)
        raise ManifestError(
            f"wanted {shown}, but there are only {len(names)} labeled cases to take them from; ask for fewer{instead}."
        )


def _ordered(splits: Splits) -> Splits:
    return {split: splits[split] for split in ("labeled", "unlabeled", "validation", "test")}
