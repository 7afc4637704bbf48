"""Surface distances: by hand, property, and SciPy, medpy, MONAI and surface-distance as witnesses (reference)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from medcontrast.errors import VolumeError
from medcontrast.metrics import (
    SurfaceDistances,
    asd_mm,
    assd_mm,
    hd95_max_directed_mm,
    hd95_pooled_mm,
    surface_dice,
    surface_distances,
    surface_voxels,
)

# surface-distance 0.1 reaches SciPy through namespaces that SciPy renamed.
old_scipy_names = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


def empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, bool)


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius_mm: float, spacing: tuple[float, ...]) -> np.ndarray:
    grid = np.indices(shape)
    return sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, spacing, strict=True)) <= radius_mm**2


def check(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, ...],
    *,
    pooled: float,
    directed: float,
    asd: float,
    assd: float,
    dice_at_1mm: float,
) -> None:
    distances = surface_distances(prediction, reference, spacing)
    assert hd95_pooled_mm(distances) == pytest.approx(pooled, abs=1e-5)
    assert hd95_max_directed_mm(distances) == pytest.approx(directed, abs=1e-5)
    assert asd_mm(distances) == pytest.approx(asd, abs=1e-5)
    assert assd_mm(distances) == pytest.approx(assd, abs=1e-5)
    assert surface_dice(distances, 1.0) == pytest.approx(dice_at_1mm, abs=1e-12)


def test_two_voxels_2_mm_apart() -> None:
    prediction, reference = empty((8, 8)), empty((8, 8))
    prediction[2, 3] = reference[2, 5] = True
    check(prediction, reference, (3, 1), pooled=2, directed=2, asd=2, assd=2, dice_at_1mm=0)
    assert surface_dice(surface_distances(prediction, reference, (3, 1)), 2.0) == 1


def test_squares_shifted_by_one() -> None:
    # Outlines of 12 voxels each: p of the prediction, r of the reference, o of both.
    #   p o o o r
    #   p r . p r
    #   p r . p r
    #   p o o o r
    prediction, reference = empty((7, 8)), empty((7, 8))
    prediction[1:5, 1:5] = True
    reference[1:5, 2:6] = True
    # The 6 voxels p lie 1 from the reference's outline, the 6 voxels o lie 0; and the other way round.
    check(prediction, reference, (1, 1), pooled=1, directed=1, asd=0.5, assd=0.5, dice_at_1mm=1)
    assert surface_dice(surface_distances(prediction, reference, (1, 1)), 0.5) == 0.5


def test_cubes_with_anisotropic_spacing() -> None:
    # 5^3 cubes of spacing (2, 1, 1), shifted by one voxel (2 mm) along the first axis: 98 surface voxels each.
    prediction, reference = empty((12, 9, 9)), empty((12, 9, 9))
    prediction[2:7, 2:7, 2:7] = True
    reference[3:8, 2:7, 2:7] = True
    # Rims of the shared layers, 4 x 16 voxels, lie at 0. The front face's rim (16) lies 2 mm before the other's
    # front face, and so does its inside (9). Of the last layer the inside (9) is interior to the other cube: the
    # nearest surface is 2 mm ahead (its last face) or at the side: 1 mm for the 8 around the middle, 2 mm for it.
    distances = np.array([0] * (64 - 16 + 16) + [2] * 25 + [1] * 8 + [2])
    assert len(distances) == 98
    both = np.concatenate([distances, distances])
    check(
        prediction,
        reference,
        (2, 1, 1),
        pooled=float(np.percentile(both, 95)),
        directed=2,
        asd=float(distances.mean()),
        assd=float(distances.mean()),
        dice_at_1mm=72 / 98,
    )


@old_scipy_names
def test_a_ball_with_a_thin_spur_parts_the_definitions() -> None:
    # A ball of 15 mm with a rod of 4 x 4 voxels, 28 long from the centre: 13 voxels stand out.
    centre = 24
    reference = ball((64, 48, 48), (centre,) * 3, 15, (1, 1, 1))
    prediction = reference.copy()
    prediction[centre : centre + 28, centre - 2 : centre + 2, centre - 2 : centre + 2] = True
    distances = surface_distances(prediction, reference, (1, 1, 1))
    assert hd95_pooled_mm(distances) == 0.0
    assert hd95_max_directed_mm(distances) == pytest.approx(3.317, abs=5e-4)
    package = pytest.importorskip("surface_distance")
    weighted = package.compute_surface_distances(reference, prediction, (1, 1, 1))
    assert package.compute_robust_hausdorff(weighted, 95) == pytest.approx(2.236, abs=5e-4)


def test_tolerance_is_not_lost_to_rounding() -> None:
    # 3 x 0.1 is above 0.3 in float64, and float32 distances fall on either side of a tolerance.
    for step in (0.1, 0.3, 0.625, 0.7, 1.1):
        prediction, reference = empty((9, 9)), empty((9, 9))
        prediction[1, 1] = reference[1, 4] = True
        distances = surface_distances(prediction, reference, (1.0, step))
        assert surface_dice(distances, round(3 * step, 6)) == 1.0
        assert surface_dice(distances, 2.99 * step) == 0.0


@pytest.mark.parametrize(("shape", "spacing"), [((4, 5), (2.0, 3.0)), ((4, 5, 6), (2.0, 1.0, 0.5))])
def test_empty_masks(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    some = empty(shape)
    some[(1,) * len(shape)] = True
    diagonal = math.sqrt(sum(((n - 1) * s) ** 2 for n, s in zip(shape, spacing, strict=True)))
    for prediction, reference in ((some, empty(shape)), (empty(shape), some)):
        check(
            prediction,
            reference,
            spacing,
            pooled=diagonal,
            directed=diagonal,
            asd=diagonal,
            assd=diagonal,
            dice_at_1mm=0,
        )
        assert surface_dice(surface_distances(prediction, reference, spacing), 1000.0) == 0
    check(empty(shape), empty(shape), spacing, pooled=0, directed=0, asd=0, assd=0, dice_at_1mm=1)


def test_no_distance_beats_the_penalty_for_a_miss() -> None:
    shape, spacing = (5, 7, 3), (0.5, 2.0, 4.0)
    corner, opposite = empty(shape), empty(shape)
    corner[0, 0, 0] = opposite[-1, -1, -1] = True
    apart = hd95_pooled_mm(surface_distances(corner, opposite, spacing))
    assert apart == pytest.approx(hd95_pooled_mm(surface_distances(empty(shape), opposite, spacing)))


def test_the_image_border_counts_as_outside() -> None:
    surface = surface_voxels(np.ones((4, 3, 5), bool))
    assert surface.sum() == 4 * 3 * 5 - 2 * 1 * 3
    assert surface_voxels(np.ones((1, 5, 5), bool)).all()


def test_surface_is_the_mask_minus_its_erosion() -> None:
    random = np.random.default_rng(0)
    for shape in ((11, 8), (6, 7, 5), (1, 6, 4)):
        mask = random.random(shape) < 0.8
        assert np.array_equal(surface_voxels(mask), mask & ~ndimage.binary_erosion(mask))


def random_masks(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two lumpy masks, as segmentations are; they may touch the border."""
    noise = [ndimage.gaussian_filter(random.standard_normal(shape), 2) for _ in range(2)]
    return noise[0] > 0.02, noise[0] + 0.5 * noise[1] > 0.02


