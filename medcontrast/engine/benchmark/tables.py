"""What the tables of every benchmark share: rows and their runs, means and differences, Markdown, CSV, picture.

A row that has no run yet stands in no table; one sentence names those.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from medcontrast.engine.benchmark.encoder_records import ProbeRecord
from medcontrast.engine.benchmark.records import Record
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.metrics.bootstrap import Units
from medcontrast.metrics.comparison import Difference, Mean, Scores, differences, holm, means_over_runs, p_words
from medcontrast.render import Point, points_png
from medcontrast.settings.grid import AnyGrid

AnyRecord = TypeVar("AnyRecord", Record, ProbeRecord)
Key = TypeVar("Key")
Column = tuple[str, list[str]]
"""Its head and what stands in each row; "-" for nothing."""


@dataclass(frozen=True)
class Line(Generic[AnyRecord]):
    """One row of a table.

    Attributes:
        row: Its name.
        wanted: How many runs the grid has.
        records: The finished ones, in order of their number.
    """

    row: str
    wanted: int
    records: tuple[AnyRecord, ...]

    @property
    def runs(self) -> tuple[int, ...]:
        """Numbers of the finished ones."""
        return tuple(record.run for record in self.records)


class Against(NamedTuple):
    """A difference to a reference row, its p corrected over the rows of the table, and `partial_runs` of the two."""

    difference: Difference
    p: float
    partial: tuple[int, ...]


@dataclass(frozen=True)
class Figure:
    """One figure of every row of a table.

    Attributes:
        name: Of its column.
        scores: Every row's.
        means: Every row's.
        compared: Whether it is shown with its interval and compared with the reference rows.
        against: Reference row -> every row's difference to it, None where they have no common run.
    """

    name: str
    scores: list[Scores]
    means: list[Mean]
    compared: bool
    against: dict[str, list[Against | None]]


def reference_rows(grid: AnyGrid) -> list[str]:
    """Names of the rows that the others are compared with."""
    return [name for name in dict.fromkeys((grid.baseline, grid.default)) if name is not None]


def gathered(
    names: Iterable[tuple[Key, str]], records: Mapping[str, AnyRecord]
) -> dict[Key, tuple[int, tuple[AnyRecord, ...]]]:
    """Row -> how many cells it has, and the records of the finished ones in order of their run.

    Args:
        names: Row and name of every cell.
        records: Name of a finished cell -> its record.
    """
    found: dict[Key, list[AnyRecord | None]] = {}
    for key, name in names:
        found.setdefault(key, []).append(records.get(name))
    return {
        key: (len(each), tuple(sorted((one for one in each if one is not None), key=lambda one: one.run)))
        for key, each in found.items()
    }


def figures(
    scores: Mapping[str, list[Scores]],
    rows: Sequence[str],
    references: Sequence[str],
    compared: Collection[str],
    units: Units = None,
) -> list[Figure]:
    """Means and differences of many figures, all at once: each resampling of thousands of units takes seconds.

    Args:
        scores: Name of a figure -> the scores of every row, none of them empty.
        rows: Names of the rows.
        references: Names of those that the others are compared with, as far as they are among the rows.
        compared: Names of the figures that are compared.
        units: Of every score its patient, where some have several.
    """
    bases = {name: rows.index(name) for name in references if name in rows}
    pairs = [
        ({} if place == base else own, each[base])
        for name, each in scores.items()
        if name in compared
        for base in bases.values()
        for place, own in enumerate(each)
    ]
    means = iter(means_over_runs([own for each in scores.values() for own in each], units))
    changes = iter(zip(differences(pairs, units), pairs, strict=True))
    return [
        Figure(
            name,
            each,
            [next(means) for _ in rows],
            name in compared,
            {row: _corrected([next(changes) for _ in rows]) for row in bases} if name in compared else {},
        )
        for name, each in scores.items()
    ]


def _corrected(found: Sequence[tuple[Difference | None, tuple[Scores, Scores]]]) -> list[Against | None]:
    """Differences of one column, with p corrected over the rows that have one."""
    corrected = iter(holm([each.p for each, _ in found if each is not None]))
    return [None if each is None else Against(each, next(corrected), partial_runs(*pair)) for each, pair in found]


def partial_runs(first: Scores, second: Scores) -> tuple[int, ...]:
    """The runs that both rows have, where one of them has more; else nothing."""
    return tuple(sorted(set(first) & set(second))) if set(first) != set(second) else ()


def common_runs(compared: str, tables: Collection[Sequence[Line[Any]]]) -> str:
    """Sentences of the note: which runs stand behind what compares two rows."""
    said = f"{compared} are over the runs that both rows have; a cell names them where one of the two has more."
    if any(len(line.runs) > 1 for lines in tables for line in lines):
        said += " By run: the mean difference in each; intervals and p know nothing of how far another run moves it."
    if all(len({line.runs for line in lines}) == 1 for lines in tables):
        return said
    return (
        f"{said} Rows with different runs have means of different runs: compare them by the columns 'against', which "
        "use common runs only."
    )


def rounded_runs(lines: Iterable[tuple[str, Line[Any]]]) -> str:
    """A sentence of the note, a space before it: cells trained on a CPU without bfloat16; nothing where there is none.

    Args:
        lines: Name of a cell but for its run, and the line that it is part of.
    """
    cells = [
        f"{name}-{record.run}"
        for name, line in lines
        for record in line.records
        if record.facts.get("bfloat16_rounded")
    ]
    said = " Computed in float32 and rounded to bfloat16, as docs/protocol.md says: "
    return f"{said}{', '.join(cells)}." if cells else ""


def warnings(lines: Iterable[tuple[str, Line[Any]]]) -> list[str]:
    """What made figures doubtful, as sentences of the note: each once, with its rows where not all have it.

    Args:
        lines: Name of each line, and the line.
    """
    lines, rows = list(lines), dict[str, list[str]]()
    for name, line in lines:
        for warning in dict.fromkeys(each for record in line.records for each in record.facts.get("warnings", ())):
            rows.setdefault(warning, []).append(name)
    named = {warning: "" if len(of) == len(lines) else f" of {', '.join(of)}" for warning, of in rows.items()}
    return [f"Warning{of}: {warning}" for warning, of in named.items()]


def over(partial: Sequence[int]) -> str:
    """How a cell says that it is over some of the runs alone: ", over run 0"."""
    return f", over run{'s' if len(partial) > 1 else ''} {_listed([str(run) for run in partial])}" if partial else ""


def not_run(rows: Mapping[str, Sequence[str]]) -> str:
    """One sentence, or nothing; rows without a run by the words that follow them, such as " with 8 labels"."""
    parts = [f"{_listed(names)}{words}" for words, names in rows.items() if names]
    return f"Not run yet: {'; '.join(parts)}." if parts else ""


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def row_columns(lines: Sequence[Line[Any]]) -> list[Column]:
    """Names of the rows and how many of their runs are finished."""
    missing = [f" of {line.wanted}" if len(line.runs) < line.wanted else "" for line in lines]
    runs = [f"{len(line.runs)}{part}" for line, part in zip(lines, missing, strict=True)]
    return [("row", [line.row for line in lines]), ("runs", runs)]


def mean_column(figure: Figure, decimals: int = 4) -> Column:
    """Every row's mean, with its interval where the figure is compared."""
    found = []
    for mean in figure.means:
        each = mean.interval
        shown = figure.compared and each.low is not None and each.high is not None
        spread = f" ({each.low:.{decimals}f} to {each.high:.{decimals}f})" if shown else ""
        found.append(f"{each.mean:.{decimals}f}{spread}")
    return figure.name, found


