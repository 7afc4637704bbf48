"""Axes by their direction in the world: held to the world positions of voxels, for all 48 ways to store a scan."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from medcontrast.volume import Grid, canonical_axes, from_canonical, to_canonical, turns_onto

_SHAPE = (4, 5, 6)
_SPACING = np.array([1.0, 1.5, 2.0])
_TILT = np.deg2rad(20.0)
_ROTATION = np.array([[1, 0, 0], [0, np.cos(_TILT), -np.sin(_TILT)], [0, np.sin(_TILT), np.cos(_TILT)]])
_WAYS = [(axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


def _grid(axes: tuple[int, ...], signs: tuple[int, ...]) -> Grid:
    """An oblique scan whose stored axis i runs along the (tilted) world axis axes[i], in the direction signs[i]."""
    affine = np.eye(4)
    for stored, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[:3, stored] = sign * _SPACING[stored] * _ROTATION[:, axis]
    affine[:3, 3] = [10.0, -20.0, 30.0]
    return Grid(_SHAPE, affine)


def _positions(grid: Grid) -> NDArray[np.float64]:
    """(x, y, z, 3) world positions of the voxels."""
    indices = np.stack(np.meshgrid(*(np.arange(side) for side in grid.shape), indexing="ij"), axis=-1)
    positions: NDArray[np.float64] = indices @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return positions


@pytest.mark.parametrize(("axes", "signs"), _WAYS)
def test_canonical_axes_run_right_anterior_and_superior(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    grid = _grid(axes, signs)
    turned = np.stack([to_canonical(part, grid) for part in np.moveaxis(_positions(grid), -1, 0)], axis=-1)
    assert turned.shape[:3] == tuple(_SHAPE[axis] for axis in canonical_axes(grid))
    for axis in range(3):
        step = np.diff(turned, axis=axis).reshape(-1, 3)
        assert (step.argmax(axis=1) == axis).all()
        assert (step[:, axis] > 0).all()


@pytest.mark.parametrize(("axes", "signs"), _WAYS)
def test_the_way_back(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    grid = _grid(axes, signs)
    array = np.arange(np.prod(_SHAPE)).reshape(_SHAPE)
    back = from_canonical(to_canonical(array, grid), grid)
    np.testing.assert_array_equal(back, array)
    assert back.flags.c_contiguous


@pytest.mark.parametrize(("axes", "signs"), _WAYS)
def test_turns_lead_to_the_same_places(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    source = _grid(axes, signs)
    order = canonical_axes(source)
    positions = np.stack([to_canonical(part, source) for part in np.moveaxis(_positions(source), -1, 0)], axis=-1)
    affine = np.eye(4)
    affine[:3, 3] = positions[0, 0, 0]
    for axis in range(3):
        affine[:3, axis] = np.take(positions, 1, axis=axis)[0, 0] - positions[0, 0, 0]
    target = Grid(tuple(_SHAPE[axis] for axis in order), affine)  # type: ignore[arg-type]
    turns = turns_onto(source, target)
    assert turns is not None
    np.testing.assert_array_equal(np.argsort(turns[:, 0]), order)
    assert [turns[stored, 1] for stored in range(3)] == list(signs)


def test_other_grids_are_not_reached_by_turning() -> None:
    source = _grid((0, 1, 2), (1, 1, 1))
    moved = source.affine.copy()
    moved[0, 3] += 0.05  # half a tenth of the shortest side
    assert turns_onto(source, Grid(_SHAPE, moved)) is not None
    assert turns_onto(source, Grid(_SHAPE, moved), tolerance_mm=0.01) is None
    assert turns_onto(source, Grid((4, 5, 7), source.affine)) is None
    assert turns_onto(source, Grid(_SHAPE, np.diag([2.0, 1.0, 1.0, 1.0]))) is None
