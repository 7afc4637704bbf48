"""What a finished cell of a benchmark leaves: one JSON file of a few KB, committed, from which tables are made."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from medcontrast.engine.run import CHANGEABLE_ON_RESUME
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.metrics.report import Report
from medcontrast.settings import Recipe
from medcontrast.settings.compare import first_difference, leaves
from medcontrast.settings.grid import Cell

Made = TypeVar("Made")

_FORMAT = "medcontrast benchmark record 1"
METRICS = (
    "dice",
    "hd95_pooled_mm",
    "hd95_max_directed_mm",
    "asd_mm",
    "assd_mm",
    "surface_dice",
    "volume_error_ml",
    "missed",
)
_FACTS = ("split", "labeled_cases", "step", "trained_parameters", "train_seconds")
"""What tables need of every record, another toolkit's too."""
_OWN_FACTS = ("unlabeled", "network", "device", "precision", "versions")
_OWN_PARTS = ("data", "network", "method", "train", "inference")
PEERS = "peers"
"""Folder beside a grid's records for those of other toolkits on the same cases; its files are no cells of the grid."""


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        row: Row of the grid.
        labeled: Labeled count, or "all".
        run: Number of the run; its seed and its labeled subset.
        recipe: The resolved recipe, with the grid's manifest.
        recipe_hash: SHA-256 of what in the recipe decides the result.
        cases: Case names, in the order of every list below.
        scores: Target -> figure -> a value a case.
        facts: Split, labeled cases, parameters, steps, seconds of training, device, versions, `targets` (the label
            values of each) and a digest of the unlabeled cases' names.
    """

    row: str
    labeled: int | Literal["all"]
    run: int
    recipe: dict[str, Any]
    recipe_hash: str
    cases: list[str]
    scores: dict[str, dict[str, list[float]]]
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its cell, and of its file."""
        return f"{self.row}-{self.labeled}-{self.run}"

    def save(self, path: Path) -> None:
        """Writes the record whole or not at all."""
        write_text(path, _json_by_lines({"format": _FORMAT, **asdict(self)}) + "\n")

    @classmethod
    def load(cls, path: Path) -> Record:
        """Reads what `save` wrote.

        Raises:
            InputError: The file is no such record.
        """

        def checked(content: dict[str, Any]) -> Record:
            record = cls(**content)
            record._require_whole()
            return record

        return read_record(path, _FORMAT, checked)

    def _require_whole(self) -> None:
        """Refuses, with a ValueError, what no table could be made of."""
        require_keys(self.facts, _FACTS, "facts")
        if "peer" not in self.facts:
            require_keys(self.facts, _OWN_FACTS, "facts")
            require_keys(self.recipe, _OWN_PARTS, "recipe")
        for target, figures in self.scores.items():
            for metric in METRICS:
                values = figures.get(metric, ())
                if len(values) != len(self.cases) or not all(map(_is_finite, values)):
                    raise ValueError(f"{target}: {metric} is not one number a case")

    def require_recipe(self, recipe: Recipe, path: Path) -> None:
        """Refuses a record of another recipe than the grid now asks for, as after an edit.

        Settings that came into being after the record was made are not compared: they default to what was there.

        Raises:
            InputError: Naming the first setting that differs.
        """
        require_same(self.recipe, recipe.model_dump(mode="json"), path, precision=self.facts.get("precision"))


def make_record(cell: Cell, recipe: Recipe, report: Report, facts: dict[str, Any]) -> Record:
    """The record of a scored run; figures are kept to five digits."""
    tree = recipe.model_dump(mode="json")
    return Record(cell.row, cell.labeled, cell.run, tree, recipe_digest(deciding(tree)), *_scores(report), facts)


def make_peer_record(
    row: str, labeled: int | Literal["all"], run: int, settings: dict[str, Any], report: Report, facts: dict[str, Any]
) -> Record:
    """The record of another toolkit's run on the same cases.

    Args:
        row: Name of its row.
        labeled: Labeled count, or "all".
        run: Number of the run; its seed and its labeled subset.
        settings: What the peer was given; takes the recipe's place.
        report: Scores of its masks.
        facts: As of a grid's record, and `peer` ({"name", "version"}) and `notes`, sentences for below the table.
    """
    return Record(row, labeled, run, settings, recipe_digest(settings), *_scores(report), facts)