def spread_column(figure: Figure) -> Column:
    """Standard deviation of the means of every row's runs."""
    found = [mean.sd_over_runs for mean in figure.means]
    return "SD over runs", ["-" if spread is None else f"{spread:.4f}" for spread in found]


def against_columns(figure: Figure, prefix: str = "") -> list[Column]:
    """A column for each reference row: mean, interval and corrected p of the difference, and that of every run.

    Which runs, if not all.
    """
    return [
        (f"{prefix}against {row}", ["-" if each is None else _against_cell(each) for each in found])
        for row, found in figure.against.items()
    ]


def _against_cell(each: Against) -> str:
    interval = each.difference.interval
    spread = "" if interval.low is None else f" ({interval.low:+.4f} to {interval.high:+.4f})"
    several = len(each.difference.by_run) > 1
    runs = f"; by run {', '.join(f'{mean:+.4f}' for mean in each.difference.by_run)}" if several else ""
    return f"{interval.mean:+.4f}{spread}, {p_words(each.p)}{over(each.partial)}{runs}"


def against_heads(references: Sequence[str]) -> list[str]:
    """Heads of what `against_values` gives, for a CSV."""
    return [f"against_{name}{part}" for name in references for part in ("", "_low", "_high", "_p")]


def against_values(figure: Figure | None, place: int, references: Sequence[str]) -> list[float | None]:
    """Difference, interval and corrected p of one row to each reference row, for a CSV; None where there is none."""
    found: list[float | None] = []
    for name in references:
        against = {} if figure is None else figure.against
        each = against[name][place] if name in against else None
        interval = None if each is None else each.difference.interval
        found += (
            [None] * 4 if each is None or interval is None else [interval.mean, interval.low, interval.high, each.p]
        )
    return found


