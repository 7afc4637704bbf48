"""Scores: a checkpoint on a split of a manifest, or anybody's masks against label files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medcontrast.data.manifest import Case, Manifest
from medcontrast.engine.mask_folders import label_file
from medcontrast.errors import InputError, ManifestError, VolumeError
from medcontrast.files import read_json
from medcontrast.labels import LabelTable
from medcontrast.metrics.case import TargetScore, score_case
from medcontrast.metrics.report import Report, layout
from medcontrast.render import OverlayRow, overlay_grid_png
from medcontrast.volume import Volume, output_stem, read_grid, read_volume, turns_onto, voxels_by_value
from medcontrast.volume.segments import (
    how_to_place,
    named_segments,
    names_of_values,
    read_label_map,
    require_one_layer,
)

WORST_SHOWN = 4


@dataclass(frozen=True)
class ScoringRules:
    """How each pair of masks is scored.

    Attributes:
        labels: Names the targets; values outside it are an error.
        tolerance_mm: Of the surface Dice.
        voxels: Whether distances are given in voxels too.
    """

    labels: LabelTable
    tolerance_mm: float
    voxels: bool = False

    @property
    def layout(self) -> str:
        """What is scored and how, in words, as a report says it."""
        return layout(self.labels.targets, [self.tolerance_mm], voxels=self.voxels)


@dataclass(frozen=True)
class Pair:
    """A prediction beside its reference."""

    case: str
    prediction: Volume
    reference: Volume


def score_pairs(
    pairs: Iterator[Pair],
    rules: ScoringRules,
    *,
    on_case: Callable[[Pair, Sequence[TargetScore]], None] | None = None,
) -> Report:
    """Scores case after case; each pair must lie on one grid, its axes stored in any order and direction.

    Args:
        pairs: Predictions beside their references; none is kept.
        rules: How they are scored.
        on_case: Called with each pair and its scores.

    Raises:
        VolumeError: Grids differ, or a mask holds a value outside the label table.
    """
    scores: dict[str, list[TargetScore]] = {}
    for pair in pairs:
        pair = replace(pair, prediction=_on_the_grid(pair))
        for volume in (pair.prediction, pair.reference):
            _require_known_values(volume, rules.labels)
        scores[pair.case] = score_case(
            pair.prediction.array,
            pair.reference.array,
            targets=rules.labels.targets,
            spacing_mm=pair.reference.grid.steps_mm,
            tolerance_mm=rules.tolerance_mm,
            ignore_value=rules.labels.ignore_value,
            voxels=rules.voxels,
        )
        if on_case is not None:
            on_case(pair, scores[pair.case])
    return Report(scores)


def _on_the_grid(pair: Pair) -> Volume:
    """The prediction in the reference's order of axes."""
    prediction, grid = pair.prediction, pair.reference.grid
    difference = prediction.grid.difference(grid)
    if difference is None:
        return prediction
    turned = prediction.stored_as(grid)
    if turned is None:
        raise VolumeError(
            f"Case {pair.case}: the prediction {prediction.path} is not on the grid of {pair.reference.path}: "
            f"{difference}; {how_to_place(prediction.path, prediction.grid, grid)}. Masks are compared on the scan's "
            "own grid, where `medcontrast infer` writes them."
        )
    return turned


def table_beside(predictions: list[Path]) -> LabelTable | None:
    """The label table of the JSON record beside the first mask that has one; JSON without a table is another's.

    Raises:
        ManifestError: A file of a record's name is damaged, or its table cannot be used.
    """
    for path in predictions:
        record = path.with_name(output_stem(path) + ".json")
        if not record.is_file():
            continue
        try:
            content = read_json(record)
            if isinstance(content, dict) and isinstance(content.get("labels"), dict):
                return LabelTable.from_record(content, where=str(record))
        except ManifestError as error:
            reason = str(error).rstrip(".")
            raise ManifestError(f"{reason}; take it away, or name the labels with --manifest.") from None
    return None


