"""A grid of segmentation methods: each cell is trained on its labeled subset, scored, and leaves a record."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from medcontrast import checkpoint
from medcontrast.data.manifest import Manifest, load_manifest
from medcontrast.data.subsets import labeled_subset
from medcontrast.engine.benchmark.benchmark import Benchmark, run_facts
from medcontrast.engine.benchmark.records import (
    Record,
    load_peer_records,
    load_records,
    make_record,
    names_digest,
    require_split,
)
from medcontrast.engine.benchmark.report import write_report
from medcontrast.engine.evaluation_output import FACTS
from medcontrast.engine.run import Run, resolve_paths
from medcontrast.engine.scoring import score_checkpoints
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.settings import AnyRecipe, Recipe, load_segmentation_recipe
from medcontrast.settings.grid import Cell, GridSettings, cells


@dataclass(frozen=True)
class SegmentationBenchmark(Benchmark[Cell]):
    """A grid of segmentation methods.

    Attributes:
        grid: The settings; its manifest is relative to the grid file.
    """

    grid: GridSettings

    def cells(self) -> Sequence[Cell]:
        return cells(self.grid)

    def recipe_path(self, cell: Cell) -> Path:
        return self.path.parent / self.grid.rows[cell.row].recipe

    def recipe(self, cell: Cell) -> Recipe:
        """The cell's recipe; its `data.manifest` is the grid's, from which the run's subset is drawn."""
        sets = [*self.grid.set, *self.grid.rows[cell.row].set, f"seed={cell.run}"]
        recipe = load_segmentation_recipe(self.recipe_path(cell), sets, beside=self.path)
        data = recipe.data.model_copy(update={"manifest": self.grid.manifest})
        return recipe.model_copy(update={"data": data})

    def require_ready(self, wanted: Sequence[Cell]) -> None:
        manifest = self._manifest()
        targets = manifest.labels.targets
        if self.grid.target not in targets:
            raise InputError(
                f"{self.path}: target {self.grid.target!r} is none of those of {manifest.path}: {', '.join(targets)}."
            )
        manifest.split(
            self.grid.split, "a grid scores validation or test cases: make some with `medcontrast data split`"
        )
        for count in dict.fromkeys(cell.labeled for cell in wanted):
            labeled_subset(manifest, count, 0)
        super().require_ready(wanted)

    def worth_saying(self, wanted: Sequence[Cell]) -> list[str]:
        manifest, told = self._manifest(), []
        for count in dict.fromkeys(cell.labeled for cell in wanted):
            runs = {cell.run for cell in wanted if cell.labeled == count}
            subsets = {frozenset(_names(labeled_subset(manifest, count, run)["labeled"])) for run in runs}
            if count != "all" and len(runs) > 1 and len(subsets) == 1:
                told.append(
                    f"Warning: {manifest.path} has no more than {count} cases with a label file to train on, so that "
                    f"the {len(runs)} runs with {count} labels have one labeled subset and differ in their seeds alone."
                )
        return told

    def records(self) -> dict[str, Record]:
        """Records of the finished cells, each of the recipe, the cases and the labels that the grid asks for.

        Raises:
            InputError: A record is damaged, of another recipe or of other cases or labels.
        """
        wanted = {cell.name: cell for cell in self.cells()}
        found = load_records(self.results, list(wanted))
        manifest = self._manifest()
        for name, record in found.items():
            self._require_of_this_grid(wanted[name], record, manifest)
        self.require_starts(found)
        return found

    def _require_of_this_grid(self, cell: Cell, record: Record, manifest: Manifest) -> None:
        path, recipe = self.record_path(cell), self.recipe(cell)
        record.require_recipe(recipe, path)
        require_split(record.facts, self.grid.split, path)
        subset = labeled_subset(manifest, cell.labeled, cell.run)
        labeled = _names(subset["labeled"])
        scored = [case.name for case in manifest.split(self.grid.split)]
        _require_cases(record, labeled, scored, manifest, path)
        _require_targets(record, manifest, path)
        unlabeled = _names(subset["unlabeled"])
        before, digest = record.facts["unlabeled"], names_digest(unlabeled)
        if recipe.train.unlabeled_rows and before != len(unlabeled):
            raise InputError(
                f"{path}: this record was made with {before} unlabeled cases, but {manifest.path} now has "
                f"{len(unlabeled)}. Delete it to run its cell again, or put the manifest back."
            )
        if recipe.train.unlabeled_rows and record.facts.get("unlabeled_digest", digest) != digest:
            raise _other_cases("unlabeled", manifest, path)

    def report(self, into: Path | None) -> str:
        records = self.records()
        manifest = self._manifest()
        peers = load_peer_records(self.results)
        for name, record in peers.items():
            self._require_peer(record, manifest, self.results / f"{name}.json")
        structures = [label.name for label in manifest.labels.labels]
        patients = manifest.patients_of(case.name for case in manifest.split(self.grid.split))
        return write_report(
            self.grid, records, self.results, into, peers=peers, structures=structures, patients=patients
        )

    def _require_peer(self, record: Record, manifest: Manifest, path: Path) -> None:
        """Holds another toolkit's record to the cases of the grid's own."""
        require_split(record.facts, self.grid.split, path)
        labeled = labeled_subset(manifest, record.labeled, record.run)["labeled"]
        scored = [case.name for case in manifest.split(self.grid.split)]
        _require_cases(record, _names(labeled), scored, manifest, path)
        _require_targets(record, manifest, path)

    def record(self, cell: Cell, recipe: AnyRecipe, run: Run, path: Path) -> None:
        assert isinstance(recipe, Recipe)
        output = run.folder / "evaluation"
        report = score_checkpoints(
            [run.folder], split=self.grid.split, output=output, overwrite=True, console=Console(quiet=True)
        )
        make_record(cell, recipe, report, {**self._facts(run), "warnings": _warnings(output, run)}).save(path)

    def opened(self, cell: Cell, recipe: AnyRecipe) -> Run:
        folder = self.work / cell.name
        recipe = resolve_paths(recipe, self.recipe_path(cell))
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
        root = resolve_paths(self.recipe(cell), self.recipe_path(cell)).data.root
        return load_manifest(self.path.parent / self.grid.manifest, None if root is None else Path(root))

    def _facts(self, run: Run) -> dict[str, Any]:
        assert isinstance(run.manifest, Manifest)
        header = checkpoint.read_header(checkpoint.resolve_checkpoint(run.folder))
        return {
            "split": self.grid.split,
            "labeled_cases": header["trained_on"]["labeled"],
            "unlabeled": len(header["trained_on"]["unlabeled"]),
            "unlabeled_digest": names_digest([case.name for case in run.manifest.unlabeled]),
            "targets": _targets(run.manifest),
            "network": header["network"],
            **run_facts(run),
        }


