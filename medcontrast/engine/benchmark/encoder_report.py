"""Tables and a picture of a grid of encoders, made from its records alone.

Letters: m units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.engine.benchmark import tables
from medcontrast.engine.benchmark.encoder_records import ProbeRecord
from medcontrast.engine.benchmark.tables import Figure, Line
from medcontrast.errors import InputError
from medcontrast.metrics.comparison import Scores
from medcontrast.metrics.probe import unit_means
from medcontrast.settings.grid import ProbeGridSettings, probe_cells

_ACCURACY, _LOST = "accuracy", "lost"


@dataclass(frozen=True)
class EncoderLine(Line[ProbeRecord]):
    """One row of the grid."""

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


def classifier_name(classifier: str, fraction: float) -> str:
    """Name of a classifier at a share of the labels, in a record."""
    return f"{classifier} {fraction:g}"


def write_probe_report(
    grid: ProbeGridSettings, records: dict[str, ProbeRecord], folder: Path, into: Path | None = None
) -> str:
    """Writes table.md, table.csv and picture.png beside the records; returns the Markdown.

    Args:
        grid: The settings.
        records: Name of the cell -> its record. Without any, all that is written is what has not been run.
        folder: Where the files go.
        into: A Markdown file with `<!-- benchmark NAME -->` and `<!-- end -->`; what stands between is replaced.

    Raises:
        InputError: Records hold other images, units or classifiers than each other, one of `groups` does not occur,
            `drop` has no two groups of the same units, or `into` has no such place.
    """
    if records:
        _require_alike(grid, records)
    wanted = tables.gathered(((cell.row, cell.name) for cell in probe_cells(grid)), records)
    lines = [EncoderLine(row, count, found) for row, (count, found) in wanted.items() if found]
    missing = tables.not_run({"": [row for row, (_, found) in wanted.items() if not found]})
    if not records:
        return tables.write_parts(grid, folder, into, [missing, grid.note])
    figures = {classifier: _figures(grid, lines, classifier) for classifier in _classifiers(grid)}
    parts = [f"**{_title(classifier)}**\n\n{_table(lines, each)}" for classifier, each in figures.items()]
    parts += [missing, _notes(grid, lines), grid.note]
    lead = _classifiers(grid)[0]
    marks, axis = tables.points(figures[lead][0], lines, _title(lead)), f"accuracy, {_title(lead)}"
    table = _csv(grid, lines, figures)
    return tables.write_tables(grid, folder, into, parts=parts, table=table, marks=marks, axis=axis)


def _classifiers(grid: ProbeGridSettings) -> list[str]:
    return [classifier_name(name, fraction) for name in grid.classifiers for fraction in grid.fractions]


def _title(classifier: str) -> str:
    name, fraction = classifier.split()
    kind = {"linear": "linear probe", "multilabel": "multi-label probe", "knn": "nearest neighbours"}[name]
    return f"{kind}, {100 * float(fraction):g} % of the labels"


def _figures(grid: ProbeGridSettings, lines: Sequence[EncoderLine], classifier: str) -> list[Figure]:
    """The accuracy over all images, that in every group, and what is lost where the grid asks for it."""
    scores = {_ACCURACY: [line.right(classifier) for line in lines]}
    for kind, names in lines[0].records[0].groups.items():
        for group in names:
            scores[f"{kind} {group}"] = [line.in_group(classifier, kind, group) for line in lines]
    if grid.drop is not None:
        scores[_LOST] = [line.lost(classifier, grid.drop) for line in lines]
    compared = [_ACCURACY, _LOST, *(f"{kind} {group}" for kind, names in grid.groups.items() for group in names)]
    return tables.figures(scores, [line.row for line in lines], tables.reference_rows(grid), compared)


def _table(lines: Sequence[EncoderLine], figures: Sequence[Figure]) -> str:
    lead, *others = figures
    columns = [
        *tables.row_columns(lines),
        tables.mean_column(lead),
        tables.spread_column(lead),
        *map(tables.mean_column, others),
        *tables.against_columns(lead),
        *(column for each in others for column in tables.against_columns(each, f"{each.name}, ")),
        *tables.cost_columns(lines, "student_parameters"),
    ]
    return tables.markdown_table(columns)


def _notes(grid: ProbeGridSettings, lines: Sequence[EncoderLine]) -> str:
    """What the tables mean, in sentences."""
    first = lines[0].records[0]
    units = len(np.unique(first.unit_numbers()))
    over_runs = tables.common_runs("Differences", [lines])
    parts = [
        f"{first.images} {first.facts['split']} images of {first.facts['manifest']} in {units} units, "
        f"{first.facts['classes']} classes. A unit is the images of one patient, or, where none is known, an "
        f"image by itself; images of a unit are not independent of each other. {_training(lines)} Accuracy is "
        "over units, each averaged over its images (of the group, where a column is of one) and over runs, with its "
        "95 % bootstrap interval over units (10,000 resamples); SD is that of the runs' accuracies."
        f"{tables.rounded_runs((line.row, line) for line in lines)} "
        f"{over_runs} Differences are paired by unit; p is Wilcoxon's signed-rank test over units, "
        "Holm-corrected over the rows of its column. Intervals over units do not cover the noise of pre-training; SD "
        "says how large it is."
    ]
    if "multilabel" in grid.classifiers:
        parts.append("By the multi-label probe an image is right where its labels are those with the highest scores.")
    if grid.drop is not None:
        parts.append(f"Lost: accuracy on the first {grid.drop} minus that on the second, paired by unit.")
    return " ".join([*parts, *tables.warnings((line.row, line) for line in lines)])


def _training(lines: Sequence[EncoderLine]) -> str:
    """Steps, rows and views of pre-training: once where all rows have the same, else row by row."""
    found = {}
    for line in lines:
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


def _csv(grid: ProbeGridSettings, lines: Sequence[EncoderLine], figures: dict[str, list[Figure]]) -> str:
    """A row for each line, classifier and figure; what it has no difference for stays empty."""
    references = tables.reference_rows(grid)
    compared = tables.against_heads(references)
    heads = ["row", "runs", "classifier", "fraction", "group", "accuracy", "low", "high", "sd_over_runs", *compared]
    rows = []
    for place, line in enumerate(lines):
        for classifier, each in figures.items():
            for figure in each:
                group = "" if figure.name == _ACCURACY else figure.name
                values = tables.against_values(figure, place, references)
                spread = tables.mean_values(figure.means[place])
                rows.append([line.row, len(line.records), *classifier.split(), group, *spread, *values])
    return tables.csv_table(heads, rows)


def _require_alike(grid: ProbeGridSettings, records: dict[str, ProbeRecord]) -> None:
    first, expected = next(iter(records.items()))
    _require_one_set_of_pixels(records)
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
    members = {kind: expected.members(kind) for kind in expected.groups}
    require_comparable(grid, members, expected.unit_numbers())


def _require_one_set_of_pixels(records: dict[str, ProbeRecord]) -> None:
    """Refuses images of one name that are not the same; early records know the names alone."""
    known = {name: record.pixels_hash for name, record in records.items() if record.pixels_hash is not None}
    for name, pixels in known.items():
        first = next(iter(known))
        if pixels != known[first] and records[name].images_hash == records[first].images_hash:
            raise InputError(
                f"Records {name} and {first} hold images of the same names with other pixels or targets, so they "
                "cannot be compared; delete those of images that were replaced to run them again."
            )


Members = Mapping[str, Mapping[str, NDArray[np.bool_]]]
"""Kind of group -> group -> (n,) which scored images belong to it."""


def require_comparable(grid: ProbeGridSettings, members: Members, units: NDArray[np.int64]) -> None:
    """Refuses images without the groups that the grid's columns are of.

    Args:
        grid: Its groups, and what it takes the drop between.
        members: Of the scored images.
        units: (n,) the unit of each.

    Raises:
        InputError: A group without images, or two whose differences cannot be paired by unit.
    """
    _require_groups(grid, members)
    if grid.drop is not None:
        _require_pairs(grid.drop, members.get(grid.drop, {}), units)


def _require_groups(grid: ProbeGridSettings, members: Members) -> None:
    for kind, names in grid.groups.items():
        there = members.get(kind, {})
        absent = [name for name in names if name not in there]
        if absent:
            known = f"there are {', '.join(there)}" if there else f"they do not differ by {kind}"
            raise InputError(f"groups: no scored image is of {kind} {absent[0]!r}; {known}.")


def _require_pairs(kind: str, members: Mapping[str, NDArray[np.bool_]], numbers: NDArray[np.int64]) -> None:
    units = [set(numbers[chosen].tolist()) for chosen in members.values()]
    if len(units) != 2 or units[0] != units[1]:
        sizes = {name: int(chosen.sum()) for name, chosen in members.items()}
        raise InputError(
            f"drop {kind}: needs two groups with images of the same units, but got {sizes or 'no groups'}; both "
            "versions of an image need one `patient` in the manifest."
        )
