"""Tables and a picture of a grid of encoders, made from its records alone.

Letters: m units.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medcontrast.engine.benchmark_report import difference_cell, replace_part
from medcontrast.engine.probe_records import ProbeRecord
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.metrics.comparison import Difference, Mean, Scores, differences, holm, means_over_runs
from medcontrast.metrics.probe import unit_means
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
        """Run -> (m,) share of each unit's images in which the classifier is right."""
        return {record.run: unit_means(record.right(classifier), record.unit_numbers()) for record in self.records}

    def in_group(self, classifier: str, kind: str, group: str) -> Scores:
        """Run -> the same over the images of one group, of the units that have any."""
        found = {}
        for record in self.records:
            chosen = record.members(kind)[group]
            found[record.run] = unit_means(record.right(classifier)[chosen], record.unit_numbers()[chosen])
        return found

    def lost(self, classifier: str, kind: str) -> Scores:
        """Run -> (m,) a unit's share in the first group minus that in the second, groups in order of name."""
        first, second = sorted(self.records[0].groups[kind])
        before, after = (self.in_group(classifier, kind, group) for group in (first, second))
        return {run: before[run] - after[run] for run in before}


class Against(NamedTuple):
    """A difference to a reference row, and its p corrected over the rows of the table."""

    difference: Difference
    p: float