def _names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [entry["case"] for entry in entries]


def _warnings(evaluation: Path, run: Run) -> list[str]:
    """What the evaluation warned of, without the folders of this machine."""
    told: list[str] = json.loads((evaluation / FACTS).read_text(encoding="utf-8"))["warnings"]
    root = f"{run.manifest.root}{os.sep}"
    return [sentence.replace(root, "").replace(str(run.folder), "its run") for sentence in told]


def _targets(manifest: Manifest) -> dict[str, list[int]]:
    """The label values of each target, as JSON keeps them."""
    return {name: list(values) for name, values in manifest.labels.targets.items()}


def _require_targets(record: Record, manifest: Manifest, path: Path) -> None:
    """Records of an earlier version have the names of the targets alone."""
    now = _targets(manifest)
    if list(record.scores) != list(now) or record.facts.get("targets", now) != now:
        raise InputError(
            f"{path}: this record was scored by other labels or regions than {manifest.path} now names. Delete it to "
            "make it anew, or put the manifest back."
        )


def _other_cases(kind: str, manifest: Manifest, path: Path) -> InputError:
    return InputError(
        f"{path}: this record has other {kind} cases than {manifest.path} now names for it. Delete it to make it anew, "
        "or put the manifest back."
    )


def _require_cases(
    record: Record, labeled: Sequence[str], scored: Sequence[str], manifest: Manifest, path: Path
) -> None:
    for kind, old, new in (("labeled", record.facts["labeled_cases"], labeled), ("scored", record.cases, scored)):
        if sorted(old) != sorted(new):
            raise _other_cases(kind, manifest, path)
