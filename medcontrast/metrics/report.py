"""The report of an evaluation: a row for each case and target, and means with intervals over cases."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.metrics.bootstrap import Interval, bootstrap_intervals, drawn_words, patient_units
from medcontrast.metrics.case import TargetScore
from medcontrast.metrics.definitions import DEFINITIONS, EMPTY_RULE, SURFACE_RULE

if TYPE_CHECKING:
    from rich.table import Table

_FORMAT = "medcontrast report 1"


@dataclass(frozen=True)
class TargetSummary:
    """One target over all cases.

    Attributes:
        target: Name of the label or region.
        cases: How many cases were scored.
        missed: Cases whose reference holds the target and whose prediction is empty.
        invented: Cases whose prediction holds the target and whose reference is empty.
        metrics: Name of the figure -> mean, SD and interval over cases.
    """

    target: str
    cases: int
    missed: int
    invented: int
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class Report:
    """The scores of several cases; every case holds the same targets, scored with one tolerance.

    Attributes:
        cases: Case -> its scores, as `score_case` gives them.
        patients: Case -> its patient, as far as known; a case without one is a patient by itself.
        resamples: Bootstrap resamples behind each interval.
        seed: Seed of the bootstrap.
        level: Share of resampled means inside an interval.

    Raises:
        InputError: There is no case, or the cases do not hold the same targets, tolerance and units.
    """

    cases: Mapping[str, Sequence[TargetScore]]
    patients: Mapping[str, str] = field(default_factory=dict)
    resamples: int = 10_000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if not self.cases or not all(self.cases.values()):
            raise InputError("A report needs at least one case with at least one target, but got none.")
        first, expected = next((case, _layout(scores)) for case, scores in self.cases.items())
        for case, scores in self.cases.items():
            if _layout(scores) != expected:
                raise InputError(
                    f"Case {case!r} was scored on {_layout(scores)} but case {first!r} on {expected}; "
                    "expected the same targets, tolerance and units for every case."
                )

    @property
    def targets(self) -> list[str]:
        """Names of the targets, in order."""
        return [score.target for score in next(iter(self.cases.values()))]

    @property
    def layout(self) -> str:
        """What was scored and how, in words, as `layout` gives them."""
        return _layout(next(iter(self.cases.values())))

    @property
    def units(self) -> list[tuple[str, bool]] | None:
        """Of every case what is drawn with it: its patient, or itself; None where no patient has several cases."""
        return patient_units(self.cases, self.patients)

    @property
    def drawn(self) -> str:
        """What intervals are over, in words."""
        return drawn_words(len(self.cases), self.units)

    @property
    def metrics(self) -> list[str]:
        """Names of the figures that the scores hold, in the order of the tables."""
        score = next(iter(self.cases.values()))[0]
        return [name for name in DEFINITIONS if getattr(score, name) is not None]

    @property
    def tolerance_mm(self) -> float:
        """Tolerance of the surface Dice, in mm."""
        return next(iter(self.cases.values()))[0].tolerance_mm

    @cached_property
    def summary(self) -> dict[str, TargetSummary]:
        """Target -> its means and intervals over cases."""
        return {name: self._summarize(position, name) for position, name in enumerate(self.targets)}

    def _summarize(self, position: int, name: str) -> TargetSummary:
        scores = [case[position] for case in self.cases.values()]
        intervals = bootstrap_intervals(
            _matrix(scores, self.metrics),
            units=self.units,
            resamples=self.resamples,
            seed=self.seed,
            level=self.level,
        )
        return TargetSummary(
            target=name,
            cases=len(scores),
            missed=sum(score.missed for score in scores),
            invented=sum(score.invented for score in scores),
            metrics=dict(zip(self.metrics, intervals, strict=True)),
        )

    def save_csv(self, path: Path | str) -> None:
        """Writes a row for each case and target; the file appears whole or not at all.

        Raises:
            OutputError: The file cannot be written.
        """
        stream = io.StringIO()
        rows = [{"case": case, **_row(score)} for case, scores in self.cases.items() for score in scores]
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(Path(path), stream.getvalue())

    def save(self, path: Path | str) -> None:
        """Writes scores, summary and definitions; the file appears whole or not at all.

        Raises:
            OutputError: The file cannot be written.
        """
        content = {
            "format": _FORMAT,
            "bootstrap": {"resamples": self.resamples, "seed": self.seed, "level": self.level},
            "rules": _rules(self),
            "summary": {name: asdict(summary) for name, summary in self.summary.items()},
            "cases": {case: [_row(score) for score in scores] for case, scores in self.cases.items()},
            **({"patients": dict(self.patients)} if self.patients else {}),
        }
        write_text(Path(path), json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Report:
        """Reads what `save` wrote; the summary is computed again from the scores.

        Raises:
            InputError: The file is missing or is not such a report.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); name the report.json of an evaluation."
            ) from None
        except ValueError as error:
            raise InputError(f"{path}: damaged, no JSON: {error}.") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InputError(
                f'{path}: is no report ("format": "{_FORMAT}"); name the report.json that `medcontrast evaluate` wrote.'
            )
        try:
            cases = {case: [_from_row(row) for row in rows] for case, rows in content["cases"].items()}
            patients = {str(case): str(patient) for case, patient in content.get("patients", {}).items()}
            return cls(cases, patients, **_bootstrap(content["bootstrap"]))
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged report, {type(error).__name__}: {error}.") from None

    def table(self) -> Table:
        """A rich table: a row for each figure, a column for each target, mean over interval."""
        from rich.table import Table
        from rich.text import Text

        # Without a count in its caption a miss would pass unseen in a mean distance. Names are no markup.
        caption = Text(" ".join(self._count_lines())) if self._count_lines() else None
        table = Table(title=_counted(len(self.cases)), caption=caption, show_lines=True)
        table.add_column("mean over cases", no_wrap=True)
        for target in self.targets:
            table.add_column(Text(target), justify="right")
        for metric in self.metrics:
            definition = DEFINITIONS[metric]
            unit = f" {definition.unit}" if definition.unit else ""
            cells = [_cell(metric, summary.metrics[metric], "\n") for summary in self.summary.values()]
            table.add_row(f"{definition.title}{unit}", *cells)
        return table

    @property
    def table_width(self) -> int:
        """Characters that the table needs to show every figure whole."""
        return 26 + 19 * len(self.targets)

    def notes(self) -> list[str]:
        """What goes beneath the table, which says the misses itself: definitions, units, tolerance and empty rule."""
        return ["", *_rules(self)]

    def lines(self) -> list[str]:
        """Plain text: the figures of every target, misses, then their definitions, units, tolerance and empty rule."""
        out = []
        for summary in self.summary.values():
            out.append(f"{summary.target} ({_counted(summary.cases)})")
            for metric, interval in summary.metrics.items():
                unit = DEFINITIONS[metric].unit
                label = f"{DEFINITIONS[metric].title}{f' ({unit})' if unit else ''}"
                spread = "" if interval.sd is None else f", SD {interval.sd:.{DEFINITIONS[metric].decimals}f}"
                out.append(f"  {label:<26} {_cell(metric, interval, '  ')}{spread}")
        return [*out, *self._count_lines(), *self.notes()]

    def _count_lines(self) -> list[str]:
        lines = []
        for summary in self.summary.values():
            if summary.missed:
                lines.append(f"{summary.target}: {summary.missed} of {summary.cases} cases missed.")
            if summary.invented:
                lines.append(f"{summary.target}: invented in {summary.invented} of {summary.cases} cases.")
        return lines


