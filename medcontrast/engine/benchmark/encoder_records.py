"""What a pre-trained and probed encoder leaves: one JSON file of some KB, from which tables are made.

Letters: n test images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.engine.benchmark.records import deciding, read_record, recipe_digest, require_same
from medcontrast.engine.probe.images import ProbeImages, image_units
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.settings import PretrainRecipe
from medcontrast.settings.grid import ProbeCell

_FORMAT = "medcontrast probe record 1"


@dataclass(frozen=True)
class ProbeRecord:
    """One finished run.

    Attributes:
        row: Row of the grid.
        run: Number of the run: its seed.
        recipe: The resolved recipe.
        recipe_hash: SHA-256 of what in the recipe decides the result.
        images: How many test images there are.
        images_hash: SHA-256 of their names in order; records of one table have one.
        units: Number of every image's unit (`image_units`), equal ones in a row with how many they are: "0x5 1x5 2".
        hits: Classifier and share of the labels, such as "linear 1", -> a digit an image: 1 where it is right.
        groups: Kind of group -> name of a group -> a digit an image: 1 where it belongs to it.
        facts: Split, labels, parameters, steps, seconds of training, device, versions.
    """

    row: str
    run: int
    recipe: dict[str, Any]
    recipe_hash: str
    images: int
    images_hash: str
    units: str
    hits: dict[str, str]
    groups: dict[str, dict[str, str]]
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Writes the record whole or not at all."""
        write_text(path, json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> ProbeRecord:
        """Reads what `save` wrote.

        Raises:
            InputError: The file is no such record, or one from before records had units.
        """

        def checked(content: dict[str, Any]) -> ProbeRecord:
            if "hits" in content and "units" not in content:
                raise InputError(
                    f"{path}: this record does not say which images are of one unit (a patient, or a source image), "
                    "so that its intervals could be too narrow; delete it to score its run again."
                )
            record = cls(**content)
            marks = [*record.hits.values(), *(marks for names in record.groups.values() for marks in names.values())]
            if {len(each) for each in marks} != {record.images} or set("".join(marks)) - {"0", "1"}:
                raise ValueError("marks that are not one digit an image")
            if sum(count for _, count in _runs(record.units)) != record.images:
                raise ValueError("units that are not one number an image")
            return record

        return read_record(path, _FORMAT, checked)

    def require_recipe(self, recipe: PretrainRecipe, path: Path) -> None:
        """Refuses a record of another recipe than the grid now asks for.

        Raises:
            InputError: Naming the first setting that differs.
        """
        require_same(self.recipe, recipe.model_dump(mode="json"), path, precision=self.facts.get("precision"))

    def right(self, name: str) -> NDArray[np.float64]:
        """(n,) 1 where the classifier of that name is right."""
        return _numbers(self.hits[name])

    def unit_numbers(self) -> NDArray[np.int64]:
        """(n,) number of every image's unit."""
        numbers, counts = zip(*_runs(self.units), strict=True)
        return np.repeat(np.array(numbers, dtype=np.int64), counts)

    def members(self, kind: str) -> dict[str, NDArray[np.bool_]]:
        """Group -> (n,) which images belong to it."""
        return {name: _numbers(marks) > 0 for name, marks in self.groups[kind].items()}


def make_probe_record(
    cell: ProbeCell,
    recipe: PretrainRecipe,
    images: ProbeImages,
    hits: dict[str, NDArray[np.bool_]],
    facts: dict[str, Any],
) -> ProbeRecord:
    """The record of a probed run.

    Args:
        cell: Which.
        recipe: What it was trained by, with the seed of the run.
        images: What it was probed on.
        hits: Classifier and share -> (n,) where it is right.
        facts: What else is worth keeping.
    """
    tree = recipe.model_dump(mode="json")
    names, groups = [case.name for case in images.scored], images.sets.test.groups
    return ProbeRecord(
        row=cell.row,
        run=cell.run,
        recipe=tree,
        recipe_hash=recipe_digest(deciding(tree)),
        images=len(names),
        images_hash=hashlib.sha256("\n".join(names).encode("utf-8")).hexdigest()[:16],
        units=units_text(image_units(images.scored).tolist()),
        hits={name: _marks(right) for name, right in hits.items()},
        groups={kind: {name: _marks(np.array(of) == name) for name in sorted(set(of))} for kind, of in groups.items()},
        facts=facts,
    )


def units_text(units: Sequence[int]) -> str:
    """Numbers of units as a record keeps them: those of a row of equal ones once, such as "0x5 1x5 2"."""
    runs = [(unit, len(list(equal))) for unit, equal in groupby(units)]
    return " ".join(f"{unit}x{count}" if count > 1 else str(unit) for unit, count in runs)


def _runs(text: str) -> list[tuple[int, int]]:
    """Number and count of every row of equal units."""
    parts = [part.partition("x") for part in text.split()]
    return [(int(unit), int(count or 1)) for unit, _, count in parts]


def _marks(chosen: NDArray[np.bool_]) -> str:
    return "".join("1" if each else "0" for each in chosen)


def _numbers(marks: str) -> NDArray[np.float64]:
    return np.array([float(mark) for mark in marks])
