"""What a generator's images depend on, out of a manifest: categories with values, numbers with statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medcontrast.data.images.sources import ImageCase
from medcontrast.errors import InputError
from medcontrast.networks.parents import Parent


def facts_of(case: ImageCase, classes: Sequence[str]) -> dict[str, Any]:
    """All of an image that can be a parent: domain, target by its class's name, and the attributes."""
    found: dict[str, Any] = dict(case.attributes)
    if case.domain is not None:
        found["domain"] = case.domain
    if case.target is not None:
        found["target"] = classes[case.target] if classes else str(case.target)
    return found


def as_category(value: Any) -> str:
    """The name of a category: of a word itself, of a number its shortest form (1.0 is 1) that means no other."""
    return repr(value).removesuffix(".0") if isinstance(value, (int, float)) else str(value)


def training_parents(
    kinds: Mapping[str, str], cases: Sequence[ImageCase], classes: Sequence[str], *, where: str
) -> tuple[Parent, ...]:
    """The parents of a recipe, with the values and statistics of the training images.

    Args:
        kinds: Name -> "category" or "number", as method.parents has it.
        cases: The training images.
        classes: Names of the targets.
        where: Manifest and split, for messages.

    Raises:
        InputError: An image lacks one; a category with one value, or with a value that occurs once; a number that is
            the same throughout.
    """
    rows = [facts_of(case, classes) for case in cases]
    found = []
    for name, kind in kinds.items():
        for case, row in zip(cases, rows, strict=True):
            if name not in row:
                known = ", ".join(row) or "nothing of the kind"
                raise InputError(f"{where}: image {case.name} lacks {name}, a parent of the recipe; it has {known}.")
        values = [row[name] for row in rows]
        found.append(_category(name, values, classes, where) if kind == "category" else _number(name, values, where))
    return tuple(found)


def parent_rows(parents: Sequence[Parent], cases: Sequence[ImageCase], classes: Sequence[str]) -> list[dict[str, Any]]:
    """What `Parents.encode` takes of each image; a parent that an image lacks is left out."""
    rows = []
    for case in cases:
        facts = facts_of(case, classes)
        chosen = [parent for parent in parents if parent.name in facts]
        rows.append(
            {each.name: facts[each.name] if each.values is None else as_category(facts[each.name]) for each in chosen}
        )
    return rows


def _category(name: str, values: Sequence[Any], classes: Sequence[str], where: str) -> Parent:
    counts = Counter(as_category(value) for value in values)
    if len(counts) < 2:
        raise InputError(f"{where}: {name} is {next(iter(counts))} in every image; a parent needs two values or more.")
    rare = [value for value, count in sorted(counts.items()) if count == 1]
    if rare:
        raise InputError(
            f"{where}: {name} {rare[0]} occurs once; nothing can be learned of it. Leave that image out, or add others "
            "of its kind."
        )
    order = list(classes) if name == "target" and classes else sorted(counts)
    return Parent(name, tuple(value for value in order if value in counts))


def _number(name: str, values: Sequence[Any], where: str) -> Parent:
    if any(isinstance(value, str) for value in values):
        raise InputError(f"{where}: {name} is a word in some images; make it a category in method.parents.")
    mean, std = float(np.mean(values)), float(np.std(values))
    if not std > 1e-12 * (1.0 + abs(mean)):
        raise InputError(f"{where}: {name} is {mean:g} in every image; a parent needs two values or more.")
    return Parent(name, None, mean, std)