def mean_values(mean: Mean) -> list[float | None]:
    """Mean, interval and SD over runs of one row, for a CSV."""
    return [mean.interval.mean, mean.interval.low, mean.interval.high, mean.sd_over_runs]


def cost_columns(lines: Sequence[Line[Any]], parameters: str) -> list[Column]:
    """Parameters, a fact of the records by its name, and hours of training."""
    found = [costs(line, parameters) for line in lines]
    return [
        ("parameters", [f"{size / 1e6:.2f} M" for size, _ in found]),
        ("hours", [f"{seconds / 3600:.2f}" for _, seconds in found]),
    ]


def costs(line: Line[Any], parameters: str) -> tuple[int, float]:
    """Parameters, a fact of the records by its name, and seconds of training, a mean over the runs."""
    seconds = [record.facts["train_seconds"] for record in line.records]
    return line.records[0].facts[parameters], float(np.mean(seconds))


def markdown_table(columns: Sequence[Column]) -> str:
    """The table, without columns in which no row has anything."""
    heads, cells = zip(*(column for column in columns if set(column[1]) != {"-"}), strict=True)
    rows = [f"| {' | '.join(row)} |" for row in (heads, *zip(*cells, strict=True))]
    return "\n".join([rows[0], f"|{'---|' * len(heads)}", *rows[1:]])


def csv_table(heads: Sequence[str], rows: Iterable[Sequence[str | int | float | None]]) -> str:
    """Comma-separated values, numbers with five digits, None empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([f"{value:.5g}" if isinstance(value, float) else value for value in row] for row in rows)
    return stream.getvalue()


def points(figure: Figure, lines: Sequence[Line[Any]], group: str) -> list[Point]:
    """A mark of the picture for every row."""
    found = []
    for line, scores, mean in zip(lines, figure.scores, figure.means, strict=True):
        each = mean.interval
        low, high = (each.mean if bound is None else bound for bound in (each.low, each.high))
        runs = tuple(float(values.mean()) for values in scores.values())
        found.append(Point(line.row, group, each.mean, low, high, runs))
    return found


def write_tables(
    grid: AnyGrid,
    folder: Path,
    into: Path | None,
    *,
    parts: Sequence[str],
    table: str,
    marks: Sequence[Point],
    axis: str,
) -> str:
    """Writes table.md, table.csv and picture.png; returns the Markdown.

    Args:
        grid: Its title stands above, its name finds the place in `into`.
        folder: Where the files go.
        into: A Markdown file with `<!-- benchmark NAME -->` and `<!-- end -->`; what stands between is replaced.
        parts: Of the Markdown; empty ones are left out.
        table: CSV.
        marks: Of the picture.
        axis: Below the picture.

    Raises:
        InputError: `into` has no such place.
    """
    write_text(folder / "table.csv", table)
    points_png(folder / "picture.png", marks, title=grid.title, axis=axis)
    return write_parts(grid, folder, into, parts)


def write_parts(grid: AnyGrid, folder: Path, into: Path | None, parts: Sequence[str]) -> str:
    """Writes the Markdown alone, as `write_tables` does: all that there is of a grid without a record.

    Raises:
        InputError: `into` has no such place.
    """
    text = "\n\n".join(part for part in parts if part)
    write_text(folder / "table.md", f"# {grid.title}\n\n{text}\n")
    if into is not None:
        before, after = around_table(into, grid.name)
        write_text(into, f"{before}\n\n{text}\n\n{after}")
    return text


def around_table(path: Path, name: str) -> tuple[str, str]:
    """What stands before and after the place of a grid's table in a Markdown file, its marks included.

    Raises:
        InputError: The file cannot be read, or has no such place.
    """
    begin, end = f"<!-- benchmark {name} -->", "<!-- end -->"
    try:
        before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from None
    _, found, after = rest.partition(end)
    if not found:
        raise InputError(f"{path}: has no place for the table; put the lines {begin} and {end} where it belongs.")
    return before + begin, end + after
