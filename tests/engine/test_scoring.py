"""Kinds: whole (scores and pictures of predictions made by hand), property."""

from __future__ import annotations

import gc
import io
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from medcontrast.data.manifest import Case, Manifest, load_manifest
from medcontrast.engine import evaluate, scoring, validate
from medcontrast.engine.evaluate import WORST_SHOWN, Pair, WorstPredictions, worst_cases
from medcontrast.engine.validate import Validator
from medcontrast.errors import VolumeError
from medcontrast.inference.predict import Predictor
from medcontrast.labels import LabelTable
from medcontrast.metrics import score_case
from medcontrast.metrics.bootstrap import few_words
from medcontrast.metrics.report import Report
from medcontrast.render import OverlayRow
from medcontrast.settings.train import InferenceSettings
from medcontrast.volume import Grid, Volume, read_volume

SHAPE = (20, 9, 10)
PLANES = 8
IGNORED = 9


@pytest.fixture
def manifest(tiny: SimpleNamespace, tmp_path: Path) -> Manifest:
    """Nine cases; the last two planes of every label are ignored."""
    path = tiny.write_data(tmp_path / "data", labeled=1, unlabeled=0, validation=9, shape=SHAPE, ignore_label=IGNORED)
    for label in sorted((tmp_path / "data" / "labels").iterdir()):
        array = np.zeros(SHAPE, np.uint8)
        array[2 : 2 + PLANES, 2:7, 1:9], array[10 : 10 + PLANES, 2:7, 1:9] = 1, 2
        array[:, :, 8:] = IGNORED
        tiny.write_nifti(label, array)
    return load_manifest(path)


class HandPredictor:
    """Finds each structure but for so many planes; case 3 is the best, 5 the worst."""

    def __init__(self, labels: LabelTable) -> None:
        self.labels, self.settings = labels, InferenceSettings()
        self.channels = ("channel 0",)
        self.lost = dict(zip(range(1, 10), (1, 4, 0, 2, 7, 5, 3, 6, 1), strict=True))
        recipe = SimpleNamespace(evaluation=SimpleNamespace(tolerance_mm=1.0))
        header = {"step": 2, "recipe": {"train": {"steps": 2}}}
        self.members = [SimpleNamespace(recipe=recipe, header=header, path=Path("last.safetensors"))]
        self.given: list[weakref.ref[Any]] = []
        self.most = 0

    def predict_scan(self, images: tuple[Path, ...]) -> SimpleNamespace:
        number = int(images[0].name.split("_")[1])
        label = read_volume(images[0].parent.parent / "labels" / f"case_{number:02d}.nii", "label")
        found = label.array.astype(np.uint16)
        for start in (2, 10):
            found[start : start + self.lost[number]] = 0
        found[:, :, 8:] = 1  # nothing there counts
        gc.collect()
        self.most = max(self.most, sum(each() is not None for each in self.given))
        self.given.append(weakref.ref(found))
        return SimpleNamespace(label_map=found, grid=label.grid)


