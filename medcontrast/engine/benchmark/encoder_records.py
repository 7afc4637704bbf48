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

from medcontrast.data.images.pixels import read_pixels
from medcontrast.data.images.sources import ImageCase
from medcontrast.engine.benchmark.records import deciding, read_record, recipe_digest, require_keys, require_same
from medcontrast.engine.probe.images import ProbeImages, group_members, image_units
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.settings import PretrainRecipe
from medcontrast.settings.grid import ProbeCell

_FORMAT = "medcontrast probe record 1"
_FACTS = ("split", "manifest", "classes", "step", "student_parameters", "train_seconds", "precision")
_PARTS = ("data", "augment", "network", "method", "train")


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
        units: Number of every image's unit (`image_units`), as `units_text` writes them.
        hits: Classifier and share of the labels, such as "linear 1", -> a digit an image: 1 where it is right.
        groups: Kind of group -> name of a group -> a digit an image: 1 where it belongs to it.
        facts: Split, labels, parameters, steps, seconds of training, device, versions, the probe's warnings.
        pixels_hash: SHA-256 of the test images' pixels as they lie in their files, and of their targets; records of one
            table that have one have the same.
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
    pixels_hash: str | None = None

    @property
    def name(self) -> str:
        """Of its cell, and of its file."""
        return f"{self.row}-{self.run}"

    def save(self, path: Path) -> None:
        """Writes the record whole or not at all; four digits of hits and groups as one."""
        hits = {name: _packed(marks) for name, marks in self.hits.items()}
        groups = {kind: {name: _packed(marks) for name, marks in of.items()} for kind, of in self.groups.items()}
        content = {"format": _FORMAT, **asdict(self), "hits": hits, "groups": groups}
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

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
            count = content["images"]
            content["hits"] = {name: _unpacked(marks, count) for name, marks in content["hits"].items()}
            content["groups"] = {
                kind: {name: _unpacked(marks, count) for name, marks in of.items()}
                for kind, of in content["groups"].items()
            }
            record = cls(**content)
            marks = [*record.hits.values(), *(marks for names in record.groups.values() for marks in names.values())]
            if {len(each) for each in marks} != {record.images} or set("".join(marks)) - {"0", "1"}:
                raise ValueError("marks that are not one digit an image")
            if sum(count for _, count in _runs(record.units)) != record.images:
                raise ValueError("units that are not one number an image")
            require_keys(record.facts, _FACTS, "facts")
            require_keys(record.recipe, _PARTS, "recipe")
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
        groups={
            kind: {name: _marks(marks) for name, marks in group_members(of).items()} for kind, of in groups.items()
        },
        facts=facts,
        pixels_hash=pixels_digest(images.scored),
    )


def pixels_digest(cases: Sequence[ImageCase]) -> str:
    """Short name of the images' pixels in 8 bits, before any is resized, and of their targets, in order."""
    digest = hashlib.sha256()
    for case in cases:
        pixels = np.rint(read_pixels(case)).astype(np.uint8)
        digest.update(f"{pixels.shape} {case.target} ".encode())
        digest.update(pixels.tobytes())
    return digest.hexdigest()[:16]


def units_text(units: Sequence[int]) -> str:
    """Numbers of units as a record keeps them: those of a row of equal ones once, and rising ones by their ends.

    0 0 0 1 1 1 2 2 2 7 7 is "0-2x3 7x2".
    """
    spans: list[list[int]] = []
    for unit, equal in groupby(units):
        count = len(list(equal))
        if spans and spans[-1][1:] == [unit - 1, count]:
            spans[-1][1] = unit
        else:
            spans.append([unit, unit, count])
    return " ".join(
        (f"{first}-{last}" if last > first else str(first)) + (f"x{count}" if count > 1 else "")
        for first, last, count in spans
    )


def _runs(text: str) -> list[tuple[int, int]]:
    """Number and count of every row of equal units."""
    found: list[tuple[int, int]] = []
    for part in text.split():
        span, _, count = part.partition("x")
        first, _, last = span.partition("-")
        found += [(unit, int(count or 1)) for unit in range(int(first), int(last or first) + 1)]
    return found


def _marks(chosen: NDArray[np.bool_]) -> str:
    return "".join("1" if each else "0" for each in chosen)


def _packed(marks: str) -> str:
    """Digits 0 and 1 as "x" and hexadecimal digits, four in one, filled up with 0."""
    padded = marks + "0" * (-len(marks) % 4)
    return "x" + "".join(f"{int(padded[place : place + 4], 2):x}" for place in range(0, len(padded), 4))


def _unpacked(marks: str, count: int) -> str:
    """The way back; marks of earlier records are digits 0 and 1 as they are.

    Raises:
        ValueError: Not as many as there are images.
    """
    if not marks.startswith("x"):
        return marks
    digits = "".join(f"{int(each, 16):04b}" for each in marks[1:])
    if len(digits) != count + -count % 4 or "1" in digits[count:]:
        raise ValueError("marks that are not one digit an image")
    return digits[:count]


def _numbers(marks: str) -> NDArray[np.float64]:
    return np.array([float(mark) for mark in marks])
