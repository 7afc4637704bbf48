"""Tests of cropping and padding: by hand, property."""

from __future__ import annotations

import numpy as np
import pytest

from medcontrast.transforms.crop import crop_or_pad, pad_start

VOLUME = np.random.default_rng(0).normal(size=(2, 7, 8, 9)).astype(np.float32)


@pytest.mark.parametrize("start", [(0, 0, 0), (2, 1, 3), (-2, 3, 6), (-5, -5, -5), (6, 7, 8), (20, 0, 0), (-20, 0, 0)])
@pytest.mark.parametrize("shape", [(3, 4, 5), (9, 12, 2), (20, 20, 20)])
def test_crop_is_the_same_as_padding_amply_first(start, shape):
    margin = 40
    padded = np.pad(VOLUME, [(0, 0), *[(margin, margin)] * 3], constant_values=-7)
    x, y, z = (slice(first + margin, first + margin + side) for first, side in zip(start, shape, strict=True))
    found = crop_or_pad(VOLUME, start, shape, -7)
    assert np.array_equal(found, padded[:, x, y, z])
    assert found.dtype == np.float32


def test_crop_is_a_copy():
    before = VOLUME.copy()
    crop_or_pad(VOLUME, (0, 0, 0), (7, 8, 9), 0)[:] = 5
    assert np.array_equal(VOLUME, before)


def test_padding_is_even_and_comes_off_again():
    start = pad_start((7, 8, 9), (10, 8, 4))
    padded = crop_or_pad(VOLUME, start, (10, 8, 9), -1)
    assert start == (-1, 0, 0)
    assert np.array_equal(padded[:, 1:8], VOLUME)
    assert (padded[:, 0] == -1).all()
    assert (padded[:, 8:] == -1).all()
    assert np.array_equal(crop_or_pad(padded, [-first for first in start], (7, 8, 9), 0), VOLUME)


@pytest.mark.parametrize(("side", "size", "start"), [(5, 8, -1), (5, 9, -2), (8, 8, 0), (12, 8, 0)])
def test_pad_start_by_hand(side, size, start):
    assert pad_start([side], [size]) == (start,)