def _counted(cases: int) -> str:
    return "1 case" if cases == 1 else f"{cases} cases"


def _matrix(scores: Sequence[TargetScore], metrics: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[getattr(score, metric) for metric in metrics] for score in scores], dtype=np.float64)


def layout(targets: Iterable[str], tolerances_mm: Iterable[float], *, voxels: bool) -> str:
    """What is scored and how, in words: what differs in it cannot be compared."""
    tolerances = " / ".join(map(str, sorted(set(tolerances_mm))))
    return f"targets {', '.join(map(repr, targets))} at {tolerances} mm in {'mm and voxels' if voxels else 'mm'}"


def _layout(scores: Sequence[TargetScore]) -> str:
    voxels = all(score.hd95_pooled_voxel is not None for score in scores)
    return layout([score.target for score in scores], [score.tolerance_mm for score in scores], voxels=voxels)


def _row(score: TargetScore) -> dict[str, Any]:
    return {name: value for name, value in asdict(score).items() if value is not None}


def _from_row(row: dict[str, Any]) -> TargetScore:
    kinds = {"target": str, "missed": bool, "invented": bool}
    for item in fields(TargetScore):
        value = row.get(item.name, item.default)
        kind = kinds.get(item.name)
        if value is not None and not (_is_number(value) if kind is None else isinstance(value, kind)):
            raise TypeError(f"{item.name} holds {value!r}")
    return TargetScore(**row)


def _bootstrap(settings: dict[str, Any]) -> dict[str, Any]:
    """Checked as far as an interval needs it; unknown settings are refused by `Report`."""
    valid = {
        "resamples": lambda value: type(value) is int and value > 0,
        "seed": lambda value: type(value) is int and value >= 0,
        "level": lambda value: _is_number(value) and 0 < value < 1,
    }
    for name, value in settings.items():
        if name in valid and not valid[name](value):
            raise TypeError(f"{name} of the bootstrap holds {value!r}")
    return settings


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _cell(metric: str, interval: Interval, gap: str) -> str:
    digits = DEFINITIONS[metric].decimals
    mean = f"{interval.mean:.{digits}f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean}{gap}[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _rules(report: Report) -> list[str]:
    lines = [
        f"{DEFINITIONS[name].title}{f' ({DEFINITIONS[name].unit})' if DEFINITIONS[name].unit else ''}: "
        f"{DEFINITIONS[name].text}."
        for name in report.metrics
    ]
    return [
        *lines,
        f"Tolerance of the surface Dice: {report.tolerance_mm:g} mm.",
        SURFACE_RULE,
        EMPTY_RULE,
        f"Intervals: {100 * report.level:g} % percentile bootstrap over {report.drawn}, {report.resamples} resamples, "
        f"seed {report.seed}. SD over cases.",
    ]
