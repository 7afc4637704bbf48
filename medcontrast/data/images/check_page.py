"""Shows the check of a manifest of images as tables and sentences."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medcontrast.data.check_page import print_findings
from medcontrast.data.images.check import ImageCheckReport


def print_image_report(report: ImageCheckReport, *, cases: bool = False, console: Console | None = None) -> None:
    """Prints sizes and counts by split, then faults, warnings and notes.

    Args:
        report: From `check_image_manifest`.
        cases: Whether to print a line an image and every finding instead of the first 20 of a kind.
        console: Where to print to; default standard output.
    """
    out = console or Console(soft_wrap=True)
    manifest = report.manifest
    out.print(escape(f"{manifest.path}: {manifest.name}, data folder {manifest.root}"), highlight=False)
    out.print(_summary(report))
    counts = _counts(report)
    if counts.row_count:
        out.print(counts)
    if cases:
        out.print(_image_table(report))
    print_findings(out, report, every=cases)


def _summary(report: ImageCheckReport) -> Table:
    table = Table("split", "readable", "sides (pixels)", "channels", "patients")
    for split, cases in report.cases.items():
        images = [image for image in report.images if image.split == split]
        patients = {case.patient for case in cases if case.patient is not None}
        sides = " x ".join(_range(image.sides[axis] for image in images) for axis in (0, 1)) if images else ""
        channels = ", ".join(str(number) for number in sorted({image.channels for image in images}))
        table.add_row(split, f"{len(images)} of {len(cases)}", sides, channels, str(len(patients) or ""))
    return table


def _counts(report: ImageCheckReport) -> Table:
    table = Table("of", "value", *report.cases)
    by_split = {split: report.counts(split) for split in report.cases}
    for kind in ("class", "domain", "quality"):
        values = {value for counts in by_split.values() for value in counts.get(kind, {})}
        order = {name: place for place, name in enumerate(report.manifest.classes)} if kind == "class" else {}
        for value in sorted(values, key=lambda value: (order.get(value, len(order)), value)):
            numbers = (counts.get(kind, {}).get(value, 0) for counts in by_split.values())
            table.add_row(kind, escape(value), *map(str, numbers))
    return table


def _image_table(report: ImageCheckReport) -> Table:
    table = Table("split", "image", "sides", "channels", "class", "domain", "quality", "patient")
    classes = report.manifest.classes
    for image in report.images:
        case = image.case
        known = ("" if case.target is None else classes[case.target], case.domain, case.quality, case.patient)
        words = [case.name, " x ".join(map(str, image.sides)), str(image.channels), *(word or "" for word in known)]
        table.add_row(image.split, *map(escape, words))
    return table


def _range(values: Iterable[int]) -> str:
    found = list(values)
    return str(min(found)) if min(found) == max(found) else f"{min(found)}-{max(found)}"
