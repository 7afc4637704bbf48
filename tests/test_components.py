"""Largest components: by hand, property, and SciPy as an independent witness (reference)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcontrast.components import component_boxes, largest_component
from medcontrast.errors import VolumeError

PICTURE = np.array(
    [
        [1, 1, 0, 0, 2],
        [1, 0, 0, 0, 0],
        [0, 0, 1, 2, 2],
        [0, 0, 0, 2, 0],
        [1, 1, 0, 0, 0],
    ],
    np.uint8,
)


def test_every_value_keeps_its_largest_component() -> None:
    expected = np.array(
        [
            [1, 1, 0, 0, 0],
            [1, 0, 0, 0, 0],
            [0, 0, 0, 2, 2],
            [0, 0, 0, 2, 0],
            [0, 0, 0, 0, 0],
        ]
    )
    found = largest_component(PICTURE)
    assert np.array_equal(found, expected)
    assert found.dtype == PICTURE.dtype


def test_only_named_values_are_cleaned() -> None:
    found = largest_component(PICTURE, [2])
    assert np.array_equal(found == 1, PICTURE == 1)
    assert (found == 2).sum() == 3


def test_joined_keeps_the_largest_piece_of_the_union() -> None:
    # Without corners, 1 at (2, 2) and the 2s beside it make a piece of 4, the largest.
    found = largest_component(PICTURE, connectivity=6, joined=True)
    expected = np.zeros_like(PICTURE)
    expected[2, 2:5] = 1, 2, 2
    expected[3, 3] = 2
    assert np.array_equal(found, expected)
    assert np.array_equal(largest_component(PICTURE, [1], joined=True), largest_component(PICTURE, [1]))


def test_connectivity() -> None:
    corner = np.zeros((3, 3, 3), np.uint8)
    corner[0, 0, 0] = corner[1, 1, 1] = corner[1, 1, 2] = 1
    assert largest_component(corner, connectivity=26).sum() == 3
    assert largest_component(corner, connectivity=18).sum() == 2
    edge = np.zeros((3, 3, 3), np.uint8)
    edge[0, 0, 0] = edge[0, 1, 1] = edge[0, 1, 2] = 1
    assert largest_component(edge, connectivity=18).sum() == 3
    assert largest_component(edge, connectivity=6).sum() == 2


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_of_equal_components_the_first_in_row_major_order_stays(layout: object, joined: bool) -> None:
    tie = np.zeros((4, 5, 6), np.int32)
    tie[0, 4, 5] = tie[3, 0, 0] = tie[2, 2, 2] = 3
    found = largest_component(layout(tie), joined=joined)
    assert list(map(tuple, np.argwhere(found))) == [(0, 4, 5)]


def test_input_stays_as_it_is_and_types_are_kept() -> None:
    for kind in (bool, np.int8, np.uint16, np.int64):
        given = PICTURE.astype(kind)
        before = given.copy()
        assert largest_component(given).dtype == given.dtype
        assert np.array_equal(given, before)
    assert np.array_equal(largest_component(-PICTURE.astype(np.int16)), -largest_component(PICTURE).astype(np.int16))


def test_empty_maps() -> None:
    empty = np.zeros((3, 4, 5), np.uint8)
    assert not largest_component(empty).any()
    assert np.array_equal(largest_component(PICTURE, [9]), PICTURE)


@pytest.mark.parametrize(("connectivity", "reach"), [(6, 1), (18, 2), (26, 3)])
@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64])
def test_against_scipy(connectivity: int, reach: int, kind: type) -> None:
    # Shapes one voxel wide included: boolean input made cc3d 4.1 fail or join the wrong voxels there and in 2D.
    random = np.random.default_rng(connectivity)
    for _ in range(150):
        shape = tuple(random.integers(1, 8, random.integers(2, 4)))
        label_map = (random.random(shape) < random.uniform(0.1, 0.9)) * random.integers(1, 4, shape)
        label_map = label_map.astype(kind)
        structure = ndimage.generate_binary_structure(len(shape), min(reach, len(shape)))
        expected = np.zeros_like(label_map)
        for value in np.unique(label_map[label_map != 0]):
            components, count = ndimage.label(label_map == value, structure)
            sizes = ndimage.sum_labels(label_map == value, components, range(1, count + 1))
            firsts = [np.flatnonzero(components == number + 1)[0] for number in range(count)]
            best = min(range(count), key=lambda number: (-sizes[number], firsts[number]))
            expected[components == best + 1] = value
        assert np.array_equal(largest_component(label_map, connectivity=connectivity), expected)
        if kind is bool:
            assert np.array_equal(largest_component(label_map, connectivity=connectivity, joined=True), expected)


def test_property_cleaning_twice_changes_nothing() -> None:
    label_map = np.random.default_rng(0).integers(0, 4, (9, 8, 7))
    for joined in (False, True):
        once = largest_component(label_map, joined=joined)
        assert np.array_equal(largest_component(once, joined=joined), once)


def test_bad_input() -> None:
    with pytest.raises(VolumeError, match=r"type float64 and shape \(2, 2\)"):
        largest_component(np.zeros((2, 2)))
    with pytest.raises(VolumeError, match=r"shape \(2, 2, 2, 2\)"):
        largest_component(np.zeros((2, 2, 2, 2), int))
    with pytest.raises(VolumeError, match=r"Connectivity is 6 .* but got 8"):
        largest_component(PICTURE, connectivity=8)


def test_boxes_of_components_come_the_largest_first() -> None:
    mask = PICTURE > 0
    # with corners: 1 1 / 1 at the upper left (3), a lone 2 (1), 1 2 2 / 2 in the middle (4), 1 1 at the bottom (2)
    boxes = [(2, 2, 4, 5), (0, 0, 2, 2), (4, 0, 5, 2), (0, 4, 1, 5)]
    assert component_boxes(mask, 9) == boxes
    assert component_boxes(mask, 2) == boxes[:2]
    assert component_boxes(np.eye(3, dtype=bool), 9) == [(0, 0, 3, 3)]
    assert component_boxes(np.zeros((3, 4), bool), 1) == []
    tie = np.array([[True, False, True], [False, False, False], [True, False, False]])
    assert component_boxes(tie, 2) == [(0, 0, 1, 1), (0, 2, 1, 3)]