CASES = [
    ((31, 26), (1.0, 1.0)),
    ((31, 26), (0.7, 2.3)),
    ((24, 20, 18), (1.0, 1.0, 1.0)),
    ((24, 20, 9), (0.6, 0.6, 3.0)),
]


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_against_medpy(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    binary = pytest.importorskip("medpy.metric.binary")
    random = np.random.default_rng(2)
    for _ in range(5):
        prediction, reference = random_masks(random, shape)
        distances = surface_distances(prediction, reference, spacing)
        pair = (prediction, reference, spacing)
        assert hd95_pooled_mm(distances) == pytest.approx(binary.hd95(*pair), rel=1e-5)
        assert asd_mm(distances) == pytest.approx(binary.asd(*pair), rel=1e-5)
        assert assd_mm(distances) == pytest.approx(binary.assd(*pair), rel=1e-5)


@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_against_monai(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    random = np.random.default_rng(3)
    for _ in range(5):
        prediction, reference = random_masks(random, shape)
        distances = surface_distances(prediction, reference, spacing)
        pair = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
        every = {"include_background": True, "spacing": list(spacing)}
        hd95 = monai.compute_hausdorff_distance(*pair, percentile=95, **every).item()
        assert hd95_max_directed_mm(distances) == pytest.approx(hd95, rel=1e-5)
        symmetric = monai.compute_average_surface_distance(*pair, symmetric=True, **every).item()
        assert assd_mm(distances) == pytest.approx(symmetric, rel=1e-5)
        assert asd_mm(distances) == pytest.approx(
            monai.compute_average_surface_distance(*pair, **every).item(), rel=1e-5
        )
        for tolerance in (0.65, 1.05, 2.05):
            witness = monai.compute_surface_dice(*pair, class_thresholds=[tolerance], **every).item()
            assert surface_dice(distances, tolerance) == pytest.approx(witness, abs=1e-6)


@old_scipy_names
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 1.5)])
def test_against_surface_distance(spacing: tuple[float, ...]) -> None:
    # That package weighs by area and lays the surface between the voxels. Stated agreement on shifted balls: its share
    # is never the smaller one and at most 0.10 larger; its distance is within half the largest voxel edge.
    package = pytest.importorskip("surface_distance")
    shape = (56, 56, 40)
    reference = ball(shape, (27, 27, 19), 16, spacing)
    for shift, radius in ((1, 16), (2, 17), (3, 15)):
        prediction = ball(shape, (27 + shift, 27, 19), radius, spacing)
        theirs = package.compute_surface_distances(reference, prediction, spacing)
        ours = surface_distances(prediction, reference, spacing)
        for tolerance in (1.0, 1.5, 2.0, 2.5, 3.0):
            witness = package.compute_surface_dice_at_tolerance(theirs, tolerance)
            assert -1e-9 <= witness - surface_dice(ours, tolerance) <= 0.10
        robust = package.compute_robust_hausdorff(theirs, 95)
        assert hd95_max_directed_mm(ours) == pytest.approx(robust, abs=0.5 * max(spacing))


