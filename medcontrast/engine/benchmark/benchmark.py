"""Runs the cells of a grid: train, score, leave a record. Several processes may share a grid; a kill loses nothing."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from rich.console import Console

from medcontrast import checkpoint
from medcontrast.engine.benchmark.records import (
    Start,
    decides_nothing,
    require_one_start,
)
from medcontrast.engine.run import Run, resolve_paths
from medcontrast.engine.run_files import FACTS
from medcontrast.engine.session import train_run
from medcontrast.errors import CheckpointError, InputError, NonFiniteError
from medcontrast.files import make_folder
from medcontrast.say import say
from medcontrast.settings import AnyRecipe
from medcontrast.settings.compare import first_difference, tree_difference
from medcontrast.settings.grid import Cell, ProbeCell

AnyCell = TypeVar("AnyCell", Cell, ProbeCell)

_DESCRIBES = {"name", "description", "source", "licence", "root"}
"""Keys of a manifest that say nothing of its cases."""


class Unfinished(NamedTuple):
    """What a session leaves to do.

    Attributes:
        names: Of the cells without a record.
        failed: Those of them whose training failed -> why.
    """

    names: list[str]
    failed: dict[str, str]


@dataclass(frozen=True)
class Benchmark(ABC, Generic[AnyCell]):
    """Cells of a grid, where their records are kept and where they are worked on.

    Attributes:
        path: The grid file; what it names is relative to it.
        results: Folder of the records.
        work: Folder of runs, manifests and locks; may be deleted once all is done.
    """

    path: Path
    results: Path
    work: Path

    @abstractmethod
    def cells(self) -> Sequence[AnyCell]:
        """Every cell, in the order in which they are worked on."""

    @abstractmethod
    def report(self, into: Path | None) -> str:
        """Writes the tables of the finished cells; returns the Markdown.

        Args:
            into: A Markdown file whose marked part the tables replace.

        Raises:
            InputError: A record is damaged or of another recipe, or `into` has no such part.
        """

    @abstractmethod
    def records(self) -> Mapping[str, Any]:
        """Records of the finished cells, by name, each of what the grid asks for.

        Raises:
            InputError: A record is damaged or of something else.
        """

    @abstractmethod
    def recipe(self, cell: AnyCell) -> AnyRecipe:
        """The cell's recipe as the grid asks for it, paths as they stand."""

    @abstractmethod
    def recipe_path(self, cell: AnyCell) -> Path:
        """The file of the cell's recipe."""

    def require_ready(self, wanted: Sequence[AnyCell]) -> None:
        """Finds before anything is trained what a report of it would fail on.

        Raises:
            InputError: A record of something else, or a start (`train.init_from`) whose weights are not those that
                finished rows began with.
        """
        self.require_starts(self.records(), wanted)

    def worth_saying(self, wanted: Sequence[AnyCell]) -> list[str]:
        """Sentences before the work on what is no fault of the grid, and yet nobody may have meant."""
        return []

    def require_starts(self, records: Mapping[str, Any], wanted: Sequence[AnyCell] = ()) -> None:
        """Refuses cells that name one checkpoint to start from, and begin with different weights of it.

        Args:
            records: Of the finished cells, by name; those of an earlier version do not say which weights it was.
            wanted: Cells that are to be worked on too.

        Raises:
            InputError: Naming two of them.
        """
        unfinished = {cell.name for cell in wanted if cell.name not in records}
        starts = {}
        for cell in self.cells():
            if cell.name not in records and cell.name not in unfinished:
                continue
            source = resolve_paths(self.recipe(cell), self.recipe_path(cell)).train.init_from
            if source is not None:
                known = cell.name in records
                digest = _told_start(records[cell.name].facts) if known else self._start_digest(cell, Path(source))
                if digest is not None:
                    starts[cell.name] = Start(os.path.normpath(source), digest)
        require_one_start(starts)

    def _start_digest(self, cell: AnyCell, source: Path) -> str | None:
        """SHA-256 of the weights that a cell began with, or would begin with now; None where they are not there."""
        folder = self.work / cell.name
        if (folder / checkpoint.RESUME).is_file():
            return _told_start(json.loads((folder / FACTS).read_text(encoding="utf-8")))
        with suppress(CheckpointError):  # training says so
            return checkpoint.checkpoint_hash(checkpoint.resolve_checkpoint(source))
        return None

    @abstractmethod
    def opened(self, cell: AnyCell, recipe: AnyRecipe) -> Run:
        """The cell's run, made of its recipe where it is not there yet."""

    @abstractmethod
    def record(self, cell: AnyCell, recipe: AnyRecipe, run: Run, path: Path) -> None:
        """Scores a finished run and writes its record, with the recipe that the run was opened with."""

    def reopened(self, cell: AnyCell, recipe: AnyRecipe, raw: dict[str, Any]) -> Run | None:
        """The cell's run as far as it was worked on, or None.

        Args:
            cell: Which.
            recipe: What the grid asks for, its paths resolved as in a run folder.
            raw: The manifest's JSON that the grid asks for.

        Raises:
            InputError: The run is of another recipe or of other cases.
        """
        folder = self.work / cell.name
        if not (folder / checkpoint.RESUME).is_file():
            return None
        run = Run.open(folder)
        asked = recipe.model_dump(mode="json")
        found = first_difference(run.recipe.model_dump(mode="json"), asked, free=decides_nothing)
        found = found or tree_difference(run.manifest.raw, raw, free=_DESCRIBES.__contains__)
        if found is not None:
            raise InputError(
                f"{folder}: this run was made with {found.key} {_short(found.old)}, but the grid now asks for "
                f"{_short(found.new)}. Delete the folder to run its cell anew, or put the setting back."
            )
        return run

    def run(self, console: Console, *, max_time_s: float | None = None, only: Sequence[str] = ()) -> Unfinished:
        """Works through the cells that have no record and that no other process works on.

        Args:
            console: Where progress is said.
            max_time_s: Save and stop after this long.
            only: Take only these rows or cells, by name; nothing means all.

        Returns:
            The cells that are not finished. One whose loss or output is not finite keeps no other from its turn.
        """
        failed: dict[str, str] = {}
        deadline = None if max_time_s is None else time.monotonic() + max_time_s
        wanted = [cell for cell in self.cells() if not only or cell.row in only or cell.name in only]
        self.require_ready(wanted)
        for sentence in self.worth_saying(wanted):
            say(console, sentence)
        make_folder(self.work)
        for cell in wanted:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            try:
                with FileLock(self.work / f"{cell.name}.lock", timeout=0):
                    if not self.record_path(cell).exists() and not self._finish(cell, console, left):
                        break
            except Timeout:
                say(console, f"{cell.name}: another process works on it.")
            except NonFiniteError as error:
                failed[cell.name] = str(error)
                say(console, f"{cell.name}: {error}")
        return Unfinished([cell.name for cell in wanted if not self.record_path(cell).exists()], failed)

    def record_path(self, cell: AnyCell) -> Path:
        """Where the cell's record is, or will be."""
        return self.results / f"{cell.name}.json"

    def _finish(self, cell: AnyCell, console: Console, max_time_s: float | None) -> bool:
        """Trains a cell and scores it if that comes to its end; False where something asked to stop."""
        recipe = self.recipe(cell)  # once: its file may be edited while this trains
        run, stopped = self.opened(cell, recipe), None
        total, resumed = run.recipe.train.steps, run.resume_file.is_file()
        if not resumed or _step(run) < total:
            say(console, f"{cell.name}: {'resuming' if resumed else 'training'}")
            stopped = train_run(run.folder, resume=resumed, max_time_s=max_time_s, console=console)
        if _step(run) < total:
            return False
        self.record(cell, recipe, run, self.record_path(cell))
        say(console, f"{cell.name}: recorded in {self.record_path(cell)}")
        if stopped is not None:
            say(console, f"The grid ends here because {stopped}.")
        return stopped is None


