"""The two ways to score, from files to tables, pictures and printed lines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from medcontrast.data.manifest import Case, Manifest
from medcontrast.engine.evaluate import (
    Pair,
    ScoringRules,
    WorstPredictions,
    draw_worst,
    score_pairs,
    scored_cases,
    table_beside,
    table_of_values,
)
from medcontrast.engine.evaluation_output import (
    PICTURE,
    TABLES,
    Warnings,
    leave_and_show,
    leave_no_picture,
    report_to_compare,
)
from medcontrast.engine.mask_folders import MaskPair, folder_pairs, split_pairs, without_label
from medcontrast.engine.run import run_beside
from medcontrast.errors import InputError
from medcontrast.files import require_free
from medcontrast.labels import LabelTable
from medcontrast.metrics.case import TargetScore
from medcontrast.metrics.report import Report
from medcontrast.render import OverlayRow
from medcontrast.say import say
from medcontrast.settings import require_segmentation
from medcontrast.settings.train import EvaluationSettings
from medcontrast.volume import Volume, canonical_axes, read_volume, to_canonical
from medcontrast.volume.segments import read_label_map

if TYPE_CHECKING:  # scores of masks need no torch
    from medcontrast.inference.members import Member
    from medcontrast.inference.predict import Predictor


def score_folders(
    predictions: Path,
    labels: Path | str,
    *,
    manifest: Manifest | None = None,
    output: Path | None = None,
    tolerance_mm: float | None = None,
    voxels: bool = False,
    against: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Report:
    """Scores anybody's masks against label files of the same names.

    Names of the labels come from the manifest, else from the JSON record beside a mask, else from the headers of
    .seg.nrrd files and the values found. No scan is opened, and so there is no picture.

    Args:
        predictions: Folder of masks; `mask_folders` says how they are called.
        labels: Folder of label files, or a split of the manifest.
        manifest: Names the labels, and knows the patients.
        output: Folder for tables; by default they are shown alone.
        tolerance_mm: Of the surface Dice; by default 1.
        voxels: Distances in voxels too.
        against: report.json of another system on the same cases; differences are shown and kept.
        overwrite: Replace an existing evaluation.
        console: Where progress is shown.

    Raises:
        InputError: A prediction is missing, a folder is empty, or `against` is no report on the same cases.
    """
    console = console or Console()
    if output is not None:
        require_free(*(output / name for name in TABLES), overwrite=overwrite)
    if isinstance(labels, Path):
        files, place = folder_pairs(predictions, labels), str(labels)
    else:
        assert manifest is not None
        files, place = split_pairs(predictions, manifest, labels), f"the split {labels} of {manifest.path}"
    table = manifest.labels if manifest is not None else _table(files)
    rules = ScoringRules(table, EvaluationSettings().tolerance_mm if tolerance_mm is None else tolerance_mm, voxels)
    other = report_to_compare(against, [name for name, *_ in files], rules.layout)
    warn = Warnings(console)
    _warn_of_unscored(warn, predictions, place, files)
    _warn_of_own_labels(warn, files)
    report = score_pairs(_read(files, table, warn), rules)
    if manifest is not None:
        report = replace(report, patients=manifest.patients_of(report.cases))
    facts = {"predictions": str(predictions), "labels": place, "label_table": table.to_json()}
    if output is not None:
        leave_no_picture(output / PICTURE, overwrite, warn)
    leave_and_show(output, report, facts, warn, other=other, against=against)
    return report


def score_checkpoints(
    checkpoints: list[Path],
    *,
    split: str,
    manifest: Manifest | None = None,
    root: Path | None = None,
    output: Path | None = None,
    tolerance_mm: float | None = None,
    voxels: bool = False,
    flips: bool | None = None,
    device: str | None = None,
    against: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Report:
    """Predicts every case of a split on the scan's own grid and scores it there.

    Args:
        checkpoints: Run folders or checkpoint files; several are averaged.
        split: Which cases.
        manifest: Whose cases; by default those of the first run.
        root: Where the files of the first run's own cases lie now.
        output: Folder for tables and pictures; by default one in the first run's.
        tolerance_mm: Of the surface Dice; by default the recipe's.
        voxels: Distances in voxels too.
        flips: Average mirrored versions; by default as the recipe says.
        device: Where the networks compute.
        against: report.json of another system on the same cases; differences are shown and kept.
        overwrite: Replace an existing evaluation.
        console: Where progress is shown.

    Raises:
        InputError: No such split, a case without its label file, an output that exists already, or `against` is no
            report on the same cases.
    """
    from medcontrast.checkpoint import unfinished
    from medcontrast.inference.inputs import require_same_channels
    from medcontrast.inference.predict import Predictor

    console = console or Console()
    folder = output or _default_output(checkpoints, manifest, split, flips)
    manifest = manifest or _own_manifest(checkpoints[0], root)
    cases = scored_cases(manifest, split)
    require_free(*(folder / name for name in (*TABLES, PICTURE)), overwrite=overwrite)
    predictor = Predictor.load(checkpoints, device=device, overrides={} if flips is None else {"flips": flips})
    require_same_channels(manifest.channels, predictor.channels, manifest.path)
    _require_same_labels(predictor.labels, manifest)
    warn = Warnings(console)
    for member in predictor.members:
        if sentence := unfinished(member.path, member.header):
            warn(sentence)
    _warn_of_training_cases(warn, dict(zip(checkpoints, predictor.members, strict=True)), manifest, list(cases))
    own = predictor.members[0].recipe.evaluation.tolerance_mm
    rules = ScoringRules(manifest.labels, own if tolerance_mm is None else tolerance_mm, voxels)
    other = report_to_compare(against, cases, rules.layout)
    worst, progress = WorstPredictions(), _progress(console, len(cases))

    def on_case(pair: Pair, scores: Sequence[TargetScore]) -> None:
        worst.add(pair, scores)
        progress()

    report = score_pairs(_predicted(predictor, cases, manifest.labels, warn), rules, on_case=on_case)
    report = replace(report, patients=manifest.patients_of(cases))
    facts = {
        "checkpoints": [_describe(member) for member in predictor.members],
        "manifest": manifest.name,
        "split": split,
        "label_table": manifest.labels.to_json(),
        "inference": predictor.settings.model_dump(mode="json"),
    }

    def row(case: str) -> OverlayRow:
        prediction = worst.predictions[case]
        return overlay_row(cases[case], prediction, _title(case, report), manifest.labels)

    leave_and_show(
        folder,
        report,
        facts,
        warn,
        other=other,
        against=against,
        picture=lambda path: draw_worst(path, report, row, manifest.labels),
    )
    return report


def overlay_row(case: Case, prediction: Volume, title: str, labels: LabelTable) -> OverlayRow:
    """A case with reference and prediction, turned to canonical orientation for a picture, without what is ignored."""
    assert case.label is not None
    image, label = read_volume(case.images[0], "image"), read_label_map(case.label, labels)[0]
    # each by its own grid: a label may store its axes in another order than its scan
    shown, reference, mask = (to_canonical(each.array, each.grid) for each in (image, label, prediction))
    kept = True if labels.ignore_value is None else reference != labels.ignore_value
    spacing = [image.grid.spacing_mm[axis] for axis in canonical_axes(image.grid)]
    return OverlayRow(shown, reference * kept, mask * kept, spacing, title)


def _table(files: Sequence[MaskPair]) -> LabelTable:
    predictions, references = [pair.mask for pair in files], [pair.label for pair in files]
    return table_beside(predictions) or table_of_values(references, predictions)


def _warn_of_unscored(warn: Callable[[str], None], predictions: Path, place: str, files: Sequence[MaskPair]) -> None:
    left = without_label(predictions, files)
    if left:
        shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
        masks = "1 mask has" if len(left) == 1 else f"{len(left)} masks have"
        warn(f"{predictions}: {masks} no label in {place}, and no score ({shown}); {len(files)} are scored.")


def _warn_of_own_labels(warn: Callable[[str], None], files: Sequence[MaskPair]) -> None:
    own = [name for name, mask, label in files if mask.resolve() == label.resolve()]
    if own:
        count = f"{len(own)} of {len(files)} cases"
        warn(f"the masks of {count} are their own labels ({own[0]} the first), and score as such.")


def _read(files: Sequence[MaskPair], labels: LabelTable, warn: Callable[[str], None]) -> Iterator[Pair]:
    """Mask after mask; said is what was read by name, and what is odd about a label's grid, which gives millimetres."""
    for name, *paths in files:
        (prediction, told), (reference, more) = (read_label_map(path, labels) for path in paths)
        for warning in (*told, *more, *reference.grid.warnings):
            warn(warning)
        yield Pair(name, prediction, reference)