@dataclass(frozen=True)
class Column:
    """One figure of every line by one classifier.

    Attributes:
        name: "" for the accuracy over all images, else a group such as "quality high", or "lost".
        means: Of every line; None where it has no record.
        against: Reference row -> every line's difference to it, None where there is none; empty for a figure that is
            shown without its interval.
    """

    name: str
    means: list[Mean | None]
    against: dict[str, list[Against | None]]


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
        InputError: Records hold other images, units or classifiers than each other, one of `groups` does not occur,
            `drop` has no two groups of the same units, or `into` has no such place.
    """
    _require_alike(grid, records)
    wanted: dict[str, list[str]] = {}
    for cell in probe_cells(grid):
        wanted.setdefault(cell.row, []).append(cell.name)
    lines = [
        Line(row, len(names), tuple(records[name] for name in names if name in records))
        for row, names in wanted.items()
    ]
    figures = {classifier: _columns(grid, lines, classifier) for classifier in _classifiers(grid)}
    tables = [f"**{_title(classifier)}**\n\n{_table(lines, columns)}" for classifier, columns in figures.items()]
    text = "\n\n".join([*tables, _notes(grid, lines), *([grid.note] if grid.note else [])])
    write_text(folder / "table.md", f"# {grid.title}\n\n{text}\n")
    write_text(folder / "table.csv", _csv(lines, figures))
    lead = _classifiers(grid)[0]
    points = _points(lines, figures[lead][0], lead)
    points_png(folder / "picture.png", points, title=grid.title, axis=f"accuracy, {_title(lead)}")
    if into is not None:
        replace_part(into, grid.name, text)
    return text


def _classifiers(grid: ProbeGridSettings) -> list[str]:
    return [classifier_name(name, fraction) for name in grid.classifiers for fraction in grid.fractions]


def _title(classifier: str) -> str:
    name, fraction = classifier.split()
    kind = {"linear": "linear probe", "knn": "nearest neighbours"}[name]
    return f"{kind}, {100 * float(fraction):g} % of the labels"


def _columns(grid: ProbeGridSettings, lines: Sequence[Line], classifier: str) -> list[Column]:
    """The accuracy over all images, that in every group, and what is lost where the grid asks for it."""
    scores = _scores(grid, lines, classifier)
    places = {line.row: place for place, line in enumerate(lines)}
    references = {name: places[name] for name in (grid.baseline, grid.default) if name}
    compared = {"", "lost", *(f"{kind} {group}" for kind, names in grid.groups.items() for group in names)}
    pairs = [
        ({} if place == base else each, values[base])
        for name, values in scores.items()
        if name in compared
        for base in references.values()
        for place, each in enumerate(values)
    ]
    # all at once: each resampling of thousands of units takes seconds
    means = iter(means_over_runs([each for values in scores.values() for each in values if each]))
    changes = iter(differences(pairs))
    found = []
    for name, values in scores.items():
        own = [next(means) if each else None for each in values]
        asked = references if name in compared else ()
        found.append(Column(name, own, {row: _corrected([next(changes) for _ in lines]) for row in asked}))
    return found


def _scores(grid: ProbeGridSettings, lines: Sequence[Line], classifier: str) -> dict[str, list[Scores]]:
    """Name of a column -> the scores of every line, empty where it has no record."""
    found = {"": [line.right(classifier) for line in lines]}
    for kind, names in _first(lines).groups.items():
        for group in names:
            found[f"{kind} {group}"] = [line.in_group(classifier, kind, group) for line in lines]
    if grid.drop is not None:
        found["lost"] = [line.lost(classifier, grid.drop) if line.records else {} for line in lines]
    return found


def _corrected(found: Sequence[Difference | None]) -> list[Against | None]:
    """Differences of one column with p corrected over the lines that have one."""
    corrected = iter(holm([each.p for each in found if each is not None]))
    return [None if each is None else Against(each, next(corrected)) for each in found]


def _first(lines: Sequence[Line]) -> ProbeRecord:
    return next(line for line in lines if line.records).records[0]


def _notes(grid: ProbeGridSettings, lines: Sequence[Line]) -> str:
    """What the tables mean, in sentences."""
    first = _first(lines)
    units = len(np.unique(first.unit_numbers()))
    lost = f" Lost: accuracy on the first {grid.drop} minus that on the second, paired by unit."
    return (
        f"{first.images} {first.facts['split']} images of {first.facts['manifest']} in {units} units, "
        f"{first.facts['classes']} classes. A unit is the images of one patient, or, where none is known, a source "
        f"image with what was made of it; its images are not independent of each other. {_training(lines)} Accuracy is "
        "over units, each averaged over its images (of the group, where a column is of one) and over runs, with its "
        "95 % bootstrap interval over units (10,000 resamples); SD is that of the runs' accuracies. Differences are "
        "paired by unit over the runs that both rows have; p is Wilcoxon's signed-rank test over units, "
        "Holm-corrected over the rows of the table. Intervals over units do not cover the noise of pre-training; SD "
        "says how large it is."
    ) + ("" if grid.drop is None else lost)


def _training(lines: Sequence[Line]) -> str:
    """Steps, rows and views of pre-training: once where all rows have the same, else row by row."""
    found = {}
    for line in lines:
        if line.records:
            record = line.records[0]
            recipe: dict[str, Any] = record.recipe
            # a recipe has the views that its method asks for, no more and no fewer
            found[line.row] = record.facts["step"], recipe["train"]["rows"], len(recipe["augment"]["views"])
    if len(set(found.values())) == 1:
        steps, rows, views = next(iter(found.values()))
        return f"Encoders are frozen after {steps} steps of {rows} rows, {views} views of each."
    each = "; ".join(f"{row} {' x '.join(map(str, sizes))}" for row, sizes in found.items())
    return (
        f"Encoders are frozen after unequal training, in steps x rows a step x views of a row: {each}. A view is an "
        "image that goes through student, momentum encoder or both: the product says how many pre-training looked at."
    )


def _table(lines: Sequence[Line], columns: Sequence[Column]) -> str:
    heads = ["row", "runs", "accuracy", "SD over runs", *(column.name for column in columns[1:])]
    for column in columns:
        heads += [f"{column.name}, against {name}" if column.name else f"against {name}" for name in column.against]
    heads += ["parameters", "hours"]
    table = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for place, line in enumerate(lines):
        cells = _cells(line, columns, place) if line.records else []
        filled = cells or [line.row, f"0 of {line.wanted}", *["-"] * (len(heads) - 2)]
        table.append(f"| {' | '.join(filled)} |")
    return "\n".join(table)


def _cells(line: Line, columns: Sequence[Column], place: int) -> list[str]:
    whole, *others = [_mean_cell(column, place) for column in columns]
    spread = columns[0].means[place]
    compared = [differences[place] for column in columns for differences in column.against.values()]
    seconds = float(np.mean([record.facts["train_seconds"] for record in line.records]))
    return [
        line.row,
        f"{len(line.records)} of {line.wanted}" if len(line.records) < line.wanted else str(line.wanted),
        whole,
        "-" if spread is None or spread.sd_over_runs is None else f"{spread.sd_over_runs:.4f}",
        *others,
        *("-" if each is None else difference_cell(each.difference, each.p) for each in compared),
        f"{line.records[0].facts['student_parameters'] / 1e6:.2f} M",
        f"{seconds / 3600:.2f}",
    ]


def _mean_cell(column: Column, place: int) -> str:
    mean = column.means[place]
    if mean is None:
        return "-"
    low, high = mean.interval.low, mean.interval.high
    shown = bool(column.against) and low is not None
    return f"{mean.interval.mean:.4f}" + (f" ({low:.4f} to {high:.4f})" if shown else "")


def _csv(lines: Sequence[Line], figures: dict[str, list[Column]]) -> str:
    """A row for each line, classifier and figure; what it has no difference for stays empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    references = next(iter(figures.values()))[0].against
    compared = [f"against_{name}{part}" for name in references for part in ("", "_low", "_high", "_p")]
    spread = ["accuracy", "low", "high", "sd_over_runs"]
    writer.writerow(["row", "runs", "classifier", "fraction", "group", *spread, *compared])
    for place, line in enumerate(lines):
        for classifier, columns in figures.items() if line.records else ():
            for column in columns:
                values = _values(column, place, references)
                shown = ["" if value is None else f"{value:.5g}" for value in values]
                writer.writerow([line.row, len(line.records), *classifier.split(), column.name, *shown])
    return stream.getvalue()


