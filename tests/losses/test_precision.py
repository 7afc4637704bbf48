"""Tests of the decorator that keeps losses in float32: by hand."""

import pytest
import torch

from medcontrast.losses.precision import in_full_precision


@in_full_precision
def product(first, second, *, third=None):
    """The docstring stays."""
    return first @ second if third is None else first @ second + third


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_lower_precisions_are_promoted_and_float64_stays(given, expected):
    one = torch.ones(2, 2, dtype=given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(one, one).dtype == expected
        assert product(one, one, third=one).dtype == expected
        assert (one.float() @ one.float()).dtype == torch.bfloat16


def test_whole_numbers_bools_and_the_name_stay():
    whole = torch.ones(2, 2, dtype=torch.int64)
    assert product(whole, whole).dtype == torch.int64
    assert product.__name__ == "product" and product.__doc__ == "The docstring stays."


def test_gradient_comes_back_in_the_given_precision():
    one = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    product(one, one).sum().backward()
    assert one.grad.dtype == torch.bfloat16
