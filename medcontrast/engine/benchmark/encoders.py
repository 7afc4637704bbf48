"""A grid of pre-training recipes: each encoder is trained, frozen and probed, and leaves a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.fit import recipe_manifest
from medcontrast.data.images.manifest import CONTAINS, ImageManifest
from medcontrast.engine.benchmark.benchmark import Benchmark, run_facts
from medcontrast.engine.benchmark.encoder_records import ProbeRecord, make_probe_record
from medcontrast.engine.benchmark.encoder_report import classifier_name, require_comparable, write_probe_report
from medcontrast.engine.benchmark.records import require_cell, require_split
from medcontrast.engine.probe.images import group_members, image_units, probe_cases, probe_images
from medcontrast.engine.probe.labels import stratified_subset
from medcontrast.engine.probe.probe import MULTILABEL, Frozen
from medcontrast.engine.probe.run import load_trained
from medcontrast.engine.run import Run, resolve_paths
from medcontrast.errors import InputError
from medcontrast.inference.device import resolve_device
from medcontrast.settings import AnyRecipe, PretrainRecipe, load_recipe, require_pretraining
from medcontrast.settings.grid import ProbeCell, ProbeGridSettings, probe_cells


@dataclass(frozen=True)
class ProbeBenchmark(Benchmark[ProbeCell]):
    """A grid of encoders.

    Attributes:
        grid: The settings; recipes are relative to the grid file, manifests to their recipes.
    """

    grid: ProbeGridSettings

    def cells(self) -> Sequence[ProbeCell]:
        return probe_cells(self.grid)

    def recipe_path(self, cell: ProbeCell) -> Path:
        return self.path.parent / self.grid.rows[cell.row].recipe

    def recipe(self, cell: ProbeCell) -> PretrainRecipe:
        """The cell's recipe, with the run as its seed."""
        path, sets = self.recipe_path(cell), [*self.grid.set, *self.grid.rows[cell.row].set, f"seed={cell.run}"]
        return require_pretraining(load_recipe(path, sets, beside=self.path), where=f"{self.path}: {path}")

    def records(self) -> dict[str, ProbeRecord]:
        """Records of the finished cells, each of the recipe that the grid asks for.

        Raises:
            InputError: A record is damaged, of another recipe or from another start.
        """
        found = {}
        for cell in self.cells():
            path = self.record_path(cell)
            if path.is_file():
                found[cell.name] = record = ProbeRecord.load(path)
                require_cell(record.name, path)
                record.require_recipe(self.recipe(cell), path)
                require_split(record.facts, self.grid.split, path)
        self.require_starts(found)
        return found

    def report(self, into: Path | None) -> str:
        return write_probe_report(self.grid, self.records(), self.results, into)

    def require_ready(self, wanted: Sequence[ProbeCell]) -> None:
        super().require_ready(wanted)
        unfinished = [cell for cell in wanted if not self.record_path(cell).exists()]
        manifests = [recipe_manifest(self.recipe(cell), self.recipe_path(cell)) for cell in unfinished]
        for manifest in {(each.path.resolve(), each.root): each for each in manifests}.values():
            self._require_scorable(manifest)

    def _require_scorable(self, manifest: ImageManifest) -> None:
        """Refuses images that no probe could be fitted to or scored on as the grid asks for it."""
        if MULTILABEL in self.grid.classifiers and not manifest.contains:
            raise InputError(
                f"{self.path}: classifiers: {MULTILABEL} tells labels that classes contain, but {manifest.path} has no "
                f'table "{CONTAINS}", class -> its labels.'
            )
        if not manifest.sources.get(self.grid.split):
            raise InputError(f"{self.path}: split {self.grid.split}: {manifest.path} has no such images to score.")
        cases = probe_cases(manifest, split=self.grid.split)
        members = {kind: group_members(names) for kind, names in cases.groups.items()}
        require_comparable(self.grid, members, image_units(cases.scored))

    def opened(self, cell: ProbeCell, recipe: AnyRecipe) -> Run:
        folder, path = self.work / cell.name, self.recipe_path(cell)
        manifest = recipe_manifest(recipe, path)
        known = self.reopened(cell, resolve_paths(recipe, path), manifest.raw)
        if known is not None:
            return known
        return Run.create(folder, recipe, path, overwrite=folder.exists())

    def record(self, cell: ProbeCell, recipe: AnyRecipe, run: Run, path: Path) -> None:
        assert isinstance(recipe, PretrainRecipe)
        assert isinstance(run.manifest, ImageManifest)
        trained = load_trained(run.folder)
        images = probe_images(run.manifest, trained.recipe.data, split=self.grid.split)
        frozen = Frozen.of(trained.encoder, images.sets, resolve_device(None))
        hits: dict[str, NDArray[np.bool_]] = {}
        for fraction in self.grid.fractions:
            chosen = stratified_subset(images.sets.train.targets, fraction, cell.run)
            scores = frozen.scores(images.sets, chosen)
            for classifier in self.grid.classifiers:
                hits[classifier_name(classifier, fraction)] = images.sets.hits(classifier, scores[classifier])
        facts = {
            "split": self.grid.split,
            "manifest": run.manifest.name,
            "images": images.sizes,
            "classes": images.sets.classes,
            "warnings": list(images.warnings),
            **run_facts(run),
        }
        make_probe_record(cell, recipe, images, hits, facts).save(path)
