"""Tests of exchanged boxes: by hand, property."""

from __future__ import annotations

import pytest
import torch

from medcontrast.transforms.copy_paste import exchange_boxes, mix, paste_boxes

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


def test_exchange_goes_both_ways_and_leaves_some_rows_whole():
    rows = range(400)
    masks = exchange_boxes((6, 6, 6), 0.667, 0.5, seed=0, step=3, rows=rows)
    shares = masks.float().flatten(1).mean(1)
    box = 4**3 / 6**3
    kinds = {"none": 0.0, "inside": box, "outside": 1 - box}
    counts = {name: int(torch.isclose(shares, torch.tensor(share)).sum()) for name, share in kinds.items()}
    assert sum(counts.values()) == 400
    assert 160 < counts["none"] < 240 and 70 < counts["inside"] < 130 and 70 < counts["outside"] < 130


def test_exchange_is_a_function_of_seed_step_and_row():
    arguments = ((6, 6, 6), 0.667, 0.5)
    whole = exchange_boxes(*arguments, seed=1, step=2, rows=[4, 5, 6, 7])
    assert torch.equal(whole[2:], exchange_boxes(*arguments, seed=1, step=2, rows=[6, 7]))
    many = exchange_boxes(*arguments, seed=1, step=2, rows=range(20))
    assert not torch.equal(many, exchange_boxes(*arguments, seed=1, step=3, rows=range(20)))
    assert not torch.equal(many, exchange_boxes(*arguments, seed=2, step=2, rows=range(20)))


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_exchange_never_and_always(probability, share):
    masks = exchange_boxes((4, 4, 4), 0.5, probability, seed=0, step=0, rows=range(16))
    assert masks.flatten(1).any(1).float().mean() == share


def test_sides_of_a_box_are_rounded_to_the_nearest():
    (row,) = boxes(range(1), fraction=0.65)[:, 0]
    places = row.nonzero()
    assert (places.amax(0) - places.amin(0) + 1).tolist() == [8, 16, 6]  # of 7.8, 15.6 and 5.85