def _values(column: Column, place: int, references: Iterable[str]) -> list[float | None]:
    """Mean, interval and SD of one line, then difference, interval and p for each reference row."""
    mean = column.means[place]
    assert mean is not None
    found = [mean.interval.mean, mean.interval.low, mean.interval.high, mean.sd_over_runs]
    for name in references:
        each = column.against[name][place] if column.against else None
        if each is None:
            found += [None] * 4
        else:
            change = each.difference.interval
            found += [change.mean, change.low, change.high, each.p]
    return found


def _points(lines: Sequence[Line], column: Column, classifier: str) -> list[Point]:
    points = []
    for line, mean in zip(lines, column.means, strict=True):
        if mean is not None:
            interval = mean.interval
            low = interval.mean if interval.low is None else interval.low
            high = interval.mean if interval.high is None else interval.high
            runs = tuple(float(values.mean()) for values in line.right(classifier).values())
            points.append(Point(line.row, _title(classifier), interval.mean, low, high, runs))
    return points


def _require_alike(grid: ProbeGridSettings, records: dict[str, ProbeRecord]) -> None:
    first, expected = next(iter(records.items()))
    for name, record in records.items():
        if record.images_hash != expected.images_hash or record.groups != expected.groups:
            raise InputError(f"Records {name} and {first} hold other images, so they cannot be compared.")
        if record.units != expected.units:
            raise InputError(
                f"Records {name} and {first} take other images for one unit, so they cannot be compared; give their "
                "manifests the same patients, and delete the records to score their runs again."
            )
        missing = [each for each in _classifiers(grid) if each not in record.hits]
        if missing:
            raise InputError(
                f"Record {name} has no {missing[0]!r}, which the grid asks for; delete it to run it again."
            )
    _require_groups(grid, expected)
    if grid.drop is not None:
        _require_pairs(grid.drop, expected)


def _require_groups(grid: ProbeGridSettings, record: ProbeRecord) -> None:
    for kind, names in grid.groups.items():
        there = record.groups.get(kind, {})
        absent = [name for name in names if name not in there]
        if absent:
            known = f"there are {', '.join(there)}" if there else f"they do not differ by {kind}"
            raise InputError(f"groups: no scored image is of {kind} {absent[0]!r}; {known}.")


def _require_pairs(kind: str, record: ProbeRecord) -> None:
    """Refuses two groups whose differences cannot be paired by unit."""
    members = record.members(kind) if kind in record.groups else {}
    units = [set(record.unit_numbers()[chosen].tolist()) for chosen in members.values()]
    if len(units) != 2 or units[0] != units[1]:
        sizes = {name: int(chosen.sum()) for name, chosen in members.items()}
        raise InputError(
            f"drop {kind}: needs two groups with images of the same units, but got {sizes or 'no groups'}; both "
            "versions of an image need one `patient` in the manifest."
        )
