"""Two reports on the same cases, compared case by case."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError
from medcontrast.metrics.comparison import Difference, differences, p_words
from medcontrast.metrics.definitions import DEFINITIONS
from medcontrast.metrics.report import Report

Differences = Mapping[str, Mapping[str, Difference]]
"""Target -> name of the figure -> first minus second."""


def require_comparable(cases: Iterable[str], layout: str, other: Report, *, where: str = "The other report") -> None:
    """Refuses a report that scores of these cases cannot be paired with.

    Args:
        cases: Names of the cases.
        layout: What is scored on them and how, see `report.layout`.
        other: The report.
        where: Opens the sentence.

    Raises:
        InputError: The report differs in cases, targets, tolerance or units.
    """
    alone = sorted(set(cases) ^ set(other.cases))
    if alone:
        raise InputError(
            f"{where}: needs the same cases to be compared, but {len(alone)} of them stand in only one of the two: "
            f"{', '.join(alone[:5])}."
        )
    if layout != other.layout:
        raise InputError(
            f"{where}: needs the same targets, tolerance and units to be compared, but has {other.layout}, not "
            f"{layout}."
        )


def paired_differences(first: Report, second: Report) -> Differences:
    """Mean difference of two reports on the same cases, first minus second, with its bootstrap interval.

    Cases are drawn in pairs, so what is hard about a case cancels; those of one patient (of the first report) together.

    Args:
        first: Scores of one system.
        second: Scores of another on the same cases, in any order.

    Raises:
        InputError: The reports differ in cases, targets, tolerance or units, or were scored against other labels.
    """
    require_comparable(first.cases, first.layout, second)
    _require_same_references(first, second)
    wanted = [(position, metric) for position in range(len(first.targets)) for metric in first.metrics]
    names = list(first.cases)
    pairs = [({0: _values(first, names, *one)}, {0: _values(second, names, *one)}) for one in wanted]
    found = iter(differences(pairs, first.units))
    return {target: {metric: _known(next(found)) for metric in first.metrics} for target in first.targets}


def _require_same_references(first: Report, second: Report) -> None:
    """References of different volumes are different labels, whatever their cases are called."""
    other = [
        f"{case}, {ours.target}"
        for case, scores in first.cases.items()
        for ours, theirs in zip(scores, second.cases[case], strict=True)
        if not math.isclose(ours.volume_ml_reference, theirs.volume_ml_reference, rel_tol=1e-6)
    ]
    if other:
        raise InputError(
            f"Paired reports need the same labels, but the reference of {other[0]} has another volume in the other "
            f"report ({len(other)} such); score both against the same files."
        )


def difference_lines(differences: Differences, drawn: str = "cases") -> list[str]:
    """Plain text: every target's figures, first minus second; `drawn` says what intervals are over."""
    out = []
    for target, figures in differences.items():
        out.append(target)
        for metric, found in figures.items():
            definition = DEFINITIONS[metric]
            unit = f" ({definition.unit})" if definition.unit else ""
            digits, interval = definition.decimals, found.interval
            cell = f"{interval.mean:+.{digits}f}"
            if interval.low is not None and interval.high is not None:
                cell += f"  [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
            out.append(f"  {definition.title + unit:<26} {cell}  larger in {found.better}, {p_words(found.p)}")
    return [
        *out,
        f"Intervals: 95 % paired bootstrap over {drawn}. p: Wilcoxon's signed-rank test"
        f"{' of the means of patients' if 'patient' in drawn else ''}, not corrected for the number of figures.",
    ]


def differences_to_json(differences: Differences) -> dict[str, Any]:
    """The same for a file: mean, sd, low, high, better (cases in which the first is larger) and p of every figure."""
    return {
        target: {
            metric: {**asdict(found.interval), "better": found.better, "p": found.p}
            for metric, found in figures.items()
        }
        for target, figures in differences.items()
    }


def _values(report: Report, names: list[str], position: int, metric: str) -> NDArray[np.float64]:
    return np.array([getattr(report.cases[name][position], metric) for name in names], dtype=np.float64)


def _known(found: Difference | None) -> Difference:
    assert found is not None  # both have run 0
    return found