@pytest.fixture
def hand(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> HandPredictor:
    predictor = HandPredictor(manifest.labels)
    monkeypatch.setattr(Predictor, "load", lambda *_, **__: predictor)
    monkeypatch.setattr(scoring, "_describe", lambda path: {"file": str(path)})
    monkeypatch.setattr(scoring, "_warn_of_training_cases", lambda *_: None)
    return predictor


def score(manifest: Manifest, tmp_path: Path, width: int = 200) -> tuple[Report, str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    folder = tmp_path / "[old]" / "scores"
    report = scoring.score_checkpoints(
        [tmp_path / "run"], split="validation", manifest=manifest, output=folder, console=console, overwrite=True
    )
    return report, console.export_text()


def test_only_predictions_that_will_be_drawn_are_kept(
    manifest: Manifest, hand: HandPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(evaluate, "overlay_grid_png", lambda path, rows, **named: drawn.update(rows=rows, **named))
    report, _ = score(manifest, tmp_path)
    assert len(hand.given) == 9
    # the one that is being scored stands beside them
    assert hand.most <= WORST_SHOWN + 1
    assert [row.title.split(":")[0] for row in drawn["rows"]] == ["case_05", "case_08", "case_06", "case_02"]
    assert worst_cases(report.cases) == ["case_05", "case_08", "case_06", "case_02"]
    assert drawn["names"] == {1: "front", 2: "back"}


def test_scans_of_one_patient_are_drawn_together(manifest: Manifest, hand: HandPredictor, tmp_path: Path) -> None:
    twins = [replace(case, patient=f"p{number // 2}") for number, case in enumerate(manifest.validation)]
    report, said = score(replace(manifest, validation=tuple(twins)), tmp_path)
    alone, words = score(manifest, tmp_path)
    assert report.patients == {case.name: case.patient for case in twins} and not alone.patients
    few = few_words(5), few_words(9)
    said, words = (" ".join(text.split()) for text in (said, words))
    assert f"bootstrap over the 5 patients of 9 cases, scans of one together{few[0]}, 10000 resamples" in said
    assert f"bootstrap over cases{few[1]}, 10000 resamples" in words
    assert report.summary["front"].metrics["dice"] != alone.summary["front"].metrics["dice"]


def test_ignored_voxels_are_neither_scored_nor_drawn(
    manifest: Manifest, hand: HandPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[OverlayRow] = []
    monkeypatch.setattr(evaluate, "overlay_grid_png", lambda path, rows, **_: drawn.extend(rows))
    report, _ = score(manifest, tmp_path)
    assert {found.dice for found in report.cases["case_03"]} == {1.0}  # though it found a structure in them
    for row in drawn:
        assert row.reference is not None and row.prediction is not None
        assert set(np.unique(row.reference)) <= {0, 1, 2} and row.reference.any()
        assert not row.reference[:, :, 8:].any() and not row.prediction[:, :, 8:].any()


def test_the_picture_of_a_validation_names_its_structures(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(validate, "overlay_grid_png", lambda path, rows, **named: drawn.update(named))
    validator = SimpleNamespace(folder=tmp_path, labels=LabelTable.from_json({"labels": {"3": "front", "7": "back"}}))
    Validator._picture(validator, OverlayRow(np.zeros(SHAPE), None, None, (1, 1, 1)), 3)
    assert drawn["names"] == {1: "front", 2: "back"}  # the classes of a network, in whose numbers it is drawn


def test_nothing_is_taken_out_of_a_picture_where_nothing_is_ignored(manifest: Manifest) -> None:
    case = next(iter(manifest.validation))
    assert case.label is not None
    label = read_volume(case.label, "label")
    prediction = Volume(np.ones(SHAPE, np.uint16), label.grid, Path("x"))
    table = LabelTable.from_json({"labels": {"1": "front", "2": "back"}})
    row = scoring.overlay_row(case, prediction, "x", table)
    assert row.prediction is not None and row.prediction.all()
    np.testing.assert_array_equal(row.reference, label.array)


def name_segments(case: Case, segments: dict[str, int]) -> Case:
    """The case with its label file as 3D Slicer saves it, structures 1 and 2 under other values."""
    assert case.label is not None
    image = sitk.ReadImage(str(case.label))
    values = sitk.GetArrayFromImage(image)
    new = np.select([values == 1, values == 2], list(segments.values()), values.astype(int)).astype(np.uint8)
    saved = sitk.GetImageFromArray(new)
    saved.CopyInformation(image)
    for number, (name, value) in enumerate(segments.items()):
        saved.SetMetaData(f"Segment{number}_ID", f"Segment_{number}")
        saved.SetMetaData(f"Segment{number}_Name", name)
        saved.SetMetaData(f"Segment{number}_LabelValue", str(value))
    path = case.label.with_name(f"{case.name}.seg.nrrd")
    sitk.WriteImage(saved, str(path), True)
    return replace(case, label=path)


def test_labels_are_read_by_the_names_of_their_segments(
    manifest: Manifest, hand: HandPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[OverlayRow] = []
    monkeypatch.setattr(evaluate, "overlay_grid_png", lambda path, rows, **_: drawn.extend(rows))
    before, text = score(manifest, tmp_path)
    assert "by name" not in text
    named = tuple(name_segments(case, {"front": 2, "back": 1}) for case in manifest.validation)
    after, text = score(replace(manifest, validation=named), tmp_path)
    assert after.cases == before.cases
    assert text.count("and are read by name: front 2 as 1, back 1 as 2.") == len(named)
    for one, other in zip(drawn[:WORST_SHOWN], drawn[WORST_SHOWN:], strict=True):
        np.testing.assert_array_equal(one.reference, other.reference)
    # before anything is predicted
    hand.given.clear()
    named = (*named[:8], name_segments(manifest.validation[8], {"front": 2, "tail": 1}))
    with pytest.raises(
        VolumeError, match=r"case_09\.seg\.nrrd: its segments are 2 front, 1 tail, which contradicts the"
    ):
        score(replace(manifest, validation=named), tmp_path)
    assert not hand.given


def test_folders_and_names_are_no_markup_and_misses_are_said_once(
    manifest: Manifest, hand: HandPredictor, tmp_path: Path
) -> None:
    hand.lost[5] = PLANES
    for width in (200, 60):  # with a table and without
        _, text = score(manifest, tmp_path, width)
        assert f"Written to {tmp_path / '[old]' / 'scores'}" in text
        words = " ".join(text.split())  # a table wraps its caption
        assert words.count("front: 1 of 9 cases missed. back: 1 of 9 cases missed.") == 1
        assert words.count("missed.") == 2
        assert "9 of 9 cases scored" in text


@pytest.mark.parametrize("seed", range(20))
def test_the_worst_are_kept_in_any_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    reference = np.ones((6, 1, 1), np.uint8)
    scores, worst = {}, WorstPredictions()
    for number in random.permutation(12):
        prediction = (np.arange(6) < random.integers(0, 7)).astype(np.uint8)[:, None, None]  # many are equally bad
        case = f"case {number}"
        scores[case] = score_case(prediction, reference, targets={"a": (1,)}, spacing_mm=(1, 1, 1), tolerance_mm=1.0)
        volume = Volume(prediction, Grid((6, 1, 1), np.eye(4)), Path(case))
        worst.add(Pair(case, volume, volume), scores[case])
        assert len(worst.predictions) <= WORST_SHOWN
    assert set(worst.predictions) == set(worst_cases(scores))
    assert all(volume.path == Path(case) for case, volume in worst.predictions.items())