def _predicted(
    predictor: Predictor, cases: dict[str, Case], labels: LabelTable, warn: Callable[[str], None]
) -> Iterator[Pair]:
    for name, case in cases.items():
        assert case.label is not None
        found = predictor.predict_scan(case.images)
        reference, told = read_label_map(case.label, labels)
        for warning in (*found.grid.warnings, *told):
            warn(warning)
        yield Pair(name, Volume(found.label_map, found.grid, Path(f"{name} (predicted)")), reference)


def _progress(console: Console, total: int) -> Callable[[], None]:
    done = itertools.count(1)

    def advance() -> None:
        number = next(done)
        if number == total or number % 10 == 0:
            say(console, f"{number} of {total} cases scored")

    return advance


def _own_manifest(checkpoint: Path, root: Path | None) -> Manifest:
    run = run_beside(checkpoint, ask="which cases to score", root=root)
    require_segmentation(run.recipe, where=str(run.folder))
    assert isinstance(run.manifest, Manifest)
    return run.manifest


def _default_output(checkpoints: list[Path], manifest: Manifest | None, split: str, flips: bool | None) -> Path:
    """Beside the first checkpoint; its name says all that makes other scores of the same cases."""
    from medcontrast.checkpoint import resolve_checkpoint

    first = checkpoints[0]
    parts = ["evaluation", *([] if manifest is None else [manifest.path.stem]), split, resolve_checkpoint(first).stem]
    parts += [f"mean_of_{len(checkpoints)}"] if len(checkpoints) > 1 else []
    parts += [] if flips is None else ["flips" if flips else "no_flips"]
    return (first if first.is_dir() else first.parent) / "_".join(parts)


