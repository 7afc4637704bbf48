"""Evaluations of several folds, joined into one score over all their cases."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from medcontrast.engine.evaluation_output import (
    FACTS,
    PICTURE,
    REPORT,
    TABLES,
    Warnings,
    leave_and_show,
    leave_no_picture,
    report_to_compare,
)
from medcontrast.errors import InputError
from medcontrast.files import read_json, require_free
from medcontrast.metrics.pooling import pool_reports
from medcontrast.metrics.report import Report
from medcontrast.say import quoted

_KEPT = ("checkpoints", "predictions", "manifest", "split", "inference", "warnings")
"""What is kept of each evaluation's own record."""


def pool_evaluations(
    parts: Sequence[Path],
    *,
    output: Path | None = None,
    against: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Report:
    """Joins evaluations on different cases, as those of a cross-validation's folds, each of its own validation cases.

    Warned of, as far as the evaluations' records tell: cases that a network was trained or chosen on, patients in
    several evaluations, and folds that were not predicted in one way.

    Args:
        parts: A run folder with one evaluation, the folder of an evaluation, or its report.json, of every fold.
        output: Folder for cases.csv, report.json and evaluation.json.
        against: report.json of another system on all these cases; differences are shown and kept.
        overwrite: Replace an existing evaluation.
        console: Where the table is shown.

    Raises:
        InputError: A part holds no evaluation, or several; a case was scored twice; targets, tolerance or units
            differ; or `against` is no report on the same cases.
        ManifestError: The record beside a report is damaged.
        OutputError: A file exists already, or cannot be written.
    """
    console = console or Console()
    if output is not None:
        require_free(*(output / name for name in TABLES), overwrite=overwrite)
    files = [_report_file(part) for part in parts]
    reports = {str(file): Report.load(file) for file in files}
    if len(reports) < len(files):
        raise InputError("--pool: names one evaluation twice; name one of each fold.")
    facts = {name: _facts_beside(Path(name)) for name in reports}
    report = pool_reports(reports)
    other = report_to_compare(against, report.cases, report.layout)
    warn = Warnings(console)
    for sentence in (*_own_warnings(facts), *_relatives(reports.values()), *_unlike(facts.values())):
        warn(sentence)
    if output is not None:
        leave_no_picture(output / PICTURE, overwrite, warn)
    kept = [{**facts[name], "report": name, "cases": len(part.cases)} for name, part in reports.items()]
    leave_and_show(output, report, {"pooled": kept}, warn, other=other, against=against)
    return report


def _report_file(part: Path) -> Path:
    if not part.is_dir():
        return part  # a file, or nothing: reading says so
    if (part / REPORT).is_file():
        return part / REPORT
    found = sorted(part.glob(f"evaluation*/{REPORT}"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.parent.name for file in found)
        raise InputError(f"{part}: holds {len(found)} evaluations ({names}); name the folder of one of them.")
    raise InputError(
        f"{part}: holds no evaluation; name its folder, its report.json or a run that has one "
        f"(`medcontrast evaluate --ckpt {quoted(part)}` makes it of a run)."
    )


def _facts_beside(file: Path) -> dict[str, Any]:
    """What the evaluation says of itself; {} for a report that somebody moved away from it."""
    path = file.with_name(FACTS)
    content = read_json(path) if path.is_file() else {}
    return {name: content[name] for name in (*_KEPT, "pooled") if name in content} if isinstance(content, dict) else {}


def _own_warnings(facts: Mapping[str, dict[str, Any]]) -> list[str]:
    """What each evaluation warned of, as of cases that were trained on."""
    return [f"{name}: {sentence}" for name, fact in facts.items() for sentence in fact.get("warnings", [])]


def _relatives(reports: Iterable[Report]) -> list[str]:
    """Patients in several folds: one fold's network may have learned from other scans of those that it is scored on."""
    counts = Counter(patient for report in reports for patient in set(report.patients.values()))
    several = [patient for patient, count in counts.items() if count > 1]
    if not several:
        return []
    count = "1 patient has" if len(several) == 1 else f"{len(several)} patients have"
    return [
        f"{count} scans in several of the evaluations ({several[0]} the first), so that a network may have learned "
        "from other scans of theirs; `medcontrast data split --patients` keeps them in one fold."
    ]


def _unlike(facts: Iterable[dict[str, Any]]) -> list[str]:
    """Sentences on what should be one for all folds and is not, as far as their records tell."""
    parts = [part for fact in facts for part in fact.get("pooled", [fact])]
    splits = sorted({part["split"] for part in parts if "split" in part})
    ways = list(dict.fromkeys(_way(part) for part in parts if "checkpoints" in part))
    settings = {json.dumps(part["inference"], sort_keys=True) for part in parts if "inference" in part}
    out = []
    if len(splits) > 1:
        out.append(f"the evaluations are of different splits ({', '.join(splits)}).")
    if len(ways) > 1:
        out.append(f"the evaluations are of unlike networks ({'; '.join(ways)}).")
    if len(settings) > 1:
        out.append(f"the evaluations have {len(settings)} different settings of inference.")
    return out


def _way(part: dict[str, Any]) -> str:
    """What predicted, in words; the best network of every fold is of a step of its own."""
    names = [(Path(each["file"]).stem, each["step"]) for each in part["checkpoints"]]
    return " and ".join(name if name == "best" else f"{name} of step {step}" for name, step in names)
