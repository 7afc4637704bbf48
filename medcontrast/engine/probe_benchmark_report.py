"""Tables and a picture of a grid of encoders, made from its records alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcontrast.engine.benchmark_report import difference_cell, replace_part
from medcontrast.engine.probe_records import ProbeRecord
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.metrics.comparison import Mean, Scores, difference, holm, mean_over_runs
from medcontrast.render import Point, points_png
from medcontrast.settings.grid import ProbeGridSettings, probe_cells


@dataclass(frozen=True)
class Line:
    """One row of the grid.

    Attributes:
        row: Its name.
        wanted: How many runs the grid has.
        records: The finished ones, in order of their number.
    """

    row: str
    wanted: int
    records: tuple[ProbeRecord, ...]

    def right(self, classifier: str) -> Scores:
        """Run -> (n,) 1 where the classifier is right."""
        return {record.run: record.right(classifier) for record in self.records}

    def in_group(self, classifier: str, kind: str, group: str) -> Scores:
        """Run -> the same for the images of one group."""
        return {record.run: record.right(classifier)[record.members(kind)[group]] for record in self.records}

    def lost(self, classifier: str, kind: str) -> Scores:
        """Run -> an image's hit in the first group minus its hit in the second, groups in order of name."""
        first, second = sorted(self.records[0].groups[kind])
        before, after = (self.in_group(classifier, kind, group) for group in (first, second))
        return {run: before[run] - after[run] for run in before}


def classifier_name(classifier: str, fraction: float) -> str:
    """Name of a classifier at a share of the labels, in a record."""
    return f"{classifier} {fraction:g}"


def write_probe_report(
    grid: ProbeGridSettings, records: dict[str, ProbeRecord], folder: Path, into: Path | None = None
) -> str:
    """Writes table.md, table.csv and picture.png beside the records; returns the Markdown.

    Args:
        grid: The settings.
        records: Name of the cell -> its record, at least one.
        folder: Where the files go.
        into: A Markdown file with `<!-- benchmark NAME -->` and `<!-- end -->`; what stands between is replaced.

    Raises:
        InputError: Records hold other images or classifiers than each other, `drop` has no two groups of as many
            images, or `into` has no such place.
    """
    _require_alike(grid, records)
    wanted: dict[str, list[str]] = {}
    for cell in probe_cells(grid):
        wanted.setdefault(cell.row, []).append(cell.name)
    lines = [
        Line(row, len(names), tuple(records[name] for name in names if name in records))
        for row, names in wanted.items()
    ]
    text = _markdown(grid, lines)
    write_text(folder / "table.md", f"# {grid.title}\n\n{text}\n")
    write_text(folder / "table.csv", _csv(grid, lines))
    lead = _classifiers(grid)[0]
    points_png(folder / "picture.png", _points(lines, lead), title=grid.title, axis=f"accuracy, {_title(lead)}")
    if into is not None:
        replace_part(into, grid.name, text)
    return text


def _classifiers(grid: ProbeGridSettings) -> list[str]:
    return [classifier_name(name, fraction) for name in grid.classifiers for fraction in grid.fractions]


def _title(classifier: str) -> str:
    name, fraction = classifier.split()
    kind = {"linear": "linear probe", "knn": "nearest neighbours"}[name]
    return f"{kind}, {100 * float(fraction):g} % of the labels"


def _markdown(grid: ProbeGridSettings, lines: Sequence[Line]) -> str:
    first = next(line for line in lines if line.records).records[0]
    parts = [f"**{_title(each)}**\n\n{_table(grid, lines, each)}" for each in _classifiers(grid)]
    lost = f" Lost: accuracy on the first {grid.drop} minus that on the second, paired by image."
    notes = (
        f"{first.images} {first.facts['split']} images of {first.facts['manifest']}, {first.facts['classes']} "
        f"classes, encoders frozen after {first.facts['step']} steps. Accuracy is over images, each averaged over "
        "runs, with its 95 % bootstrap interval over images (10,000 resamples); SD is that of the runs' accuracies. "
        "Differences are paired by image over the runs that both rows have; p is Wilcoxon's signed-rank test, "
        "Holm-corrected over the rows of the table. Intervals over images do not cover the noise of pre-training; SD "
        "says how large it is."
    )
    return "\n\n".join([*parts, notes + ("" if grid.drop is None else lost)])


