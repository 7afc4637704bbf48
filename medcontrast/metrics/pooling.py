"""Reports on different cases, joined into one: a cross-validation's score over all its folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medcontrast.errors import InputError
from medcontrast.metrics.case import TargetScore
from medcontrast.metrics.report import Report


def pool_reports(reports: Mapping[str, Report]) -> Report:
    """One report of all cases; means are over cases, so that a longer fold weighs more.

    Args:
        reports: What each is called in messages -> the report; cases keep the order of the reports, intervals the
            bootstrap of the first.

    Raises:
        InputError: There are fewer than two, a case stands in two of them, or they differ in targets, tolerance or
            units.
    """
    if len(reports) < 2:
        raise InputError(f"Joining takes at least two reports, but got {len(reports)}.")
    cases: dict[str, Sequence[TargetScore]] = {}
    patients: dict[str, str] = {}
    first, expected = next((name, report.layout) for name, report in reports.items())
    for name, report in reports.items():
        if report.layout != expected:
            raise InputError(
                f"{name}: has {report.layout}, but {first} {expected}; reports are joined where they have the same "
                "targets, tolerance and units."
            )
        twice = [case for case in report.cases if case in cases]
        if twice:
            other = next(each for each in reports if twice[0] in reports[each].cases)
            raise InputError(
                f"{name}: case {twice[0]} stands in {other} too ({len(twice)} such); a case counts once, so "
                "join reports on different cases, one of each fold."
            )
        cases |= report.cases
        patients |= report.patients
    return replace(reports[first], cases=cases, patients=patients)