_SOMETIMES = {"init_from", "bfloat16_rounded", "cpu", "threads"}
"""Facts of some runs: the last two only of those that this version or a later one began."""


def run_facts(run: Run) -> dict[str, Any]:
    """What a record says of a finished run, whatever it trained."""
    facts = json.loads((run.folder / FACTS).read_text(encoding="utf-8"))
    kept = ("medcontrast", "git_commit", "python", "cpus", "versions", "device", "precision", "written")
    earlier = [{key: part[key] for key in kept} for part in facts.get("earlier", [])]
    return {
        "step": _step(run),
        "student_parameters": facts["student_parameters"],
        "trained_parameters": facts["trained_parameters"],
        "train_seconds": round(checkpoint.load_resume(run.resume_file)["progress"]["seconds"]),
        **{key: facts[key] for key in (*kept, *sorted(_SOMETIMES & facts.keys()))},
        **({"earlier": earlier} if earlier else {}),
    }


def _told_start(facts: Mapping[str, Any]) -> str | None:
    start: dict[str, str] = facts.get("init_from") or {}
    return start.get("sha256")


def _step(run: Run) -> int:
    # what a resume goes on from; the weights, saved a moment before, may be ahead of it where a kill came between
    return int(checkpoint.load_resume(run.resume_file)["progress"]["step"])


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
