"""Tables and a picture of a grid of methods, made from its records alone; gaps of an unfinished grid stay visible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from medcontrast.engine.benchmark import tables
from medcontrast.engine.benchmark.records import Record
from medcontrast.engine.benchmark.tables import Figure, Line
from medcontrast.errors import InputError
from medcontrast.metrics.bootstrap import Units, drawn_words, patient_units
from medcontrast.metrics.comparison import Scores, mean_over_runs
from medcontrast.metrics.definitions import DEFINITIONS
from medcontrast.settings.grid import GridSettings, cells

_CONDITIONS = {
    "steps": ("facts", "step"),
    "network": ("recipe", "network", "name"),
    "which predicts": ("facts", "network"),
    "spacing, mm": ("recipe", "data", "spacing_mm"),
    "overlap of windows": ("recipe", "inference", "overlap"),
    "their weights": ("recipe", "inference", "weighting"),
    "mirrored versions averaged": ("recipe", "inference", "flips"),
    "largest component kept": ("recipe", "inference", "largest_component"),
    "PyTorch": ("facts", "versions", "torch"),
    "MONAI": ("facts", "versions", "monai"),
    "device": ("facts", "device"),
    "processor": ("facts", "cpu"),
    "threads": ("facts", "threads"),
    "precision": ("facts", "precision"),
}
"""What masks and hours depend on beside the method -> where a record says it; what none says is left out."""

_NOT_RECORDED = "not recorded"

_DISTANCES = {"HD95 pooled": "hd95_pooled_mm", "ASSD": "assd_mm", "volume error, ml": "volume_error_ml"}
"""Columns of the grid's target beside its Dice."""
_FIGURES = ("dice", "hd95_pooled_mm", "hd95_max_directed_mm", "asd_mm", "assd_mm", "surface_dice", "volume_error_ml")
"""Of the CSV."""


@dataclass(frozen=True)
class MethodLine(Line[Record]):
    """One row of the grid at one labeled count; "(peer)" follows the name of another toolkit's.

    Attributes:
        labeled: Labeled count, or "all".
        structures: Targets in which a miss counts; None for all.
    """

    labeled: int | str
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
        return self.records[0].facts.get("peer")

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
    peers: dict[str, Record] | None = None,
    structures: Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
) -> str:
    """Writes table.md, table.csv and picture.png beside the records; returns the Markdown.

    Args:
        grid: The settings.
        records: Name of the cell -> its record. Without any, all that is written is what has not been run.
        folder: Where the files go.
        into: A Markdown file with `<!-- benchmark NAME -->` and `<!-- end -->`; what stands between is replaced.
        peers: Records of other toolkits on the same cases, by name.
        structures: Targets in which a miss counts: the labels, without the regions that are made of them. Default: all.
        patients: Case -> its patient, as far as known; scans of one are drawn together.

    Raises:
        InputError: Records hold other cases than each other or another target than the grid's, or `into` has no such
            place.
    """
    peers = peers or {}
    if records or peers:
        _require_alike(grid, {**records, **peers})
    wanted = tables.gathered((((cell.row, cell.labeled), cell.name) for cell in cells(grid)), records)
    others = tables.gathered((((f"{each.row} (peer)", each.labeled), name) for name, each in peers.items()), peers)
    every = [
        MethodLine(row, count, found, labeled, structures)
        for (row, labeled), (count, found) in (*wanted.items(), *others.items())
    ]
    lines = [line for line in every if line.records]
    if not lines:
        return tables.write_parts(grid, folder, into, [_not_run(every), grid.note])
    cases = sorted(lines[0].records[0].cases)  # the order of all scores
    units = patient_units(cases, patients or {})
    by_count = {line.labeled: [each for each in lines if each.labeled == line.labeled] for line in lines}
    figures = {count: _figures(grid, those, units) for count, those in by_count.items()}
    whole = _full_supervision(by_count, figures)
    parts = [_table(those, figures[count], whole) for count, those in by_count.items()]
    parts += [_not_run(every), _notes(by_count, units, shares=whole is not None), grid.note, _peer_notes(lines)]
    leads = [tables.points(figures[count][0], those, f"{count} labeled") for count, those in by_count.items()]
    marks, axis = list(chain.from_iterable(leads)), f"Dice, {grid.target}"
    table = _csv(grid, by_count, figures, whole, units)
    return tables.write_tables(grid, folder, into, parts=parts, table=table, marks=marks, axis=axis)