def _table(grid: ProbeGridSettings, lines: Sequence[Line], classifier: str) -> str:
    kinds = next(line for line in lines if line.records).records[0].groups
    groups = [(kind, group) for kind, names in kinds.items() for group in names]
    references = [name for name in dict.fromkeys((grid.baseline, grid.default)) if name]
    heads = ["row", "runs", "accuracy", "SD over runs", *(f"{kind} {group}" for kind, group in groups)]
    compared = [_compared(lines, name, lambda line: line.right(classifier)) for name in references]
    drop = grid.drop
    if drop is not None:
        heads.append("lost")
        compared += [_compared(lines, name, lambda line: line.lost(classifier, drop)) for name in references]
    heads += [f"against {name}" for name in references]
    heads += [f"lost, against {name}" for name in references] if drop is not None else []
    heads += ["parameters", "hours"]
    table = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for place, line in enumerate(lines):
        if not line.records:
            table.append(f"| {' | '.join([line.row, f'0 of {line.wanted}', *['-'] * (len(heads) - 2)])} |")
            continue
        cells = _cells(line, classifier, groups, drop) + [column[place] for column in compared]
        seconds = float(np.mean([record.facts["train_seconds"] for record in line.records]))
        parameters = line.records[0].facts["student_parameters"] / 1e6
        table.append(f"| {' | '.join([*cells, f'{parameters:.2f} M', f'{seconds / 3600:.2f}'])} |")
    return "\n".join(table)


def _cells(line: Line, classifier: str, groups: Sequence[tuple[str, str]], drop: str | None) -> list[str]:
    whole = mean_over_runs(line.right(classifier))
    shown = [
        line.row,
        f"{len(line.records)} of {line.wanted}" if len(line.records) < line.wanted else str(line.wanted),
        _mean(whole),
        "-" if whole.sd_over_runs is None else f"{whole.sd_over_runs:.4f}",
        *(f"{mean_over_runs(line.in_group(classifier, *group)).interval.mean:.4f}" for group in groups),
    ]
    return shown if drop is None else [*shown, _mean(mean_over_runs(line.lost(classifier, drop)))]


def _mean(mean: Mean) -> str:
    low, high = mean.interval.low, mean.interval.high
    return f"{mean.interval.mean:.4f}" + ("" if low is None or high is None else f" ({low:.4f} to {high:.4f})")


def _compared(lines: Sequence[Line], reference: str, scores: Callable[[Line], Scores]) -> list[str]:
    """A cell a line: its difference to the reference row, with p corrected over the lines that have one."""
    base = next(line for line in lines if line.row == reference)
    found = [
        difference(scores(line), scores(base)) if line.records and base.records and line.row != reference else None
        for line in lines
    ]
    corrected = iter(holm([each.p for each in found if each is not None]))
    return ["-" if each is None else difference_cell(each, next(corrected)) for each in found]


def _csv(grid: ProbeGridSettings, lines: Sequence[Line]) -> str:
    """A row for each line, classifier and group."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "runs", "classifier", "fraction", "group", "accuracy", "low", "high", "sd_over_runs"])
    for line in lines:
        for classifier in _classifiers(grid) if line.records else ():
            parts = {"": line.right(classifier)} | {
                f"{kind} {group}": line.in_group(classifier, kind, group)
                for kind, names in line.records[0].groups.items()
                for group in names
            }
            for group, scores in parts.items():
                mean = mean_over_runs(scores)
                spread = (mean.interval.mean, mean.interval.low, mean.interval.high, mean.sd_over_runs)
                shown = ["" if value is None else f"{value:.5g}" for value in spread]
                writer.writerow([line.row, mean.runs, *classifier.split(), group, *shown])
    return stream.getvalue()


def _points(lines: Sequence[Line], classifier: str) -> list[Point]:
    points = []
    for line in lines:
        if line.records:
            scores = line.right(classifier)
            interval = mean_over_runs(scores).interval
            low = interval.mean if interval.low is None else interval.low
            high = interval.mean if interval.high is None else interval.high
            runs = tuple(float(values.mean()) for values in scores.values())
            points.append(Point(line.row, _title(classifier), interval.mean, low, high, runs))
    return points


def _require_alike(grid: ProbeGridSettings, records: dict[str, ProbeRecord]) -> None:
    first, expected = next(iter(records.items()))
    for name, record in records.items():
        if record.images_hash != expected.images_hash or record.groups != expected.groups:
            raise InputError(f"Records {name} and {first} hold other images, so they cannot be compared.")
        missing = [each for each in _classifiers(grid) if each not in record.hits]
        if missing:
            raise InputError(
                f"Record {name} has no {missing[0]!r}, which the grid asks for; delete it to run it again."
            )
    if grid.drop is not None:
        members = expected.members(grid.drop) if grid.drop in expected.groups else {}
        if len({int(chosen.sum()) for chosen in members.values()}) != 1 or len(members) != 2:
            raise InputError(
                f"drop {grid.drop}: needs two groups with the same images, but got "
                f"{ {name: int(chosen.sum()) for name, chosen in members.items()} or 'no groups' }."
            )