def test_against_scipy_on_hostile_shapes() -> None:
    random = np.random.default_rng(4)
    for _ in range(150):
        shape = tuple(random.integers(1, 10, random.integers(2, 4)))
        spacing = tuple(random.uniform(0.2, 4, len(shape)))
        prediction, reference = random.random((2, *shape)) < 0.4
        if not (prediction.any() and reference.any()):
            continue
        if random.random() < 0.5:  # other memory layouts
            prediction, reference = np.asfortranarray(prediction), np.asfortranarray(reference)
        goal = reference & ~ndimage.binary_erosion(reference)
        start = prediction & ~ndimage.binary_erosion(prediction)
        expected = ndimage.distance_transform_edt(~goal, sampling=spacing)[start]
        found = surface_distances(prediction, reference, spacing).prediction_to_reference
        assert found.dtype == np.float64
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_properties() -> None:
    random = np.random.default_rng(5)
    for _ in range(10):
        a, b = random_masks(random, (14, 13, 12))
        there, back = (surface_distances(x, y, (1.0, 2.0, 0.5)) for x, y in ((a, b), (b, a)))
        assert np.array_equal(there.prediction_to_reference, back.reference_to_prediction)
        assert hd95_pooled_mm(there) == hd95_pooled_mm(back)
        assert hd95_pooled_mm(there) <= hd95_max_directed_mm(there) + 1e-9
        doubled = surface_distances(a, b, (2.0, 4.0, 1.0))
        assert assd_mm(doubled) == pytest.approx(2 * assd_mm(there), rel=1e-5)
        assert not surface_distances(a, a, (1, 1, 1)).pooled.any()


def test_pooled_joins_both_directions() -> None:
    distances = SurfaceDistances(np.array([1.0, 3.0]), np.array([8.0]))
    assert asd_mm(distances) == 2.0
    assert assd_mm(distances) == 4.0


def test_bad_input() -> None:
    with pytest.raises(VolumeError, match=r"\(3, 3\) but the reference has shape \(4, 4\)"):
        surface_distances(empty((3, 3)), empty((4, 4)), (1, 1))
    with pytest.raises(VolumeError, match="spacing in mm of 2 positive numbers"):
        surface_distances(empty((3, 3)), empty((3, 3)), (1, 1, 1))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 1.25)])
