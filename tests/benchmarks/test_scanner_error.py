"""Tests of the error of counterfactuals to what the scanners render: by hand."""

from __future__ import annotations

import pytest
import torch

from benchmarks.scanner_error import by_digit, errors
from medcontrast.data.images.manifest import ImageCase
from medcontrast.transforms.scanners import SCANNERS


class Adds:
    """Moves an image by the difference of its parents' first number."""

    def __init__(self, share=1.0):
        self.share = share

    def counterfactual(self, image, numbers, intervened):
        return image + self.share * (intervened - numbers)[:, :1, None, None]


def test_differences_by_hand():
    image = torch.arange(5.0).repeat(3).reshape(15, 1, 1, 1).expand(15, 1, 2, 2)  # scanner k shows grey k
    numbers = torch.arange(5.0).repeat(3).reshape(15, 1)
    exact, half = errors(Adds(), image, numbers), errors(Adds(0.5), image, numbers)
    assert len(exact) == 20
    assert all(error == pytest.approx(0.0) for error, _ in exact.values())
    assert half["plain", "haze"] == (pytest.approx(2.0), pytest.approx(4.0))
    assert half["blur", "contrast"] == (pytest.approx(0.5), pytest.approx(1.0))


def test_digits_that_not_every_scanner_saw_are_left_out(tmp_path):
    def seen(patient, domains):
        return [ImageCase(f"{patient} {domain}", tmp_path / "x", patient=patient, domain=domain) for domain in domains]

    found = by_digit([*seen("a", SCANNERS[:3]), *seen("b", SCANNERS[::-1]), *seen("c", SCANNERS)], 1)
    assert [case.name for case in found] == [f"b {scanner}" for scanner in SCANNERS]