def _require_same_labels(labels: LabelTable, manifest: Manifest) -> None:
    """Values always, and names where there are several: a left and a right must not be scored as one another."""
    if labels.values != manifest.labels.values:
        raise InputError(
            f"{manifest.path}: its label values {list(manifest.labels.values)} are not those the checkpoint was "
            f"trained for, {list(labels.values)}."
        )
    ours, theirs = ([f"{label.value} {label.name}" for label in table.labels] for table in (manifest.labels, labels))
    if len(ours) > 1 and ours != theirs:
        raise InputError(
            f"{manifest.path}: its labels are {', '.join(ours)}, but the checkpoint was trained for "
            f"{', '.join(theirs)}; give equal structures equal values and names."
        )


def _warn_of_training_cases(
    warn: Callable[[str], None], members: dict[Path, Member], manifest: Manifest, cases: list[str]
) -> None:
    for path, member in members.items():
        header = member.header
        uses = {f"were {kind} training cases of": names for kind, names in header.get("trained_on", {}).items()}
        uses["were what chose"] = header.get("chosen_on", [])
        for use, names in uses.items():
            seen = set(names) & set(cases)
            if seen:
                counted = f"{len(seen)} of {len(cases)} cases of {manifest.name}"
                warn(f"{counted} {use} {path}; this is not a score on new cases.")


def _describe(member: Member) -> dict[str, Any]:
    """What was loaded; the file may be another by now, where its run still trains."""
    header = member.header
    return {
        "file": str(member.path),
        "sha256": member.sha256,
        "step": header["step"],
        "network": header["network"],
    }


def _title(case: str, report: Report) -> str:
    scores = ", ".join(f"{score.target} {score.dice:.3f}" for score in report.cases[case])
    return f"{case}: Dice {scores}"
