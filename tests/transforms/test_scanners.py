"""Tests of the simulated scanners: reference (plain float64 loops), by hand, property."""

import math
from collections import Counter

import numpy as np
import pytest

from medcontrast.errors import InputError
from medcontrast.transforms.scanners import SCANNERS, SHARES, draw_scanners, render_by_scanner


def clean(side=9, seed=0):
    return np.random.default_rng(seed).random((side, side)).astype(np.float32)


@pytest.mark.parametrize(
    ("scanner", "rule"),
    [
        ("plain", lambda x: x),
        ("gamma", math.sqrt),
        ("contrast", lambda x: 0.2 + 0.5 * x),
        ("haze", lambda x: 0.5 + 0.3 * x),
    ],
)
def test_pointwise_scanners_by_hand(scanner, rule):
    image = clean()
    seen = render_by_scanner(image, scanner, seed=0, number=0)
    expected = [[rule(float(value)) for value in row] for row in image]
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_blur_against_plain_loops():
    image = clean(side=9)
    radius, sigma = 4, 1.0  # the library's kernel ends at 4 standard deviations
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-radius, radius + 1)]
    weights = [weight / sum(weights) for weight in weights]
    side = len(image)
    expected = np.zeros_like(image, dtype=np.float64)
    for x in range(side):
        for y in range(side):
            for i, first in enumerate(weights):
                for j, second in enumerate(weights):
                    row, column = min(max(x + i - radius, 0), side - 1), min(max(y + j - radius, 0), side - 1)
                    expected[x, y] += first * second * float(image[row, column])
    many = np.mean([render_by_scanner(image, "blur", seed=1, number=number) for number in range(2000)], axis=0)
    # the noise of 0.03 has a mean of 0; over 2,000 draws 5 standard errors are 0.0034
    np.testing.assert_allclose(many, expected, atol=0.0034)
    single = render_by_scanner(image, "blur", seed=1, number=0) - expected
    assert 0.02 < single.std() < 0.04


def test_noise_is_a_function_of_seed_and_number_alone():
    image = clean(side=28)
    first = render_by_scanner(image, "blur", seed=3, number=5)
    assert np.array_equal(first, render_by_scanner(image, "blur", seed=3, number=5))
    assert not np.array_equal(first, render_by_scanner(image, "blur", seed=3, number=6))
    assert not np.array_equal(first, render_by_scanner(image, "blur", seed=4, number=5))


@pytest.mark.parametrize("scanner", SCANNERS)
def test_every_scanner_stays_in_0_to_1_and_leaves_its_input_alone(scanner):
    for image in (np.zeros((8, 8), np.float32), np.ones((8, 8), np.float32), clean()):
        before = image.copy()
        seen = render_by_scanner(image, scanner, seed=0, number=0)
        assert seen.dtype == np.float32 and seen.shape == image.shape
        assert seen.min() >= 0.0 and seen.max() <= 1.0
        assert np.array_equal(image, before)


def test_shares_are_exact_and_the_order_is_drawn_by_the_seed():
    drawn = draw_scanners(7000, seed=0)
    counts = Counter(drawn)
    for scanner, share in zip(SCANNERS, SHARES, strict=True):
        assert abs(counts[scanner] - share / sum(SHARES) * 7000) < 1.0
    assert counts["haze"] == 14
    assert drawn == draw_scanners(7000, seed=0)
    assert drawn != draw_scanners(7000, seed=1)
    assert Counter(draw_scanners(7000, seed=1)) == counts
    # no scanner's images stand together: the rare ones are spread over both halves
    assert 2 <= drawn[:3500].count("haze") <= 12


def test_no_scanner_is_left_out_of_a_small_set():
    assert Counter(draw_scanners(20, seed=0)) == {"plain": 16, "gamma": 1, "contrast": 1, "blur": 1, "haze": 1}
    assert Counter(draw_scanners(5, seed=0)) == dict.fromkeys(SCANNERS, 1)
    assert draw_scanners(2, seed=0) == ["plain", "plain"]


def test_what_a_scanner_refuses():
    with pytest.raises(InputError, match="There is no scanner 'mri'; the scanners are plain, gamma, contrast, blur"):
        render_by_scanner(clean(), "mri", seed=0, number=0)
    with pytest.raises(InputError, match=r"takes an image in 0..1, but this one goes from 0 to 255; rescale it"):
        render_by_scanner(np.array([[0.0, 255.0]]), "plain", seed=0, number=0)
    with pytest.raises(InputError, match=r"takes an image in 0..1, but this one goes from nan"):
        render_by_scanner(np.array([[np.nan, 0.5]]), "plain", seed=0, number=0)


def test_shares_can_be_given_in_any_unit_and_a_scanner_without_one_stays_out():
    assert Counter(draw_scanners(40, seed=0, shares=(50, 50, 0, 0, 0))) == {"plain": 20, "gamma": 20}
    assert Counter(draw_scanners(40, seed=0, shares=(0, 0, 1, 0, 0))) == {"contrast": 40}
    assert Counter(draw_scanners(40, seed=0, shares=(0.001, 0, 1, 0, 0))) == {"contrast": 39, "plain": 1}
    for wrong in ((1, 2), (0, 0, 0, 0, 0), (1, -1, 1, 1, 1), (1, 1, 1, 1, math.inf)):
        with pytest.raises(InputError, match="shares of scanners are 5 numbers of 0 or more"):
            draw_scanners(40, seed=0, shares=wrong)
