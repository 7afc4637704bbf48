"""Tests of exchanged boxes: by hand, property."""

from __future__ import annotations

import pytest
import torch

from medcontrast.transforms.copy_paste import mix, paste_boxes

PATCH = (12, 24, 9)


def boxes(rows=range(200), *, fraction=2 / 3, seed=0, step=5):
    return paste_boxes(PATCH, fraction, seed=seed, step=step, rows=rows)


@pytest.mark.parametrize(
    ("fraction", "sides"), [(2 / 3, (8, 16, 6)), (0.5, (6, 12, 4)), (0.01, (1, 1, 1)), (1.0, PATCH)]
)
def test_every_row_has_one_box_of_the_wanted_sides(fraction, sides):
    mask = boxes(range(20), fraction=fraction)
    assert mask.shape == (20, 1, *PATCH)
    assert mask.dtype == torch.bool
    for row in mask[:, 0]:
        places = row.nonzero()
        extent = places.amax(0) - places.amin(0) + 1
        assert tuple(extent.tolist()) == sides
        assert row.sum() == extent.prod()


def test_boxes_reach_every_place_they_fit():
    starts = torch.stack([row[0].nonzero().amin(0) for row in boxes()])
    for axis, (side, box) in enumerate(zip(PATCH, (8, 16, 6), strict=True)):
        assert set(starts[:, axis].tolist()) == set(range(side - box + 1))


def test_box_depends_on_seed_step_and_row_alone():
    mask = boxes(range(10))
    assert torch.equal(boxes([7, 2]), mask[[7, 2]])
    assert torch.equal(boxes(torch.arange(10)), mask)
    assert not torch.equal(boxes(range(10), step=6), mask)
    assert not torch.equal(boxes(range(10), seed=1), mask)


def test_mix_takes_the_inside_where_the_mask_is():
    mask = boxes(range(2))
    inside, outside = torch.full((2, 3, *PATCH), 1), torch.full((2, 3, *PATCH), -1)
    mixed = mix(inside, outside, mask)
    assert mixed.dtype == torch.int64
    assert torch.equal(mixed == 1, mask.expand_as(mixed))
    assert torch.equal(mixed == -1, ~mask.expand_as(mixed))