def table_of_values(references: list[Path], predictions: Sequence[Path] = ()) -> LabelTable:
    """A table of the values found in label files, with the names that headers of .seg.nrrd files give them, if any.

    Raises:
        VolumeError: All label files are empty, or the headers give one name to several values.
    """
    names = names_of_values([*references, *predictions])
    values: set[int] = set()
    for path in references:
        require_one_layer(path)
        values |= set(voxels_by_value(read_volume(path, "label").array))
    if not values:
        raise VolumeError(f"{references[0].parent}: every label file is empty, so there is nothing to score.")
    labels = {str(value): names.get(value) or f"label {value}" for value in sorted(values)}
    return LabelTable.from_json({"labels": labels}, where=str(references[0].parent))


def worst_cases(scores: Mapping[str, Sequence[TargetScore]]) -> list[str]:
    """The few cases with the lowest mean Dice over all that is scored, regions too; worst first."""
    means = {case: float(np.mean([score.dice for score in found])) for case, found in scores.items()}
    return sorted(means, key=lambda case: (means[case], case))[:WORST_SHOWN]


class WorstPredictions:
    """The predictions that will be drawn, as far as known: those of the worst cases so far, and no others."""

    def __init__(self) -> None:
        self.predictions: dict[str, Volume] = {}
        self._scores: dict[str, Sequence[TargetScore]] = {}

    def add(self, pair: Pair, scores: Sequence[TargetScore]) -> None:
        """Keeps the prediction, and lets go of one that can no longer be among the worst."""
        self._scores[pair.case], self.predictions[pair.case] = scores, pair.prediction
        for case in set(self._scores) - set(worst_cases(self._scores)):
            del self._scores[case], self.predictions[case]


def draw_worst(path: Path, report: Report, load: Callable[[str], OverlayRow], labels: LabelTable) -> list[str]:
    """Draws the cases with the lowest mean Dice, worst first; returns their names."""
    worst = worst_cases(report.cases)
    colors = {label.value: label.color for label in labels.labels}
    names = {label.value: label.name for label in labels.labels}
    rows = [load(case) for case in worst]
    overlay_grid_png(path, rows, colors=colors, names=names, title="Worst cases by mean Dice")
    return worst


def scored_cases(manifest: Manifest, split: str) -> dict[str, Case]:
    """Cases of a split by name; every one has a label file, which lies on its scan's grid.

    Raises:
        InputError: A scan or a label file is missing.
        VolumeError: It lies elsewhere than its scan, a header cannot be read, or names in it contradict the manifest.
    """
    instead = "name one whose cases have label files by --split, or such cases of another manifest by --manifest"
    cases = {case.name: case for case in manifest.split(split, instead)}
    for case in cases.values():
        if not case.images[0].exists():
            raise InputError(
                f"{manifest.path}: {case.images[0]}, the scan of case {case.name} of {split}, is not there. Paths "
                f"start from {manifest.root}; if the data lies elsewhere now, name its folder with --root."
            )
        label = label_file(case, manifest, split)
        # before anything is predicted: afterwards it would seem to be the prediction that lies elsewhere
        require_one_layer(label)
        own, scan = read_grid(label), read_grid(case.images[0])
        if turns_onto(own, scan) is None:
            difference = own.difference(scan)
            raise VolumeError(
                f"{label}: the label of case {case.name} does not lie on the grid of its scan {case.images[0]}: "
                f"{difference}; {how_to_place(label, own, scan)}. `medcontrast data check` lists all such labels."
            )
        if named_segments(label, manifest.labels):  # what contradicts the manifest is refused now
            read_label_map(label, manifest.labels)
    return cases


def _require_known_values(volume: Volume, labels: LabelTable) -> None:
    known = {*labels.values, labels.ignore_value}
    unknown = sorted(set(voxels_by_value(volume.array)) - known)
    if unknown:
        raise VolumeError(
            f"{volume.path}: holds the value {unknown[0]}, which the label table does not name "
            f"(known: {', '.join(str(value) for value in labels.values)}); correct the file, or give a manifest that "
            "names the value with --manifest."
        )
