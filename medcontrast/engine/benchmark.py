"""Runs the cells of a grid: train, score, leave a record. Several processes may share a grid; a kill loses nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from medcontrast import checkpoint
from medcontrast.data.manifest import load_manifest
from medcontrast.data.subsets import labeled_subset
from medcontrast.engine.records import Record, load_records, make_record
from medcontrast.engine.run import Run, resolve_paths
from medcontrast.engine.scoring import score_checkpoints
from medcontrast.engine.session import train_run
from medcontrast.files import write_text
from medcontrast.settings import Recipe, load_segmentation_recipe
from medcontrast.settings.grid import Cell, GridSettings, cells


@dataclass(frozen=True)
class Benchmark:
    """A grid, where its records are kept and where it works.

    Attributes:
        grid: The settings.
        path: The grid file; recipes and the manifest are relative to it.
        results: Folder of the records.
        work: Folder of runs, manifests and locks; may be deleted once all is done.
    """

    grid: GridSettings
    path: Path
    results: Path
    work: Path

    def recipe(self, cell: Cell) -> Recipe:
        """The cell's recipe; its `data.manifest` is the grid's, from which the run's subset is drawn."""
        row = self.grid.rows[cell.row]
        recipe = load_segmentation_recipe(self.path.parent / row.recipe, [*self.grid.set, *row.set, f"seed={cell.run}"])
        data = recipe.data.model_copy(update={"manifest": self.grid.manifest})
        return recipe.model_copy(update={"data": data})

    def records(self) -> dict[str, Record]:
        """Records of the finished cells, each of the recipe that the grid asks for.

        Raises:
            InputError: A record is damaged or of another recipe.
        """
        found = load_records(self.results, [cell.name for cell in cells(self.grid)])
        for cell in cells(self.grid):
            if cell.name in found:
                found[cell.name].require_recipe(self.recipe(cell), self.results / f"{cell.name}.json")
        return found

    def run(self, console: Console, *, max_time_s: float | None = None, only: Sequence[str] = ()) -> list[str]:
        """Works through the cells that have no record and that no other process works on.

        Args:
            console: Where progress is said.
            max_time_s: Save and stop after this long.
            only: Take only these rows or cells, by name; nothing means all.

        Returns:
            Names of the cells that are not finished.
        """
        deadline = None if max_time_s is None else time.monotonic() + max_time_s
        self.work.mkdir(parents=True, exist_ok=True)
        wanted = [cell for cell in cells(self.grid) if not only or cell.row in only or cell.name in only]
        for cell in wanted:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            try:
                with FileLock(self.work / f"{cell.name}.lock", timeout=0):
                    if not self._record(cell).exists() and not self._finish(cell, console, left):
                        break
            except Timeout:
                console.print(f"{cell.name}: another process works on it.", highlight=False)
        return [cell.name for cell in wanted if not self._record(cell).exists()]

    def _record(self, cell: Cell) -> Path:
        return self.results / f"{cell.name}.json"

    def _finish(self, cell: Cell, console: Console, max_time_s: float | None) -> bool:
        """Trains and scores a cell; False where training was stopped before its end."""
        run = self._opened(cell)
        total, resumed = run.recipe.train.steps, run.resume_file.is_file()
        if not resumed or _step(run) < total:
            console.print(f"{cell.name}: {'resuming' if resumed else 'training'}", highlight=False)
            train_run(run.folder, resume=resumed, max_time_s=max_time_s, console=console)
        if _step(run) < total:
            return False
        report = score_checkpoints(
            [run.folder],
            split=self.grid.split,
            output=run.folder / "evaluation",
            overwrite=True,
            console=Console(quiet=True),
        )
        make_record(cell, self.recipe(cell), report, self._facts(run)).save(self._record(cell))
        console.print(f"{cell.name}: recorded in {self._record(cell)}", highlight=False)
        return True

    def _opened(self, cell: Cell) -> Run:
        folder, row = self.work / cell.name, self.path.parent / self.grid.rows[cell.row].recipe
        recipe = resolve_paths(self.recipe(cell), row)
        if (folder / checkpoint.RESUME).is_file():
            run = Run.open(folder)
            run.require_recipe(recipe.model_dump(mode="json"))
            return run
        root = None if recipe.data.root is None else Path(recipe.data.root)
        manifest = load_manifest(self.path.parent / self.grid.manifest, root)
        raw = labeled_subset(manifest, cell.labeled, cell.run)
        if raw.get("root"):
            raw["root"] = str(manifest.root.absolute())
        subset = self.work / f"{cell.name}.manifest.json"
        write_text(subset, json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
        data = recipe.data.model_copy(update={"manifest": subset.name})
        return Run.create(folder, recipe.model_copy(update={"data": data}), subset, overwrite=folder.exists())

    def _facts(self, run: Run) -> dict[str, Any]:
        facts = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        header = checkpoint.read_header(checkpoint.resolve_checkpoint(run.folder))
        kept = ("medcontrast", "git_commit", "python", "cpus", "versions", "device", "precision", "written")
        return {
            "split": self.grid.split,
            "labeled_cases": header["trained_on"]["labeled"],
            "unlabeled": len(header["trained_on"]["unlabeled"]),
            "step": header["step"],
            "network": header["network"],
            "student_parameters": facts["student_parameters"],
            "trained_parameters": facts["trained_parameters"],
            "train_seconds": round(checkpoint.load_resume(run.resume_file)["progress"]["seconds"]),
            **{key: facts[key] for key in kept},
        }


def _step(run: Run) -> int:
    return int(checkpoint.read_header(checkpoint.resolve_checkpoint(run.folder))["step"])
