"""Overlap and volume: by hand, property, and medpy and MONAI as independent witnesses (reference)."""

from __future__ import annotations

import numpy as np
import pytest

from medcontrast.errors import VolumeError
from medcontrast.metrics import dice, jaccard, volume_error_ml, volume_error_percent, volume_ml


def row(*voxels: int) -> np.ndarray:
    return np.array([voxels], bool)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected_dice", "expected_jaccard"),
    [
        (row(1, 1, 0, 0), row(0, 1, 1, 0), 0.5, 1 / 3),
        (row(1, 1, 1, 0), row(0, 1, 0, 0), 0.5, 1 / 3),
        (row(1, 0, 0, 0), row(0, 0, 0, 1), 0.0, 0.0),
        (row(0, 1, 1, 0), row(0, 1, 1, 0), 1.0, 1.0),
        (row(0, 0, 0, 0), row(0, 0, 0, 0), 1.0, 1.0),
        (row(0, 0, 0, 0), row(0, 1, 0, 0), 0.0, 0.0),
        (row(0, 1, 0, 0), row(0, 0, 0, 0), 0.0, 0.0),
    ],
)
def test_by_hand(prediction: np.ndarray, reference: np.ndarray, expected_dice: float, expected_jaccard: float) -> None:
    assert dice(prediction, reference) == expected_dice
    assert jaccard(prediction, reference) == expected_jaccard


@pytest.mark.parametrize("shape", [(23, 17), (9, 12, 7)])
def test_against_medpy_and_monai(shape: tuple[int, ...]) -> None:
    binary = pytest.importorskip("medpy.metric.binary")
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    random = np.random.default_rng(0)
    for density in (0.05, 0.5, 0.9):
        prediction, reference = random.random((2, *shape)) < density
        assert dice(prediction, reference) == pytest.approx(binary.dc(prediction, reference), abs=1e-12)
        assert jaccard(prediction, reference) == pytest.approx(binary.jc(prediction, reference), abs=1e-12)
        tensors = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
        witness = monai.DiceMetric(include_background=True)(*tensors).item()
        assert dice(prediction, reference) == pytest.approx(witness, abs=1e-6)


def test_properties() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        a, b = random.random((2, 5, 6, 4)) < random.random()
        assert dice(a, b) == dice(b, a)
        assert jaccard(a, b) == pytest.approx(dice(a, b) / (2 - dice(a, b)))
        assert dice(a, a) == 1.0


def test_volumes() -> None:
    assert volume_ml(np.ones((10, 10, 5), bool), (2, 1, 1)) == 1.0
    assert volume_ml(np.ones((10, 10), bool), (2, 5)) == 1.0
    sheared = np.array([[2.0, 0, 0.5], [0, 1, 3], [0, 0, 1]])  # base times height, however far it leans
    assert volume_ml(np.ones((10, 10, 5), bool), sheared) == pytest.approx(1.0)
    assert volume_error_ml(3.0, 4.0) == -1.0
    assert volume_error_percent(3.0, 4.0) == -25.0
    assert volume_error_percent(0.0, 4.0) == -100.0
    assert volume_error_percent(4.0, 0.0) == 100.0
    assert volume_error_percent(0.0, 0.0) == 0.0


def test_shapes_are_both_named() -> None:
    with pytest.raises(VolumeError, match=r"\(2, 3\) but the reference has shape \(3, 2\)"):
        dice(np.zeros((2, 3), bool), np.zeros((3, 2), bool))
    with pytest.raises(VolumeError, match=r"2 or 3 dimensions, but got shape \(4,\)"):
        dice(np.zeros(4, bool), np.zeros(4, bool))


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, float("nan"))])
def test_bad_spacing(spacing: tuple[float, ...]) -> None:
    with pytest.raises(VolumeError, match="spacing in mm of 3 positive numbers"):
        volume_ml(np.ones((2, 2, 2), bool), spacing)


def test_a_volume_too_large_is_in_percent_of_the_reference_too() -> None:
    assert volume_error_percent(5.0, 4.0) == 25.0
    assert volume_error_percent(12.0, 4.0) == 200.0