def _figures(grid: GridSettings, lines: Sequence[MethodLine], units: Units) -> list[Figure]:
    """Dice of the grid's target, which is compared, that of the other targets, then the target's distances."""
    targets = dict.fromkeys((grid.target, *lines[0].records[0].scores))
    asked = {f"Dice {target}": (target, "dice") for target in targets}
    asked |= {name: (grid.target, metric) for name, metric in _DISTANCES.items()}
    scores = {name: [line.scores(*place) for line in lines] for name, place in asked.items()}
    rows, references = [line.row for line in lines], tables.reference_rows(grid)
    return tables.figures(scores, rows, references, compared=[f"Dice {grid.target}"], units=units)


def _table(lines: Sequence[MethodLine], figures: Sequence[Figure], whole: float | None) -> str:
    lead, *others = figures
    columns = [
        *tables.row_columns(lines),
        tables.mean_column(lead),
        tables.spread_column(lead),
        ("of full supervision", _shares(lead, whole)),
        *(tables.mean_column(each, DEFINITIONS[_DISTANCES.get(each.name, "dice")].decimals) for each in others),
        ("missed", [str(line.missed) for line in lines]),
        *tables.against_columns(lead),
        *tables.cost_columns(lines, "trained_parameters"),
    ]
    title = "all cases labeled" if lines[0].labeled == "all" else f"{lines[0].labeled} labeled"
    return f"**{title}**\n\n{tables.markdown_table(columns)}"


def _full_supervision(
    by_count: Mapping[int | str, Sequence[MethodLine]], figures: Mapping[int | str, Sequence[Figure]]
) -> float | None:
    """Mean of the grid's target of supervised training with all labels, over all runs.

    None where the grid has no such row, or it is 0.
    """
    means = figures["all"][0].means if "all" in figures else []
    both = zip(by_count.get("all", ()), means, strict=True)
    found = [
        mean.interval.mean
        for line, mean in both
        if not line.peer and line.records[0].recipe["method"]["name"] == "supervised"
    ]
    return next(iter(found), None) or None


def _shares(figure: Figure, whole: float | None) -> list[str]:
    """Every row's mean over that of full supervision, each over all of its runs: all labels have no subset to share.

    A row that lacks runs which another has names its own: an easy subset makes its share the larger one.
    """
    if whole is None:
        return ["-"] * len(figure.means)
    most = {run for scores in figure.scores for run in scores}
    return [
        f"{100 * mean.interval.mean / whole:.1f} %{tables.over(sorted(scores) if most - set(scores) else ())}"
        for mean, scores in zip(figure.means, figure.scores, strict=True)
    ]


def _not_run(lines: Sequence[MethodLine]) -> str:
    found: dict[str, list[str]] = {}
    for line in lines:
        if not line.records:
            found.setdefault(f" with {line.labeled} label{'' if line.labeled == 1 else 's'}", []).append(line.row)
    return tables.not_run(found)


def _notes(by_count: dict[int | str, list[MethodLine]], units: Units, *, shares: bool) -> str:
    """What the tables mean, in sentences."""
    lines = [line for those in by_count.values() for line in those]
    first = lines[0].records[0]
    over_runs = tables.common_runs("Differences", by_count.values())
    named = [(f"{line.row}-{line.labeled}", line) for line in lines]
    doubts = "".join(f" {sentence}" for sentence in tables.warnings(named))
    drawn, test = drawn_words(len(first.cases), units), "" if units is None else " over patients"
    divided = " Shares of full supervision: means over all runs of each." if shares else ""
    return (
        f"{len(first.cases)} {first.facts['split']} cases, last checkpoint. Means are "
        f"over cases, each averaged over its runs, with 95 % bootstrap intervals over {drawn} (10,000 resamples); "
        f"SD is that of the runs' means. Run k has seed k and labeled subset k.{_one_subset(by_count)} {over_runs} "
        f"Differences are paired by case.{divided} p is Wilcoxon's signed-rank test{test}, Holm-corrected over the "
        "rows of its column. Missed: structures, summed over cases and runs, that are there and were not found; Dice "
        "0, distance the image's diagonal. HD95 pooled: the 95th percentile of the distances of both directions "
        f"together. Distances in mm. {_conditions(lines)}{tables.rounded_runs(named)} Hours are wall time of training; "
        f"compare them only on one machine.{doubts}"
    )


