"""Evaluations of several folds, joined into one score over all their cases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from medcontrast.engine.evaluation_files import TABLES, compared, other_report, show, write_facts, write_scores
from medcontrast.errors import InputError
from medcontrast.files import read_json, require_free
from medcontrast.metrics.pooling import pool_reports
from medcontrast.metrics.report import Report
from medcontrast.say import say

_REPORT, _FACTS = "report.json", "evaluation.json"
_ALIKE = {"split": "splits", "inference": "settings of inference"}
"""What of an evaluation should be the same in all that are joined, and how a warning calls it."""


def pool_evaluations(
    parts: Sequence[Path],
    *,
    output: Path | None = None,
    against: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Report:
    """Joins evaluations on different cases: each fold's validation cases, scored by the network that never saw them.

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
    """
    console = console or Console()
    if output is not None:
        require_free(*(output / name for name in TABLES), overwrite=overwrite)
    files = [_report_file(part) for part in parts]
    reports = {str(file): Report.from_json(file) for file in files}
    if len(reports) < len(files):
        raise InputError("--pool: names one evaluation twice; name one of each fold.")
    facts = [_facts_beside(file) for file in files]
    report = pool_reports(reports)
    other = other_report(against, report.cases, report.layout)
    warnings = _unlike(facts)
    say(console, *(f"Warning: {sentence}" for sentence in warnings))
    if output is not None:
        write_scores(output, report)
    show(console, report)
    parts_kept = [
        {**fact, "report": str(file), "cases": len(reports[str(file)].cases)}
        for file, fact in zip(files, facts, strict=True)
    ]
    kept = {"pooled": parts_kept, "warnings": warnings, **compared(console, report, other, against)}
    if output is not None:
        write_facts(output, kept)
        say(console, f"Written to {output}")
    return report


def _report_file(part: Path) -> Path:
    if not part.is_dir():
        return part  # a file, or nothing: reading says so
    if (part / _REPORT).is_file():
        return part / _REPORT
    found = sorted(part.glob(f"evaluation*/{_REPORT}"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.parent.name for file in found)
        raise InputError(f"{part}: holds {len(found)} evaluations ({names}); name the folder of one of them.")
    raise InputError(f"{part}: holds no evaluation; score it first with `medcontrast evaluate --ckpt {part}`.")


def _facts_beside(file: Path) -> dict[str, Any]:
    """What the evaluation says of itself; {} for a report that somebody moved away from it."""
    path = file.with_name(_FACTS)
    if not path.is_file():
        return {}
    content = read_json(path)
    wanted = ("checkpoints", "predictions", "manifest", *_ALIKE)
    return {name: content[name] for name in wanted if name in content} if isinstance(content, dict) else {}


def _unlike(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences on what should be one for all folds and is not, as far as their records tell."""
    out = []
    for name, title in _ALIKE.items():
        values = {json.dumps(fact[name], sort_keys=True) for fact in facts if name in fact}
        if len(values) > 1:
            out.append(f"the evaluations have {len(values)} different {title}: this is no score of one way to predict.")
    return out
