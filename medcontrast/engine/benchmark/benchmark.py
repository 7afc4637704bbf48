"""Runs the cells of a grid: train, score, leave a record. Several processes may share a grid; a kill loses nothing."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from rich.console import Console

from medcontrast import checkpoint
from medcontrast.data.manifest import Manifest, load_manifest
from medcontrast.data.subsets import labeled_subset
from medcontrast.engine.benchmark.records import (
    Record,
    decides_nothing,
    load_peer_records,
    load_records,
    make_record,
    require_split,
)
from medcontrast.engine.benchmark.report import write_report
from medcontrast.engine.run import Run, resolve_paths
from medcontrast.engine.scoring import score_checkpoints
from medcontrast.engine.session import train_run
from medcontrast.errors import InputError, NonFiniteLossError
from medcontrast.files import make_folder, write_text
from medcontrast.say import say
from medcontrast.settings import AnyRecipe, Recipe, load_segmentation_recipe
from medcontrast.settings.compare import first_difference, tree_difference
from medcontrast.settings.grid import Cell, GridSettings, ProbeCell, cells

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
            InputError: There is no record, one is damaged or of another recipe, or `into` has no such part.
        """

    @abstractmethod
    def opened(self, cell: AnyCell) -> Run:
        """The cell's run, made where it is not there yet."""

    @abstractmethod
    def record(self, cell: AnyCell, run: Run, path: Path) -> None:
        """Scores a finished run and writes its record."""

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
            The cells that are not finished. One whose loss became NaN keeps no other from its turn.
        """
        failed: dict[str, str] = {}
        deadline = None if max_time_s is None else time.monotonic() + max_time_s
        make_folder(self.work)
        wanted = [cell for cell in self.cells() if not only or cell.row in only or cell.name in only]
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
            except NonFiniteLossError as error:
                failed[cell.name] = str(error)
                say(console, f"{cell.name}: {error}")
        return Unfinished([cell.name for cell in wanted if not self.record_path(cell).exists()], failed)

    def record_path(self, cell: AnyCell) -> Path:
        """Where the cell's record is, or will be."""
        return self.results / f"{cell.name}.json"

    def _finish(self, cell: AnyCell, console: Console, max_time_s: float | None) -> bool:
        """Trains a cell and scores it if that comes to its end; False where something asked to stop."""
        run, stopped = self.opened(cell), None
        total, resumed = run.recipe.train.steps, run.resume_file.is_file()
        if not resumed or _step(run) < total:
            say(console, f"{cell.name}: {'resuming' if resumed else 'training'}")
            stopped = train_run(run.folder, resume=resumed, max_time_s=max_time_s, console=console)
        if _step(run) < total:
            return False
        self.record(cell, run, self.record_path(cell))
        say(console, f"{cell.name}: recorded in {self.record_path(cell)}")
        if stopped is not None:
            say(console, f"The grid ends here because {stopped}.")
        return stopped is None


def _require_cases(
    record: Record, labeled: Sequence[str], scored: Sequence[str], manifest: Manifest, path: Path
) -> None:
    for kind, old, new in (("labeled", record.facts["labeled_cases"], labeled), ("scored", record.cases, scored)):
        if sorted(old) != sorted(new):
            raise InputError(
                f"{path}: this record has other {kind} cases than {manifest.path} now names for it. Delete it to make "
                "it anew, or put the manifest back."
            )


