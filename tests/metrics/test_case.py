"""Scores of a case: by hand and property, and a regression of every field on one picture."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from medcontrast.errors import InputError, VolumeError
from medcontrast.metrics import (
    SurfaceDistances,
    TargetScore,
    asd_mm,
    assd_mm,
    dice,
    hd95_max_directed_mm,
    hd95_pooled_mm,
    jaccard,
    score_case,
    surface_dice,
    surface_distances,
    volume_error_percent,
    volume_ml,
)

TARGETS = {"anterior": (1,), "posterior": (2,), "whole": (1, 2)}


def label_map(shape: tuple[int, ...] = (10, 8, 6)) -> np.ndarray:
    label = np.zeros(shape, np.int16)
    label[2:4, 2:6, 1:5] = 1
    label[4:7, 2:6, 1:5] = 2
    return label


def test_a_perfect_case() -> None:
    scores = score_case(label_map(), label_map(), targets=TARGETS, spacing_mm=(1, 2, 5), tolerance_mm=2.0)
    assert [score.target for score in scores] == ["anterior", "posterior", "whole"]
    for score in scores:
        assert (score.dice, score.jaccard, score.surface_dice) == (1, 1, 1)
        assert (score.hd95_pooled_mm, score.hd95_max_directed_mm, score.asd_mm, score.assd_mm) == (0, 0, 0, 0)
        assert not score.missed and not score.invented
    assert scores[0].volume_ml_reference == 2 * 4 * 4 * 10 / 1000
    assert scores[2].volume_ml_reference == 5 * 4 * 4 * 10 / 1000


def test_by_hand() -> None:
    # 4 voxels along a line of 2 mm steps, moved by one: 3 shared, ends 2 mm off.
    prediction, reference = np.zeros((8, 3), np.uint8), np.zeros((8, 3), np.uint8)
    prediction[1:5, 1] = reference[2:6, 1] = 7
    (score,) = score_case(
        prediction, reference, targets={"line": (7,)}, spacing_mm=(2, 1), tolerance_mm=1.5, voxels=True
    )
    assert score == TargetScore(
        target="line",
        dice=0.75,
        jaccard=0.6,
        hd95_pooled_mm=2.0,
        hd95_max_directed_mm=pytest.approx(1.7),
        asd_mm=0.5,
        assd_mm=0.5,
        surface_dice=0.75,
        tolerance_mm=1.5,
        volume_ml_prediction=0.008,
        volume_ml_reference=0.008,
        volume_error_ml=0.0,
        volume_error_percent=0.0,
        missed=False,
        invented=False,
        hd95_pooled_voxel=1.0,
        hd95_max_directed_voxel=pytest.approx(0.85),
        asd_voxel=0.25,
        assd_voxel=0.25,
    )


def test_a_tilted_gantry_is_scored_in_the_world() -> None:
    # Upright, one slice up is one row back: of 45 degrees, the ends of the line are 1 mm off, not 2 ** 0.5.
    steps = np.array([[1.0, 0, 0], [0, 1, 1], [0, 0, 1]])
    prediction, reference = np.zeros((3, 9, 9), np.uint8), np.zeros((3, 9, 9), np.uint8)
    for place in range(1, 5):
        prediction[1, 7 - place, place] = reference[1, 6 - place, place + 1] = 7
    (score,) = score_case(
        prediction, reference, targets={"line": (7,)}, spacing_mm=steps, tolerance_mm=0.9, voxels=True
    )
    assert (score.hd95_pooled_mm, score.asd_mm, score.surface_dice) == pytest.approx((1.0, 0.25, 0.75))
    assert (score.volume_ml_prediction, score.volume_ml_reference) == pytest.approx((0.004, 0.004))
    assert score.asd_voxel == pytest.approx(2**0.5 / 4)


def test_regions_join_labels() -> None:
    prediction = label_map()
    prediction[prediction == 2] = 1
    anterior, posterior, whole = score_case(
        prediction, label_map(), targets=TARGETS, spacing_mm=(1, 1, 1), tolerance_mm=2.0
    )
    assert whole.dice == 1
    assert anterior.dice == pytest.approx(2 * 2 / (2 + 5))
    assert posterior.missed and posterior.dice == 0


@pytest.mark.parametrize("voxels", [False, True])
def test_missed_invented_and_absent(voxels: bool) -> None:
    spacing = (1.0, 2.0, 3.0)
    diagonal = math.sqrt(9**2 + 14**2 + 15**2)
    nothing = np.zeros_like(label_map())
    every = {"targets": TARGETS, "spacing_mm": spacing, "tolerance_mm": 2.0, "voxels": voxels}
    for missed, pair in ((True, (nothing, label_map())), (False, (label_map(), nothing))):
        for score in score_case(*pair, **every):
            assert (score.missed, score.invented) == (missed, not missed)
            assert (score.dice, score.jaccard, score.surface_dice) == (0, 0, 0)
            assert score.hd95_pooled_mm == score.hd95_max_directed_mm == pytest.approx(diagonal)
            assert score.asd_mm == score.assd_mm == pytest.approx(diagonal)
            assert score.volume_error_percent == (-100 if missed else 100)
            if voxels:
                assert score.hd95_pooled_voxel == score.assd_voxel == pytest.approx(math.sqrt(9**2 + 7**2 + 5**2))
    for score in score_case(nothing, nothing, **every):
        assert (score.dice, score.jaccard, score.surface_dice, score.hd95_pooled_mm, score.asd_mm) == (1, 1, 1, 0, 0)
        assert not score.missed and not score.invented and score.volume_error_percent == 0


def test_ignored_voxels_are_taken_out_of_both_maps() -> None:
    reference, prediction = label_map(), label_map()
    reference[7:, :, :] = 255
    prediction[8, 5, 5] = 2
    every = {"targets": TARGETS, "spacing_mm": (1, 1, 1), "tolerance_mm": 2.0}
    assert all(score.dice == 1 for score in score_case(prediction, reference, ignore_value=255, **every))
    assert score_case(prediction, reference, **every)[1].dice < 1
    # Taken out of the reference as well: what lies only there is no miss.
    reference[reference == 2] = 255
    only = score_case(prediction, reference, ignore_value=255, **every)[1]
    assert not only.missed and only.dice == 1


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_scores_are_those_of_whole_masks(seed: int, axes: int) -> None:
    """Masks are cut out before they are measured; empty ones, joined ones and those at the border are among them."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(5, 14, axes).tolist())
    spacing = random.uniform(0.5, 3, axes)
    kind = (np.int16, np.int32, np.uint8)[seed % 3]
    maps = [_blobs(random, shape).astype(kind) for _ in range(2)]
    targets = {"one": (1,), "two": (2,), "far": (9,), "joined": (1, 9), "none": (5,), "all": (0, 1, 2, 9)}
    reference = maps[1].copy()
    reference[random.random(shape) < 0.1] = 77
    found = score_case(
        maps[0], reference, targets=targets, spacing_mm=spacing, tolerance_mm=2.0, ignore_value=77, voxels=True
    )
    kept = reference != 77
    for score in found:
        masks = [np.isin(each, targets[score.target]) & kept for each in (maps[0], reference)]
        distances = surface_distances(*masks, spacing)
        in_voxels = surface_distances(*masks, (1.0,) * axes)
        ml = [volume_ml(mask, spacing) for mask in masks]
        assert dataclasses.asdict(score) == {
            "target": score.target,
            "dice": dice(*masks),
            "jaccard": jaccard(*masks),
            "hd95_pooled_mm": hd95_pooled_mm(distances),
            "hd95_max_directed_mm": hd95_max_directed_mm(distances),
            "asd_mm": asd_mm(distances),
            "assd_mm": assd_mm(distances),
            "surface_dice": surface_dice(distances, 2.0),
            "tolerance_mm": 2.0,
            "volume_ml_prediction": ml[0],
            "volume_ml_reference": ml[1],
            "volume_error_ml": ml[0] - ml[1],
            "volume_error_percent": volume_error_percent(*ml),
            "missed": bool(masks[1].any() and not masks[0].any()),
            "invented": bool(masks[0].any() and not masks[1].any()),
            "hd95_pooled_voxel": hd95_pooled_mm(in_voxels),
            "hd95_max_directed_voxel": hd95_max_directed_mm(in_voxels),
            "asd_voxel": asd_mm(in_voxels),
            "assd_voxel": assd_mm(in_voxels),
        }


