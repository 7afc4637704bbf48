"""Tables and a picture of a grid, made from its records alone; gaps of an unfinished grid stay visible."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcontrast.engine.records import Record, load_peer_records
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.metrics.comparison import Difference, Mean, Scores, difference, holm, mean_over_runs
from medcontrast.metrics.definitions import DEFINITIONS
from medcontrast.render import Point, points_png
from medcontrast.settings.grid import GridSettings, cells

_CONDITIONS = {
    "network": ("recipe", "network", "name"),
    "overlap of windows": ("recipe", "inference", "overlap"),
    "their weights": ("recipe", "inference", "weighting"),
    "mirrored versions averaged": ("recipe", "inference", "flips"),
    "largest component kept": ("recipe", "inference", "largest_component"),
    "PyTorch": ("facts", "versions", "torch"),
    "device": ("facts", "device"),
    "precision": ("facts", "precision"),
}
"""What masks depend on beside the method -> where a record says it."""

_FIGURES = ("dice", "hd95_pooled_mm", "assd_mm", "surface_dice", "volume_error_ml")


@dataclass(frozen=True)
class Line:
    """One row of the grid at one labeled count.

    Attributes:
        row: Name of the row; "(peer)" follows that of another toolkit.
        labeled: Labeled count, or "all".
        wanted: How many runs the grid has; of a peer, how many there are.
        records: The finished ones, in order of their number.
        structures: Targets in which a miss counts; None for all.
    """

    row: str
    labeled: int | str
    wanted: int
    records: tuple[Record, ...]
    structures: Sequence[str] | None = None

    @property
    def missed(self) -> int:
        """Structures, over all cases and runs, that are there and were not found."""
        return sum(
            int(sum(figures["missed"]))
            for record in self.records
            for target, figures in record.scores.items()
            if self.structures is None or target in self.structures
        )

    @property
    def peer(self) -> dict[str, Any] | None:
        """Name and version of the other toolkit; None for a row of the grid."""
        return self.records[0].facts.get("peer") if self.records else None

    def scores(self, target: str, metric: str) -> Scores:
        """Run -> the score of every case, the cases in order of name."""
        found = {}
        for record in self.records:
            order = np.argsort(record.cases)
            found[record.run] = np.asarray(record.scores[target][metric], np.float64)[order]
        return found


def write_report(
    grid: GridSettings,
    records: dict[str, Record],
    folder: Path,
    into: Path | None = None,
    *,
    structures: Sequence[str] | None = None,
) -> str:
    """Writes table.md, table.csv and picture.png beside the records; returns the Markdown.

    Args:
        grid: The settings.
        records: Name of the cell -> its record, at least one.
        folder: Where the files go; its folder `peers` may hold records of other toolkits on the same cases.
        into: A Markdown file with `<!-- benchmark NAME -->` and `<!-- end -->`; what stands between is replaced.
        structures: Targets in which a miss counts: the labels, without the regions that are made of them. Default: all.

    Raises:
        InputError: Records hold other cases than each other or another target than the grid's, or `into` has no such
            place.
    """
    peers = load_peer_records(folder)
    _require_alike(grid, {**records, **peers})
    lines = [*_lines(grid, records, structures), *_peer_lines(peers, structures)]
    text = markdown(grid, lines)
    write_text(folder / "table.md", f"# {grid.title}\n\n{text}\n")
    write_text(folder / "table.csv", _csv(lines))
    points_png(folder / "picture.png", _points(grid, lines), title=grid.title, axis=f"Dice, {grid.target}")
    if into is not None:
        replace_part(into, grid.name, text)
    return text


def markdown(grid: GridSettings, lines: Sequence[Line]) -> str:
    """The tables of every labeled count, and what they mean."""
    counts = list(dict.fromkeys(line.labeled for line in lines))
    full = _full(grid, lines)
    parts = [_count_table(grid, [line for line in lines if line.labeled == count], count, full) for count in counts]
    first = next(line for line in lines if line.records).records[0]
    notes = (
        f"{len(first.cases)} {first.facts['split']} cases, last checkpoint, {first.facts['step']} steps. Means are "
        "over cases, each averaged over its runs, with 95 % bootstrap intervals over cases (10,000 resamples); SD is "
        "that of the runs' means. Differences are paired by case over the runs that both rows have (run k: seed k, "
        "labeled subset k); p is Wilcoxon's signed-rank test, Holm-corrected over the rows of the table. Missed: "
        "structures, summed over cases and runs, that are there and were not found; Dice 0, distance the image's "
        "diagonal. HD95 pooled: the 95th percentile of the distances of both directions together. Distances in mm. "
        f"{_conditions(lines)} Hours are wall time of training; compare them only on one machine."
    )
    return "\n\n".join([*parts, notes, *([grid.note] if grid.note else []), *_peer_notes(lines)])


def _conditions(lines: Sequence[Line]) -> str:
    """What masks came to be by, from recipes and facts of the records; where rows differ, each value with its rows."""
    parts = []
    for words, place in _CONDITIONS.items():
        found: dict[str, list[str]] = {}
        for line in lines:
            for record in line.records if line.peer is None else ():
                rows = found.setdefault(_said(record, place), [])
                rows += [line.row] if line.row not in rows else []
        values = list(found) if len(found) == 1 else [f"{value} ({', '.join(rows)})" for value, rows in found.items()]
        parts.append(f"{words} {', '.join(values)}")
    return f"Conditions: {'; '.join(parts)}."


def _said(record: Record, place: Sequence[str]) -> str:
    part, *keys = place
    value: Any = getattr(record, part)
    for key in keys:
        value = value[key]
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _lines(grid: GridSettings, records: dict[str, Record], structures: Sequence[str] | None) -> list[Line]:
    wanted: dict[tuple[str, int | str], list[str]] = {}
    for cell in cells(grid):
        wanted.setdefault((cell.row, cell.labeled), []).append(cell.name)
    return [
        Line(row, labeled, len(names), tuple(records[name] for name in names if name in records), structures)
        for (row, labeled), names in wanted.items()
    ]


def _peer_lines(peers: dict[str, Record], structures: Sequence[str] | None) -> list[Line]:
    found: dict[tuple[str, int | str], list[Record]] = {}
    for record in peers.values():
        found.setdefault((f"{record.row} (peer)", record.labeled), []).append(record)
    return [
        Line(row, labeled, len(records), tuple(sorted(records, key=lambda record: record.run)), structures)
        for (row, labeled), records in found.items()
    ]


def _peer_notes(lines: Sequence[Line]) -> list[str]:
    """One paragraph: which toolkit stands behind each row of a peer, its steps, and what its record says of it."""
    said = []
    for line in lines:
        if line.peer is not None:
            facts = line.records[0].facts
            words = [f"{line.peer['name']} {line.peer['version']}, {facts['step']} steps", *facts.get("notes", ())]
            said.append(f"{line.row}: {'; '.join(words)}.")
    lead = "Peers are other toolkits on the same cases, their masks scored by the same evaluation."
    return [" ".join([lead, *dict.fromkeys(said)])] if said else []


def _full(grid: GridSettings, lines: Sequence[Line]) -> float | None:
    """Mean Dice with all cases labeled, where that was run."""
    line = next((line for line in lines if line.labeled == "all" and line.records and not line.peer), None)
    return None if line is None else mean_over_runs(line.scores(grid.target, "dice")).interval.mean


def _count_table(grid: GridSettings, lines: Sequence[Line], count: int | str, full: float | None) -> str:
    targets = list(next((line.records[0].scores for line in lines if line.records), {grid.target: {}}))
    others = [target for target in targets if target != grid.target]
    references = [name for name in dict.fromkeys((grid.baseline, grid.default)) if name in {line.row for line in lines}]
    heads = [
        "row",
        "runs",
        f"Dice {grid.target}",
        "SD over runs",
        "of full supervision",
        *[f"Dice {target}" for target in others],
        "HD95 pooled",
        "ASSD",
        "volume error, ml",
        "missed",
        *[f"against {name}" for name in references if name],
        "parameters",
        "hours",
    ]
    compared = [_compared(grid, lines, name) for name in references if name]
    table = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for place, line in enumerate(lines):
        cells_ = _cells(grid, line, others, [column[place] for column in compared], full) if line.records else None
        filled = cells_ or [line.row, f"0 of {line.wanted}", *["-"] * (len(heads) - 2)]
        table.append(f"| {' | '.join(filled)} |")
    labels = "all cases labeled" if count == "all" else f"{count} labeled"
    return f"**{labels}**\n\n" + "\n".join(table)


def _cells(
    grid: GridSettings, line: Line, others: Sequence[str], compared: Sequence[str], full: float | None
) -> list[str]:
    lead = mean_over_runs(line.scores(grid.target, "dice"))
    seconds = float(np.mean([record.facts["train_seconds"] for record in line.records]))
    return [
        line.row,
        f"{len(line.records)} of {line.wanted}" if len(line.records) < line.wanted else str(line.wanted),
        _mean(lead, "dice"),
        "-" if lead.sd_over_runs is None else f"{lead.sd_over_runs:.4f}",
        "-" if not full else f"{100 * lead.interval.mean / full:.1f} %",
        *[_mean(mean_over_runs(line.scores(target, "dice")), "dice", interval=False) for target in others],
        *[
            _mean(mean_over_runs(line.scores(grid.target, metric)), metric, interval=False)
            for metric in ("hd95_pooled_mm", "assd_mm", "volume_error_ml")
        ],
        str(line.missed),
        *compared,
        f"{line.records[0].facts['trained_parameters'] / 1e6:.2f} M",
        f"{seconds / 3600:.2f}",
    ]


def _mean(mean: Mean, metric: str, *, interval: bool = True) -> str:
    digits = DEFINITIONS[metric].decimals
    text = f"{mean.interval.mean:.{digits}f}"
    if interval and mean.interval.low is not None and mean.interval.high is not None:
        text += f" ({mean.interval.low:.{digits}f} to {mean.interval.high:.{digits}f})"
    return text


def _compared(grid: GridSettings, lines: Sequence[Line], reference: str) -> list[str]:
    """A cell a line: its difference to the reference row, with p corrected over the lines that have one."""
    base = next(line for line in lines if line.row == reference)
    found: list[Difference | None] = []
    for line in lines:
        both = line.records and base.records and line.row != reference
        scores = (line.scores(grid.target, "dice"), base.scores(grid.target, "dice")) if both else None
        found.append(difference(*scores) if scores else None)
    corrected = iter(holm([each.p for each in found if each is not None]))
    return ["-" if each is None else difference_cell(each, next(corrected)) for each in found]


def difference_cell(each: Difference, p: float) -> str:
    """Mean, interval and corrected p of a difference."""
    interval = each.interval
    spread = "" if interval.low is None else f" ({interval.low:+.4f} to {interval.high:+.4f})"
    return f"{interval.mean:+.4f}{spread}, {'p < 0.001' if p < 0.001 else f'p {p:.3f}'}"


def _csv(lines: Sequence[Line]) -> str:
    """A row for each line, target and figure."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "labeled", "runs", "target", "figure", "mean", "low", "high", "sd_over_runs", "missed"])
    for line in lines:
        for target in line.records[0].scores if line.records else ():
            missed = sum(int(sum(record.scores[target]["missed"])) for record in line.records)
            for metric in _FIGURES:
                mean = mean_over_runs(line.scores(target, metric))
                spread = (mean.interval.mean, mean.interval.low, mean.interval.high, mean.sd_over_runs)
                shown = ["" if value is None else f"{value:.5g}" for value in spread]
                writer.writerow([line.row, line.labeled, mean.runs, target, metric, *shown, missed])
    return stream.getvalue()


