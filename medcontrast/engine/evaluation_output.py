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
        self.console = console
        self.sentences: list[str] = []

    def __call__(self, sentence: str) -> None:
        """Says and keeps one sentence."""
        say(self.console, f"Warning: {sentence}")
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
    report = Report.load(against)
    require_comparable(cases, layout, report, where=str(against))
    return report


def leave_and_show(
    folder: Path | None,
    report: Report,
    facts: dict[str, Any],
    warn: Warnings,
    *,
    other: Report | None,
    against: Path | None,
    picture: Callable[[Path], object] | None = None,
) -> None:
    """Writes an evaluation, then shows it.

    Whoever reads what is shown may leave, as `head` does, and a comparison may fail; neither costs what was scored.

    Args:
        folder: Where the files go; None for nowhere.
        report: The scores.
        facts: What was scored, and with what.
        warn: Holds what was warned of.
        other: The report to compare with, if any.
        against: Its file.
        picture: Draws the worst cases into a file, if there are scans to draw.

    Raises:
        OutputError: A file cannot be written.
    """
    console, facts = warn.console, {**facts, "warnings": warn.sentences}
    if folder is not None:
        _forget_facts(folder)  # until there are those of the new scores
        report.save_csv(folder / CASES)
        report.save(folder / REPORT)
        write_text(folder / FACTS, _as_json(facts))
        if picture is not None:
            picture(folder / PICTURE)
    show_report(console, report)
    differences = show_differences(console, report, other, against)
    if folder is not None:
        if differences:
            write_text(folder / FACTS, _as_json({**facts, **differences}))
        say(console, f"Written to {folder}")


def _forget_facts(folder: Path) -> None:
    try:
        (folder / FACTS).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder / FACTS}: cannot be removed ({error.strerror or error}).") from None


def _as_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=1) + "\n"


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