@dataclass(frozen=True)
class SegmentationBenchmark(Benchmark[Cell]):
    """A grid of segmentation methods.

    Attributes:
        grid: The settings; its manifest is relative to the grid file.
    """

    grid: GridSettings

    def cells(self) -> Sequence[Cell]:
        return cells(self.grid)

    def recipe(self, cell: Cell) -> Recipe:
        """The cell's recipe; its `data.manifest` is the grid's, from which the run's subset is drawn."""
        row = self.grid.rows[cell.row]
        recipe = load_segmentation_recipe(self.path.parent / row.recipe, [*self.grid.set, *row.set, f"seed={cell.run}"])
        data = recipe.data.model_copy(update={"manifest": self.grid.manifest})
        return recipe.model_copy(update={"data": data})

    def records(self) -> dict[str, Record]:
        """Records of the finished cells, each of the recipe and of the cases that the grid asks for.

        Raises:
            InputError: A record is damaged, of another recipe or of other cases.
        """
        wanted = {cell.name: cell for cell in self.cells()}
        found = load_records(self.results, list(wanted))
        manifest = self._manifest()
        for name, record in found.items():
            self._require_of_this_grid(wanted[name], record, manifest)
        return found

    def _require_of_this_grid(self, cell: Cell, record: Record, manifest: Manifest) -> None:
        path, recipe = self.record_path(cell), self.recipe(cell)
        record.require_recipe(recipe, path)
        require_split(record.facts, self.grid.split, path)
        subset = labeled_subset(manifest, cell.labeled, cell.run)
        labeled = [entry["case"] for entry in subset["labeled"]]
        scored = [case.name for case in manifest.split(self.grid.split)]
        _require_cases(record, labeled, scored, manifest, path)
        before, now = record.facts["unlabeled"], len(subset["unlabeled"])
        if recipe.train.unlabeled_rows and before != now:
            raise InputError(
                f"{path}: this record was made with {before} unlabeled cases, but {manifest.path} now has {now}. "
                "Delete it to run its cell again, or put the manifest back."
            )

    def report(self, into: Path | None) -> str:
        records = self.records()
        if not records:
            raise no_records(self.results)
        manifest = self._manifest()
        peers = load_peer_records(self.results)
        for name, record in peers.items():
            self._require_peer(record, manifest, self.results / f"{name}.json")
        structures = [label.name for label in manifest.labels.labels]
        return write_report(self.grid, records, self.results, into, peers=peers, structures=structures)

    def _require_peer(self, record: Record, manifest: Manifest, path: Path) -> None:
        """Holds another toolkit's record to the cases of the grid's own."""
        require_split(record.facts, self.grid.split, path)
        labeled = labeled_subset(manifest, record.labeled, record.run)["labeled"]
        scored = [case.name for case in manifest.split(self.grid.split)]
        _require_cases(record, [entry["case"] for entry in labeled], scored, manifest, path)

    def record(self, cell: Cell, run: Run, path: Path) -> None:
        report = score_checkpoints(
            [run.folder],
            split=self.grid.split,
            output=run.folder / "evaluation",
            overwrite=True,
            console=Console(quiet=True),
        )
        make_record(cell, self.recipe(cell), report, self._facts(run)).save(path)

    def opened(self, cell: Cell) -> Run:
        folder, row = self.work / cell.name, self.path.parent / self.grid.rows[cell.row].recipe
        recipe = resolve_paths(self.recipe(cell), row)
        manifest = self._manifest(cell)
        raw = labeled_subset(manifest, cell.labeled, cell.run)
        known = self.reopened(cell, recipe, raw)
        if known is not None:
            return known
        if raw.get("root"):
            raw["root"] = str(manifest.root.absolute())
        subset = self.work / f"{cell.name}.manifest.json"
        write_text(subset, json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
        data = recipe.data.model_copy(update={"manifest": subset.name})
        return Run.create(folder, recipe.model_copy(update={"data": data}), subset, overwrite=folder.exists())

    def _manifest(self, cell: Cell | None = None) -> Manifest:
        """The grid's manifest, its files where the cell's recipe has them; its names are the same for every cell."""
        cell = cell or self.cells()[0]
        root = resolve_paths(self.recipe(cell), self.path.parent / self.grid.rows[cell.row].recipe).data.root
        return load_manifest(self.path.parent / self.grid.manifest, None if root is None else Path(root))

    def _facts(self, run: Run) -> dict[str, Any]:
        header = checkpoint.read_header(checkpoint.resolve_checkpoint(run.folder))
        return {
            "split": self.grid.split,
            "labeled_cases": header["trained_on"]["labeled"],
            "unlabeled": len(header["trained_on"]["unlabeled"]),
            "network": header["network"],
            **run_facts(run),
        }


def run_facts(run: Run) -> dict[str, Any]:
    """What a record says of a finished run, whatever it trained."""
    facts = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    kept = ("medcontrast", "git_commit", "python", "cpus", "versions", "device", "precision", "written")
    earlier = [{key: part[key] for key in kept} for part in facts.get("earlier", [])]
    return {
        "step": _step(run),
        "student_parameters": facts["student_parameters"],
        "trained_parameters": facts["trained_parameters"],
        "train_seconds": round(checkpoint.load_resume(run.resume_file)["progress"]["seconds"]),
        **{key: facts[key] for key in (*kept, *sorted({"init_from", "bfloat16_rounded"} & facts.keys()))},
        **({"earlier": earlier} if earlier else {}),
    }


def no_records(results: Path) -> InputError:
    """What a report without records says."""
    return InputError(f"{results}: there is no record yet, so there is no table to make.")


def _step(run: Run) -> int:
    return int(checkpoint.read_header(checkpoint.resolve_checkpoint(run.folder))["step"])


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