def _points(grid: GridSettings, lines: Sequence[Line]) -> list[Point]:
    points = []
    for line in lines:
        if line.records:
            scores = line.scores(grid.target, "dice")
            mean = mean_over_runs(scores)
            group = "all labeled" if line.labeled == "all" else f"{line.labeled} labeled"
            runs = tuple(float(values.mean()) for values in scores.values())
            low = mean.interval.mean if mean.interval.low is None else mean.interval.low
            high = mean.interval.mean if mean.interval.high is None else mean.interval.high
            points.append(Point(line.row, group, mean.interval.mean, low, high, runs))
    return points


def _require_alike(grid: GridSettings, records: dict[str, Record]) -> None:
    first, expected = next(iter(records.items()))
    if grid.target not in expected.scores:
        raise InputError(f"target {grid.target!r} is none of those scored: {', '.join(expected.scores)}.")
    for name, record in records.items():
        if sorted(record.cases) != sorted(expected.cases) or list(record.scores) != list(expected.scores):
            raise InputError(f"Records {name} and {first} hold other cases or targets, so they cannot be compared.")


def replace_part(path: Path, name: str, text: str) -> None:
    """Puts a table between the two marks of its grid in a Markdown file.

    Raises:
        InputError: The file cannot be read, or has no such marks.
    """
    begin, end = f"<!-- benchmark {name} -->", "<!-- end -->"
    try:
        before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    _, found, after = rest.partition(end)
    if not found:
        raise InputError(f"{path}: has no place for the table; put the lines {begin} and {end} where it belongs.")
    write_text(path, f"{before}{begin}\n\n{text}\n\n{end}{after}")