def _one_subset(by_count: Mapping[int | str, Sequence[MethodLine]]) -> str:
    """Said of numbers of labels that are all that there are, so that every subset is the same."""
    same = []
    for count, lines in by_count.items():
        subsets = {frozenset(record.facts["labeled_cases"]) for line in lines for record in line.records}
        several = len({record.run for line in lines for record in line.records}) > 1
        same += [str(count)] if count != "all" and several and len(subsets) == 1 else []
    return f" With {' and '.join(same)} labels that is one subset: runs differ in their seeds alone." if same else ""


def _conditions(lines: Sequence[MethodLine]) -> str:
    """What masks came to be by, from recipes and facts of the records; where rows differ, each value with its rows."""
    parts = []
    for words, place in _CONDITIONS.items():
        found: dict[str, dict[str, list[int | str]]] = {}
        for line in lines:
            for record in line.records if line.peer is None else ():
                counts = found.setdefault(_said(record, place), {}).setdefault(line.row, [])
                counts += [line.labeled] if line.labeled not in counts else []
        if set(found) <= {_NOT_RECORDED}:
            continue
        values = list(found) if len(found) == 1 else [f"{value} ({_rows(value, found)})" for value in found]
        parts.append(f"{words} {', '.join(values)}")
    whose = " of the grid's own rows" if any(line.peer for line in lines) else ""
    return f"Conditions{whose}: {'; '.join(parts)}."


def _rows(value: str, found: Mapping[str, Mapping[str, Sequence[int | str]]]) -> str:
    """The rows of a value, each with its labeled counts where it stands under another value too."""
    split = {row for other, rows in found.items() if other != value for row in rows}
    return ", ".join(
        f"{row} with {' and '.join(map(str, counts))} labels" if row in split else row
        for row, counts in found[value].items()
    )


def _said(record: Record, place: Sequence[str]) -> str:
    part, *keys = place
    value: Any = getattr(record, part)
    for key in keys:
        value = value.get(key, _NOT_RECORDED)
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "as stored"}[value]
    return str(value)


def _peer_notes(lines: Sequence[MethodLine]) -> str:
    """One paragraph: which toolkit stands behind each row of a peer, its steps, and what its record says of it."""
    said = []
    for line in lines:
        if line.peer is not None:
            facts = line.records[0].facts
            words = [f"{line.peer['name']} {line.peer['version']}, {facts['step']} steps", *facts.get("notes", ())]
            said.append(f"{line.row}: {'; '.join(words)}.")
    lead = (
        "Peers are other toolkits on the same cases, their masks scored by the same evaluation; network, precision and "
        "how they predict are their own (benchmarks/peers/README.md)."
    )
    return " ".join([lead, *dict.fromkeys(said)]) if said else ""


def _csv(
    grid: GridSettings,
    by_count: Mapping[int | str, Sequence[MethodLine]],
    figures: Mapping[int | str, Sequence[Figure]],
    whole: float | None,
    units: Units,
) -> str:
    """A row for each line, target and figure; differences and shares stand beside what is compared."""
    references = tables.reference_rows(grid)
    heads = ["row", "labeled", "runs", "target", "figure", "mean", "low", "high", "sd_over_runs", "missed"]
    heads += ["trained_parameters", "train_seconds", "of_full", *tables.against_heads(references)]
    rows = []
    for lead, place, line in [
        (figures[count][0], *each) for count, those in by_count.items() for each in enumerate(those)
    ]:
        costs = tables.costs(line, "trained_parameters")
        for target, metric in [(target, metric) for target in line.records[0].scores for metric in _FIGURES]:
            # one by one: the last digit of a mean over many columns at once depends on how many there are
            mean = mean_over_runs(line.scores(target, metric), units)
            missed = sum(int(sum(record.scores[target]["missed"])) for record in line.records)
            leads = (target, metric) == (grid.target, "dice")
            share = mean.interval.mean / whole if leads and whole is not None else None
            against = tables.against_values(lead if leads else None, place, references)
            spread = tables.mean_values(mean)
            rows.append([line.row, line.labeled, mean.runs, target, metric, *spread, missed, *costs, share, *against])
    return tables.csv_table(heads, rows)


def _require_alike(grid: GridSettings, records: dict[str, Record]) -> None:
    first, expected = next(iter(records.items()))
    if grid.target not in expected.scores:
        raise InputError(f"target {grid.target!r} is none of those scored: {', '.join(expected.scores)}.")
    for name, record in records.items():
        if sorted(record.cases) != sorted(expected.cases) or list(record.scores) != list(expected.scores):
            raise InputError(f"Records {name} and {first} hold other cases or targets, so they cannot be compared.")
