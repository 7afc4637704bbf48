"""What an evaluation shows and leaves: a table, the difference to another report, and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from medcontrast.errors import OutputError
from medcontrast.files import write_text
from medcontrast.metrics.paired import (
    difference_lines,
    differences_to_json,
    paired_differences,
    require_comparable,
)
from medcontrast.metrics.report import Report
from medcontrast.say import say

CASES, REPORT, FACTS = "cases.csv", "report.json", "evaluation.json"
TABLES = (CASES, REPORT, FACTS)
PICTURE = "worst_cases.png"


class Warnings:
    """Says each sentence as a warning, and keeps it for the file."""

    def __init__(self, console: Console) -> None:
        self.sentences: list[str] = []
        self._console = console

    def __call__(self, sentence: str) -> None:
        """Says and keeps one sentence."""
        say(self._console, f"Warning: {sentence}")
        self.sentences.append(sentence)


def report_to_compare(against: Path | None, cases: Iterable[str], layout: str) -> Report | None:
    """The report to compare with, if any; asked for first, so that one that cannot be is refused before the work.

    Args:
        against: Its file, if any.
        cases: Names of the cases that are scored.
        layout: What is scored on them and how, see `metrics.report.layout`.

    Raises:
        InputError: It is no report, or not of these cases and this layout.
    """
    if against is None:
        return None
    report = Report.from_json(against)
    require_comparable(cases, layout, report, where=str(against))
    return report


def show_differences(console: Console, report: Report, other: Report | None, against: Path | None) -> dict[str, Any]:
    """Shows the differences and gives them for the file."""
    if other is None:
        return {}
    found = paired_differences(report, other)
    lines = [
        f"Difference to {against}, this minus that, on the same {len(report.cases)} cases",
        *difference_lines(found, report.drawn),
    ]
    say(console, *lines)
    return {"against": {"report": str(against), "differences": differences_to_json(found)}}


def show_report(console: Console, report: Report) -> None:
    """A table where the terminal is wide enough for it, else plain lines."""
    wide = console.width >= report.table_width
    if wide:
        console.print(report.table())
    say(console, *(report.notes() if wide else report.lines()))


def write_scores(folder: Path, report: Report) -> None:
    """Writes the figures; before anything is compared, since other labels must not cost what was predicted.

    Raises:
        OutputError: A file cannot be written.
    """
    report.to_csv(folder / CASES)
    report.to_json(folder / REPORT)


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Writes what was scored, and with what.

    Raises:
        OutputError: The file cannot be written.
    """
    write_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")


def leave_no_picture(path: Path, overwrite: bool, warn: Callable[[str], None]) -> None:
    """A picture of an earlier evaluation goes with its tables; one that nobody allows to replace is said to be old.

    Raises:
        OutputError: It cannot be removed.
    """
    if not path.is_file():
        return
    if not overwrite:
        warn(f"{path}: is of an earlier evaluation and shows other cases than these tables; move it away.")
        return
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(
            f"{path}: is of an earlier evaluation and cannot be removed ({error.strerror or error}); "
            "name another output."
        ) from None
