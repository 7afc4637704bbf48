"""Shows a check report as tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medcontrast.data.check import CheckReport, Finding

_MOST = 20


def print_report(report: CheckReport, *, cases: bool = False, console: Console | None = None) -> None:
    """Prints counts, ranges and volumes by split, then faults, warnings and notes.

    Args:
        report: From `check_manifest`.
        cases: Whether to print a line a case and every finding instead of the first 20 of a kind.
        console: Where to print to; default standard output.
    """
    out = console or Console(soft_wrap=True)
    manifest = report.manifest
    out.print(escape(f"{manifest.path}: {manifest.name}, data folder {manifest.root}"))
    out.print(_summary(report))
    volumes = _volumes(report)
    if volumes.row_count:
        out.print(volumes)
    if cases:
        out.print(_case_table(report))
    if "unlabeled" in report.splits and manifest.unlabeled:
        out.print("Labels of unlabeled cases were not opened.")
    print_findings(out, report, every=cases)


class Findings(Protocol):
    """What every check report has."""

    @property
    def faults(self) -> list[Finding]:
        """Training or scoring would fail or mislead."""

    @property
    def warnings(self) -> list[Finding]:
        """Worth a look."""

    @property
    def notes(self) -> list[Finding]:
        """Good to know."""


def print_findings(out: Console, report: Findings, *, every: bool) -> None:
    """Prints faults, warnings and notes; of each kind the first 20, or every one."""
    for kind, findings in (("fault", report.faults), ("warning", report.warnings), ("note", report.notes)):
        _print_kind(out, kind, findings, len(findings) if every else _MOST)
    if not report.faults:
        out.print("No faults.")


def _print_kind(out: Console, kind: str, findings: Sequence[Finding], most: int) -> None:
    if not findings:
        return
    out.print(f"{len(findings)} {kind}{'s' if len(findings) > 1 else ''}:")
    for finding in findings[:most]:
        out.print(escape(f"  - {finding}"), highlight=False)
    if len(findings) > most:
        out.print(f"  ... and {len(findings) - most} more; --cases shows all")


def _summary(report: CheckReport) -> Table:
    table = Table("split", "readable", "shape (voxels)", "spacing (mm)", "values")
    for split in report.splits:
        rows = [row for row in report.rows if row.split == split]
        readable = f"{len(rows)} of {len(getattr(report.manifest, split))}"
        if not rows:
            table.add_row(split, readable, "", "", "")
            continue
        shapes = _ranges([row.shape for row in rows], "d")
        spacings = _ranges([row.spacing_mm for row in rows], ".3g")
        values = f"{min(row.low for row in rows):.4g} to {max(row.high for row in rows):.4g}"
        table.add_row(split, readable, shapes, spacings, values)
    return table


def _volumes(report: CheckReport) -> Table:
    table = Table("split", "structure", "cases", "median (ml)", "range (ml)")
    for split in report.splits:
        rows = [row for row in report.rows if row.split == split and row.volumes_ml]
        for name in [label.name for label in report.manifest.labels.labels] if rows else []:
            volumes = [row.volumes_ml[name] for row in rows]
            ends = f"{min(volumes):.3g} to {max(volumes):.3g}"
            table.add_row(split, escape(name), str(len(volumes)), f"{median(volumes):.3g}", ends)
    return table


def _case_table(report: CheckReport) -> Table:
    table = Table("split", "case", "shape", "spacing (mm)", "axes", "values", "volume (ml)")
    for row in report.rows:
        volumes = ", ".join(f"{name} {volume:.3g}" for name, volume in row.volumes_ml.items())
        spacing = " ".join(f"{side:.3g}" for side in row.spacing_mm)
        shape = " ".join(map(str, row.shape))
        values = f"{row.low:.4g} to {row.high:.4g}"
        table.add_row(row.split, escape(row.case), shape, spacing, row.axes, values, escape(volumes))
    return table


def _ranges(triples: Sequence[Sequence[float]], form: str) -> str:
    parts = []
    for axis in range(3):
        sides = [triple[axis] for triple in triples]
        low, high = f"{min(sides):{form}}", f"{max(sides):{form}}"
        parts.append(low if low == high else f"{low}-{high}")
    return ", ".join(parts)
