"""Tests of cosine similarity: reference (torch's own), by hand, property, gradient."""

import torch
from torch.nn import functional

from medcontrast.losses.similarity import cosine_matrix, unit


def test_against_torch():
    torch.manual_seed(0)
    first, second = torch.randn(4, 6), torch.randn(5, 6)
    torch.testing.assert_close(cosine_matrix(first, second), functional.cosine_similarity(first[:, None], second, -1))


def test_by_hand():
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, -2.0], [-6.0, -8.0]])
    torch.testing.assert_close(cosine_matrix(first, second), torch.tensor([[0.6, -0.8, -1.0]]))


def test_zeros_stay_zeros_without_gradient():
    embeddings = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit(embeddings)[:, 0].sum().backward()
    assert unit(embeddings)[0].tolist() == [0.0, 0.0]
    assert embeddings.grad[0].tolist() == [0.0, 0.0] and embeddings.grad[1].abs().sum() > 0


def test_gradcheck():
    first = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    second = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cosine_matrix, (first, second))


def test_nan_is_not_hidden():
    assert cosine_matrix(torch.tensor([[float("nan"), 1.0]]), torch.ones(1, 2)).isnan().all()
