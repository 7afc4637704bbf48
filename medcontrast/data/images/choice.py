"""Which images of a source with many are taken: rows of it that a csv's columns allow, in folds, less some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medcontrast.data.images.arrays import plain_value
from medcontrast.errors import ManifestError

CHOICE = ("rows", "folds", "take", "without")
"""First and end; every how many-th, and which of those; places left out."""
FOLDS_BY = "folds_by"
"""What folds are dealt by, where it is not the image: the patient."""


def chosen(
    source: Mapping[str, Any],
    count: int,
    where: str,
    *,
    kept: Sequence[bool] | None = None,
    patients: Sequence[Any] | None = None,
) -> list[int]:
    """Places that the source takes.

    Args:
        source: As it stands in the manifest.
        count: Images that there are.
        where: Place in the manifest, for messages.
        kept: Whether each of them counts at all; folds are dealt among those that do.
        patients: Of each, "" or None where none is known; needed for `folds_by`.

    Raises:
        ManifestError: Keys that cannot be meant, or nothing is taken.
    """
    rows, folds, take = source.get("rows", [0, count]), source.get("folds", 1), source.get("take", [0])
    if not (_whole_numbers(rows) and len(rows) == 2):
        raise ManifestError(f"{where}: rows is [first, end], the end not included, but got {rows!r}.")
    if not 0 <= rows[0] < rows[1] <= count:
        raise ManifestError(f"{where}: rows {rows} do not lie in the {count} images that are there.")
    if not (_whole_numbers([folds]) and _whole_numbers(take) and all(number < folds for number in take)):
        raise ManifestError(f"{where}: take is a list of numbers below folds, but got {take!r} of {folds!r}.")
    without = source.get("without", [])
    if not (_whole_numbers(without) and set(without) <= set(range(count))):
        raise ManifestError(f"{where}: without is a list of places from 0 to {count - 1}, but got {without!r}.")
    left_out = set(without)  # of a set with many counterfactuals it is long
    places = [row for row in range(*rows) if kept is None or kept[row]]
    numbers = _dealt(source, places, where, patients)
    taken = [
        place for place, number in zip(places, numbers, strict=True) if number % folds in take and place not in left_out
    ]
    if not taken:
        raise ManifestError(f"{where}: takes none of the {count} images that are there.")
    return taken


def _dealt(
    source: Mapping[str, Any], places: Sequence[int], where: str, patients: Sequence[Any] | None
) -> Sequence[int]:
    """The number that the fold of each place goes by: its own, or its patient's in order of appearance."""
    by = source.get(FOLDS_BY)
    if by is None:
        return range(len(places))
    if by != "patient":
        raise ManifestError(f'{where}: {FOLDS_BY} is "patient", or left out, but got {by!r}.')
    named = {place: plain_value(patients[place], name=False) for place in places} if patients is not None else {}
    known = {place: str(name) for place, name in named.items() if name not in (None, "")}
    if not known:
        raise ManifestError(f"{where}: {FOLDS_BY} patient, but no image has a patient.")
    groups: dict[Any, int] = {}
    # an image of nobody is one by itself
    return [groups.setdefault(known.get(place, place), len(groups)) for place in places]


def rows_with(source: Mapping[str, Any], rows: Sequence[Mapping[str, str]], where: str) -> list[bool]:
    """Whether each row of a csv has the values that `only` asks of its columns.

    Raises:
        ManifestError: `only` is no table, names a column that is not there, or a value that no row has.
    """
    only = source.get("only") or {}
    if not isinstance(only, dict):
        raise ManifestError(f'{where}: only is a table such as {{"split": "train"}}, but got {only!r}.')
    kept = [True] * len(rows)
    for column, values in only.items():
        if column not in rows[0]:
            raise ManifestError(f"{where}: only names the column {column!r}, but there are {', '.join(rows[0])}.")
        there = [str(plain_value(row[column])) for row in rows]
        wanted = [str(plain_value(value)) for value in (values if isinstance(values, list) else [values])]
        for value in wanted:
            if value not in there:
                known = ", ".join(sorted(set(there))[:10])
                raise ManifestError(f"{where}: no row has {value!r} in column {column!r}; there are {known}.")
        kept = [keep and value in wanted for keep, value in zip(kept, there, strict=True)]
    return kept


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int) for value in values)
