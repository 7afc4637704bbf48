"""Tests of the loss of a predictor of parents: reference (plain loops), by hand, gradient."""

import math

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.parents import parent_losses


def test_by_hand():
    found = torch.tensor([[2.0, 0.0, 0.5, 0.0, 0.0]])
    terms = parent_losses(found, torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0]]), [2, 1, 2])
    assert [term.item() for term in terms] == pytest.approx([math.log1p(math.exp(-2.0)), 0.25, math.log(2.0)], rel=1e-6)


def test_against_plain_loops():
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    classes = [0, 2, 1, 1, 2, 0]
    wanted = torch.zeros(6, 6, dtype=torch.float64)
    wanted[:, :2] = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 3)
    wanted[:, 2] = torch.randn(6, generator=generator, dtype=torch.float64)
    for row, value in enumerate(classes):
        wanted[row, 3 + value] = 1.0
    expected = [0.0, 0.0, 0.0]
    for row in range(6):
        logits = found[row].tolist()
        expected[0] += (math.log(sum(math.exp(each) for each in logits[:2])) - logits[row % 2]) / 6
        expected[1] += (logits[2] - wanted[row, 2].item()) ** 2 / 6
        expected[2] += (math.log(sum(math.exp(each) for each in logits[3:])) - logits[3 + classes[row]]) / 6
    terms = parent_losses(found, wanted, [2, 1, 3])
    assert [term.item() for term in terms] == pytest.approx(expected)


def test_gradient_of_one_term_stays_in_its_columns():
    found = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([[1.0, 0.0, 0.3, 0.0, 1.0]] * 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda each: tuple(parent_losses(each, wanted, [2, 1, 2])), found)
    parent_losses(found, wanted, [2, 1, 2])[1].backward()
    assert (found.grad[:, 2] != 0).all() and (found.grad[:, [0, 1, 3, 4]] == 0).all()


def test_runs_in_float32_under_autocast():
    found = torch.randn(4, 3).bfloat16()
    terms = parent_losses(found, torch.tensor([[1.0, 0.0, 2.0]] * 4), [2, 1])
    assert all(term.dtype == torch.float32 for term in terms)


def test_what_is_refused():
    with pytest.raises(InputError, match=r"parents of \[2, 2\] columns do not fit numbers of shape \(1, 3\)"):
        parent_losses(torch.zeros(1, 3), torch.zeros(1, 3), [2, 2])