def _blobs(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A box of each of some of the values, perhaps up to the border."""
    label = np.zeros(shape, np.int64)
    for value in (1, 2, 9):
        low = [int(random.integers(0, size)) for size in shape]
        box = tuple(slice(start, int(random.integers(start, size + 1))) for start, size in zip(low, shape, strict=True))
        label[box] = value
    return label


def test_values_below_one_are_scored_too() -> None:
    reference = label_map()
    reference[0] = -3
    every = {
        "targets": {"below": (-3,), "mixed": (-3, 1), "background": (0,)},
        "spacing_mm": (1, 1, 1),
        "tolerance_mm": 2.0,
    }
    below, mixed, background = score_case(label_map(), reference, **every)
    assert below.missed and below.hd95_pooled_mm == pytest.approx(math.sqrt(9**2 + 7**2 + 5**2))
    assert mixed.dice == pytest.approx(2 * 32 / (32 + 32 + 48))
    assert background.dice == pytest.approx(2 * (480 - 80 - 48) / (2 * (480 - 80) - 48))


def test_a_target_is_measured_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not in the whole of its scan."""
    shapes = []
    measure = surface_distances

    def watched(prediction: np.ndarray, reference: np.ndarray, *args: Any, **named: Any) -> SurfaceDistances:
        shapes.append(prediction.shape)
        return measure(prediction, reference, *args, **named)

    monkeypatch.setattr("medcontrast.metrics.case.surface_distances", watched)
    score_case(np.roll(label_map(), 1, 0), label_map(), targets=TARGETS, spacing_mm=(1, 1, 1), tolerance_mm=2.0)
    assert shapes == [(3, 4, 4), (4, 4, 4), (6, 4, 4)]


def test_every_field_is_a_plain_finite_number() -> None:
    random = np.random.default_rng(0)
    for kind in (np.uint8, np.int64, np.uint16):
        for fill in (0.0, 0.01, 0.5, 1.0):
            prediction = (random.random((6, 5, 4)) < fill).astype(kind)
            reference = (random.random((6, 5, 4)) < random.random()).astype(kind)
            (score,) = score_case(
                prediction, reference, targets={"a": (1,)}, spacing_mm=(1, 1, 3), tolerance_mm=2.0, voxels=True
            )
            for name, value in dataclasses.asdict(score).items():
                assert type(value) in (str, bool, float), name
                assert isinstance(value, str) or math.isfinite(value), name


def test_bad_input() -> None:
    whole = label_map()
    every = {"targets": TARGETS, "spacing_mm": (1, 1, 1), "tolerance_mm": 2.0}
    with pytest.raises(VolumeError, match=r"prediction has shape \(5, 8, 6\) but the reference has shape \(10, 8, 6\)"):
        score_case(whole[:5], whole, **every)
    with pytest.raises(VolumeError, match=r"Expected the prediction as a label map of whole numbers.*float64"):
        score_case(whole.astype(float), whole, **every)
    with pytest.raises(VolumeError, match="spacing in mm of 3 positive numbers"):
        score_case(whole, whole, targets=TARGETS, spacing_mm=(1, 1), tolerance_mm=2.0)
    for tolerance in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="tolerance of the surface Dice is a positive number of mm"):
            score_case(whole, whole, **{**every, "tolerance_mm": tolerance})
