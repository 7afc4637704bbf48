"""By hand, property: world geometry of a grid, and what counts as the same place."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from medcontrast.errors import VolumeError
from medcontrast.volume import Grid
from medcontrast.volume.grid import require_usable_grid


def affine_of(*columns: tuple[float, ...], origin: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.array(columns).T, origin
    return affine


def test_spacing_is_the_length_of_each_column() -> None:
    grid = Grid((2, 2, 2), affine_of((0, 3, 4), (1, 0, 0), (0, 0, -2)))
    assert grid.spacing_mm == (5.0, 1.0, 2.0)


def tilted(degrees: float, spacing: float = 2.0) -> np.ndarray:
    """Slices `spacing` apart along z, each one moved towards y, as a tilted gantry leaves them."""
    return affine_of((0.5, 0, 0), (0, 0.5, 0), (0, spacing * np.tan(np.deg2rad(degrees)), spacing))


def test_a_tilted_gantry_shears_the_grid() -> None:
    grid = Grid((2, 2, 2), tilted(30))
    assert grid.sheared
    assert grid.spacing_mm == pytest.approx((0.5, 0.5, 2 / np.cos(np.pi / 6)))
    assert grid.voxel_mm3 == pytest.approx(0.5)  # base times height, not the product of the edges: 15.5 % less
    np.testing.assert_array_equal(grid.steps_mm, tilted(30)[:3, :3])


@pytest.mark.parametrize("seed", range(5))
def test_turned_axes_are_not_sheared_and_measure_by_their_spacing(seed: int) -> None:
    random = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0] * random.uniform(0.2, 6, size=3)
    grid = Grid((2, 2, 2), affine.astype(np.float32))
    x, y, z = grid.spacing_mm
    assert not grid.sheared and grid.steps_mm == (x, y, z) and grid.voxel_mm3 == x * y * z


def test_difference_in_shape_and_in_place() -> None:
    grid = Grid((10, 11, 12), np.diag([1, 1, 2, 1]))
    assert grid.difference(grid) is None
    assert grid.difference(Grid((10, 11, 13), grid.affine)) == "its shape is 10 x 11 x 12, not 10 x 11 x 13"
    moved = Grid(grid.shape, affine_of((1, 0, 0), (0, 1, 0), (0, 0, 2), origin=(0, 0, -3)))
    assert grid.difference(moved) == (
        "its corners lie up to 3 mm off: 10 x 11 x 12 voxels of 1 x 1 x 2 mm, axes towards RAS, first voxel at "
        "(0, 0, 0) mm, not 10 x 11 x 12 voxels of 1 x 1 x 2 mm, axes towards RAS, first voxel at (0, 0, -3) mm"
    )


def test_a_flip_about_the_centre_is_another_place() -> None:
    grid = Grid((3, 3, 3), np.eye(4))
    flipped = Grid((3, 3, 3), affine_of((-1, 0, 0), (0, 1, 0), (0, 0, 1), origin=(2, 0, 0)))
    assert not grid.same_as(flipped)


@pytest.mark.parametrize(("error", "same"), [(0.9e-2, True), (1.2e-2, False)])
def test_tolerance_holds_at_the_far_corner(error: float, same: bool) -> None:
    # ten steps of a spacing that is off by `error`: 0.9 and 1.2 tenths of a voxel
    first, second = Grid((11, 1, 1), np.eye(4)), Grid((11, 1, 1), np.diag([1 + error, 1, 1, 1]))
    assert first.same_as(second) is same
    assert first.same_as(second, tolerance_mm=0.2)


def test_affine_is_copied_and_read_only() -> None:
    affine = np.eye(4)
    grid = Grid((1, 1, 1), affine)
    affine[0, 3] = 5
    assert grid.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 3] = 1.0


def test_grid_travels_to_a_worker() -> None:
    grid = Grid((1, 2, 3), np.diag([1, 2, 3, 1]))
    assert pickle.loads(pickle.dumps(grid)).same_as(grid, 0.0)


@pytest.mark.parametrize(
    ("affine", "sentence"),
    [
        (np.diag([np.nan, 1, 1, 1]), r"^scan: its affine holds NaN or infinite values; correct its header\.$"),
        (np.diag([1, 0, 1, 1]), r"measure 1 x 0 x 1 mm, but each edge has to lie between 0\.001 and 100 mm"),
        (np.diag([1, 1, 100, 1]), r"measure 1 x 1 x 100 mm"),
        (np.diag([1e-3, 1, 1, 1]), r"measure 0\.001 x 1 x 1 mm"),
        (np.diag(np.float32([1e-3, 1e-3, 1e-3, 1])), r"measure 0\.001 x 0\.001 x 0\.001 mm"),  # 0.00100000005
        (np.diag([1, 1, 99.999, 1]), r"measure 1 x 1 x 99\.999 mm"),
        (affine_of((1, 0, 0), (0, 1, 0), (1, 1, 0)), r"^scan: its affine is singular: its three axes lie in one plane"),
    ],
)
def test_unusable_affines_are_named(affine: np.ndarray, sentence: str) -> None:
    with pytest.raises(VolumeError, match=sentence):
        require_usable_grid(Grid((3, 3, 3), affine), "scan")


@pytest.mark.parametrize("spacing", [0.00101, 0.0012, 0.005, 0.0117, 99.0])
def test_micro_ct_and_thick_slices_are_usable(spacing: float) -> None:
    require_usable_grid(Grid((3, 3, 3), np.diag(np.float32([spacing, spacing, spacing, 1]))), "scan")


def test_no_voxels() -> None:
    with pytest.raises(VolumeError, match=r"^scan: has no voxels \(shape 3 x 0 x 3\)\.$"):
        require_usable_grid(Grid((3, 0, 3), np.eye(4)), "scan")


def test_a_grid_has_three_axes() -> None:
    with pytest.raises(ValueError, match="three axes"):
        Grid((3, 3), np.eye(4))  # type: ignore[arg-type]


def test_corners_are_centres_of_the_last_voxels() -> None:
    first, second = Grid((11, 1, 1), np.eye(4)), Grid((11, 1, 1), np.diag([1.01, 1, 1, 1]))  # 0.1 mm after ten steps
    assert first.same_as(second, tolerance_mm=0.105)
    assert not first.same_as(second, tolerance_mm=0.095)


def test_a_grid_covers_the_same_corners_in_any_order_and_no_others() -> None:
    grid = Grid((3, 4, 5), np.diag([1, 2, 3, 1]))
    turned = Grid((4, 3, 5), affine_of((0, 2, 0), (-1, 0, 0), (0, 0, 3), origin=(2, 0, 0)))
    moved = Grid((3, 4, 5), affine_of((1, 0, 0), (0, 2, 0), (0, 0, 3), origin=(2, 0, 0)))  # shares a face's corners
    assert grid.covers(turned) and turned.covers(grid)
    assert not grid.covers(moved)
    assert not grid.covers(Grid((3, 4, 4), grid.affine)) and not Grid((3, 4, 4), grid.affine).covers(grid)
