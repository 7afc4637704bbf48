"""Tests of row means: by hand, gradient."""

import torch

from medcontrast.losses.reduction import mean_over, row_means


def test_row_means_by_hand():
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    means, counted = row_means(values, None)
    assert means.tolist() == [2.5, 6.5] and counted.tolist() == [True, True]
    means, counted = row_means(values, torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]]))
    # (1 + 3) / 2 * 1/4 + (2 + 4) / 2 * 3/4
    assert means.tolist() == [2.75, 0.0] and counted.tolist() == [True, False]


def test_mean_over_by_hand():
    rows = torch.tensor([1.0, 5.0, 3.0], requires_grad=True)
    assert mean_over(rows, torch.tensor([True, False, True])).item() == 2.0
    nothing = mean_over(rows, torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0.0 and rows.grad.tolist() == [0.0, 0.0, 0.0]
