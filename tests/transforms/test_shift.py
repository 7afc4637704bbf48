"""Images moved by whole pixels: how far, what fills the edge, and that a row's draw is its own."""

import torch

from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.shift import shifted


def _draws(rows: int, step: int = 0):
    return [row_generator(0, step, row, "test") for row in range(rows)]


def _dots(rows: int) -> torch.Tensor:
    """(rows, 1, 20, 10) with one bright pixel each, in the middle."""
    image = torch.zeros(rows, 1, 20, 10)
    image[:, :, 10, 5] = 1.0
    return image


def test_every_move_up_to_the_share_of_each_side_occurs_and_none_beyond():
    found = shifted(_dots(400), 0.1, _draws(400))[:, 0].nonzero()
    assert len(found) == 400
    assert set((found[:, 1] - 10).tolist()) == {-2, -1, 0, 1, 2}
    assert set((found[:, 2] - 5).tolist()) == {-1, 0, 1}


def test_the_edge_fills_what_is_uncovered():
    image = torch.arange(8.0).repeat(8, 1)[None, None].expand(50, 1, 8, 8)
    moved = shifted(image, 0.25, _draws(50))
    assert torch.equal(moved, moved[:, :, :1].expand_as(moved))
    steps = moved[:, 0, 0].diff(dim=1)
    assert ((steps == 0) | (steps == 1)).all()
    assert moved.min() == 0
    assert moved.max() == 7


def test_a_row_moves_alike_whatever_rows_are_beside_it():
    image = torch.rand(6, 2, 12, 12)
    together = shifted(image, 0.2, _draws(6))
    apart = torch.cat([shifted(image[[row]], 0.2, [_draws(6)[row]]) for row in range(6)])
    assert torch.equal(together, apart)
    assert not torch.equal(together, shifted(image, 0.2, _draws(6, step=1)))


def test_a_share_of_0_leaves_the_images():
    image = torch.rand(3, 1, 7, 9)
    assert torch.equal(shifted(image, 0.0, _draws(3)), image)