def test_nearest_neighbours_and_distance_transform_give_the_same(monkeypatch, spacing):
    random = np.random.default_rng(4)
    for _ in range(5):
        prediction, reference = (random.random((14, 17, 12)) > 0.6 for _ in range(2))
        found = []
        for voxels in (0, 10**9):  # always the tree, never the tree
            monkeypatch.setattr("medcontrast.metrics.surface._VOXELS_A_QUERY", voxels)
            found.append(surface_distances(prediction, reference, spacing))
        tree, transform = found
        np.testing.assert_allclose(tree.prediction_to_reference, transform.prediction_to_reference, rtol=1e-6)
        np.testing.assert_allclose(tree.reference_to_prediction, transform.reference_to_prediction, rtol=1e-6)
        assert len(tree.pooled) == surface_voxels(prediction).sum() + surface_voxels(reference).sum()


def tilt(degrees: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Steps (3, 3) of a gantry tilted about the first axis."""
    steps = np.diag(spacing)
    steps[1, 2] = spacing[2] * math.tan(math.radians(degrees))
    return steps


@pytest.mark.parametrize("degrees", [0.5, 15, 30])
def test_sheared_axes_measure_in_the_world(degrees: float) -> None:
    random = np.random.default_rng(6)
    steps = tilt(degrees, (0.7, 0.9, 2.5))
    for _ in range(3):
        masks = random_masks(random, (14, 13, 9))
        places = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) @ steps.T for mask in masks]
        apart = np.linalg.norm(places[0][:, None] - places[1][None], axis=-1)
        found = surface_distances(*masks, steps)
        np.testing.assert_allclose(found.prediction_to_reference, apart.min(axis=1), atol=1e-9)
        np.testing.assert_allclose(found.reference_to_prediction, apart.min(axis=0), atol=1e-9)


def test_two_voxels_of_a_tilted_gantry_by_hand() -> None:
    # Steps (0, 1, 1) of the third axis and (0, 1, 0) of the second: one slice up and one row back is straight up, 1 mm.
    steps = np.array([[1.0, 0, 0], [0, 1, 1], [0, 0, 1]])
    prediction, reference = empty((3, 4, 4)), empty((3, 4, 4))
    prediction[1, 2, 1] = reference[1, 1, 2] = True
    check(prediction, reference, steps, pooled=1, directed=1, asd=1, assd=1, dice_at_1mm=1)
    assert hd95_pooled_mm(surface_distances(prediction, reference, (1, 1, 2**0.5))) == pytest.approx(3**0.5)


def test_steps_at_right_angles_give_what_their_spacing_gives() -> None:
    random = np.random.default_rng(7)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    masks = random_masks(random, (14, 13, 9))
    by_steps, by_spacing = surface_distances(*masks, turn * (0.5, 2, 1.25)), surface_distances(*masks, (0.5, 2, 1.25))
    np.testing.assert_allclose(by_steps.pooled, by_spacing.pooled, rtol=1e-5)


def test_a_miss_on_sheared_axes_costs_the_longest_diagonal() -> None:
    # Of the parallelogram of (2, 0) and (1, 1) the diagonals are (3, 1) and (1, -1).
    steps = np.array([[2.0, 1], [0, 1]])
    corners = [empty((2, 2)), empty((2, 2))]
    corners[0][0, 0] = corners[1][1, 1] = True
    missed = surface_distances(empty((2, 2)), corners[1], steps)
    assert missed.one_empty and hd95_pooled_mm(missed) == pytest.approx(10**0.5)
    assert hd95_pooled_mm(surface_distances(*corners, steps)) == pytest.approx(10**0.5)
    steps[0, 1] = -1  # mirrored: now the other one is
    assert hd95_pooled_mm(surface_distances(empty((2, 2)), corners[1], steps)) == pytest.approx(10**0.5)


@pytest.mark.parametrize(
    "steps",
    [np.eye(2), np.zeros((3, 3)), np.diag([1, 1, math.nan]), [[1, 0, 0], [2, 0, 0], [0, 0, 1]], np.ones((2, 3))],
)
def test_bad_steps(steps: np.ndarray) -> None:
    with pytest.raises(
        VolumeError, match=r"steps in mm of 3 array axes as the columns of a 3 x 3 matrix with a determ"
    ):
        surface_distances(empty((3, 3, 3)), empty((3, 3, 3)), steps)