def read_record(path: Path, format_: str, make: Callable[[dict[str, Any]], Made]) -> Made:
    """What `make` makes of a record's content, which it may refuse with a ValueError.

    Args:
        path: The JSON file.
        format_: What it says of itself, such as "medcontrast benchmark record 1".
        make: From the content without that.

    Raises:
        InputError: The file is no such record.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != format_:
            raise ValueError("another format")
        return make(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        kind = " ".join(format_.split()[1:-1])
        raise InputError(f"{path}: not a {kind} ({error}); delete it to run its cell again.") from None


def require_keys(tree: dict[str, Any], names: Sequence[str], where: str) -> None:
    """Refuses, with a ValueError, a part of a record that lacks one of these."""
    missing = [name for name in names if name not in tree]
    if missing:
        raise ValueError(f"no {where}.{missing[0]}")


def load_records(folder: Path, names: Sequence[str]) -> dict[str, Record]:
    """The records of those cells that are finished, by name.

    Raises:
        InputError: One is damaged, or of another cell.
    """
    paths = {name: folder / f"{name}.json" for name in names}
    found = {name: Record.load(path) for name, path in paths.items() if path.is_file()}
    for name, record in found.items():
        require_cell(record.name, paths[name])
    return found


def load_peer_records(folder: Path) -> dict[str, Record]:
    """Every record of another toolkit in the folder `peers` beside a grid's own, by name.

    Raises:
        InputError: One is damaged, names no peer, or is of another row or run than its file.
    """
    found = {f"{PEERS}/{path.stem}": Record.load(path) for path in sorted((folder / PEERS).glob("*.json"))}
    for name, record in found.items():
        require_cell(record.name, folder / f"{name}.json")
        peer = record.facts.get("peer")
        if not isinstance(peer, dict) or not {"name", "version"} <= peer.keys():
            raise InputError(f"{folder / name}.json: names no peer and its version; a grid's own records stand beside.")
    return found


def _scores(report: Report) -> tuple[list[str], dict[str, dict[str, list[float]]]]:
    cases = list(report.cases)
    return cases, {
        target: {metric: [_rounded(getattr(report.cases[case][place], metric)) for case in cases] for metric in METRICS}
        for place, target in enumerate(report.targets)
    }


def require_same(old: dict[str, Any], new: dict[str, Any], path: Path, *, precision: str | None) -> None:
    """Refuses a record whose recipe decides another result than the grid's.

    Args:
        old: The record's recipe.
        new: The grid's. Where it names a precision, that is the one to have computed in; `auto` takes any.
        path: The record.
        precision: What the record was computed in, which its recipe may have left to the device.

    Raises:
        InputError: Naming the first setting that differs.
    """
    old = {**old, "train": {**old["train"], "precision": precision}}
    any_precision = new["train"]["precision"] == "auto"
    found = first_difference(
        old, new, free=lambda key: decides_nothing(key) or (any_precision and key == "train.precision")
    )
    if found is not None:
        raise InputError(
            f"{path}: this record was made with {found.key} {found.old}, but the grid now asks for {found.new}. "
            "Delete it to run its cell again, or put the setting back."
        )


def require_cell(name: str, path: Path) -> None:
    """Refuses a record that is of another cell than its file, as after it was renamed or edited.

    Raises:
        InputError: Naming both.
    """
    if name != path.stem:
        raise InputError(f"{path}: this record is of {name}; give the file that name, or delete it.")


def require_split(facts: dict[str, Any], split: str, path: Path) -> None:
    """Refuses a record that was scored on another split than the grid's.

    Raises:
        InputError: Naming both.
    """
    if facts.get("split") != split:
        raise InputError(
            f"{path}: this record is of split {facts.get('split')}, but the grid now asks for {split}. Delete it to "
            "make it anew, or put the grid back."
        )


def decides_nothing(key: str) -> bool:
    """Whether a setting may differ between two runs of one result: what a resume may change, save two of them."""
    return key in CHANGEABLE_ON_RESUME and key not in ("train.steps", "train.precision")


def recipe_digest(settings: dict[str, Any]) -> str:
    """Short name of the settings that decide a result: the first 16 hex digits of a SHA-256."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode("utf-8")).hexdigest()[:16]


def deciding(tree: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide the result, with dotted keys."""
    return {key: value for key, value in leaves(tree).items() if not (decides_nothing(key) or key[:6] == "about.")}


def names_digest(names: Sequence[str]) -> str:
    """Short name of these names, whatever their order: the first 16 hex digits of a SHA-256."""
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8")).hexdigest()[:16]


class Start(NamedTuple):
    """What a cell starts from: where its `train.init_from` leads, and the SHA-256 of the weights found there."""

    source: str
    digest: str


def require_one_start(starts: Mapping[str, Start]) -> None:
    """Refuses cells that name one checkpoint to start from, and begin with different weights of it.

    Args:
        starts: Name of a cell -> its start.

    Raises:
        InputError: Naming the first two.
    """
    first: dict[str, tuple[str, str]] = {}
    for name, (source, digest) in starts.items():
        other, known = first.setdefault(source, (name, digest))
        if digest != known:
            raise InputError(
                f"{source} was trained anew: {name} starts from other weights of it (SHA-256 {digest[:8]}...) than "
                f"{other} ({known[:8]}...), and rows that are compared start from the same. Put the checkpoint back, "
                "or delete the records that started from the other."
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _rounded(value: float | bool) -> float:
    return float(f"{float(value):.5g}")


def _json_by_lines(tree: dict[str, Any], depth: int = 1) -> str:
    """JSON with a line for each part and each figure, so that a change can be read."""
    pad, parts = " " * depth, []
    for key, value in tree.items():
        deeper = isinstance(value, dict) and (key == "scores" or depth > 1)
        text = _json_by_lines(value, depth + 1) if deeper else json.dumps(value, ensure_ascii=False, allow_nan=False)
        parts.append(f"{pad}{json.dumps(key, ensure_ascii=False)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n" + " " * (depth - 1) + "}"
