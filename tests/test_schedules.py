"""Tests of schedules: by hand, property."""

from __future__ import annotations

import math

import pytest

from medcontrast.schedules import (
    constant,
    cosine,
    cosine_to_one,
    gaussian_ramp_up,
    geometric_pace,
    linear_pace,
    polynomial,
    staircase,
    warm_up,
)


def test_the_ramp_by_hand():
    assert gaussian_ramp_up(0, 100) == pytest.approx(0.006737947, rel=1e-6)  # exp(-5)
    assert gaussian_ramp_up(50, 100) == pytest.approx(math.exp(-1.25))
    assert [gaussian_ramp_up(step, 100) for step in (100, 101, 10_000)] == [1.0] * 3
    assert gaussian_ramp_up(0, 0) == 1.0


def test_the_ramp_never_falls():
    values = [gaussian_ramp_up(step, 37, hold_steps=5) for step in range(60)]
    assert values == sorted(values)
    assert 0 < values[0] < values[-1] == 1.0


def test_the_public_code_holds_the_ramp_for_150_steps():
    for step in (0, 149, 150, 3000, 5999, 6000, 9000):
        published = math.exp(-5 * (1 - min(1, math.floor(step / 150) / 40)) ** 2)
        assert gaussian_ramp_up(step, 6000, hold_steps=150) == pytest.approx(published, rel=1e-12)


def test_learning_rate_factors_by_hand():
    assert constant(7, 10) == 1.0
    assert [polynomial(step, 10, power=0.5) for step in (0, 5, 10, 12)] == pytest.approx([1.0, 0.5**0.5, 0.0, 0.0])
    assert [cosine(step, 10) for step in (0, 5, 10, 12)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert [staircase(step, 10, every=3, factor=0.1) for step in (0, 2, 3, 6)] == pytest.approx([1, 1, 0.1, 0.01])
    assert polynomial(0, 0, power=0.9) == cosine(0, 0) == 1.0


def test_a_decay_goes_to_one_along_half_a_cosine():
    values = [cosine_to_one(step, 8, start=0.6) for step in (0, 2, 4, 8, 9)]
    quarter = 1 - 0.4 * (0.5 + 0.5**1.5)
    assert values == pytest.approx([0.6, quarter, 0.8, 1.0, 1.0])
    assert cosine_to_one(3, 8, start=1.0) == 1.0


def test_warm_up_moves_from_the_first_step_on():
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


def test_paces_rise_from_their_start_and_stop_at_their_end():
    assert [linear_pace(step, 4, start=-0.2, end=1.0) for step in (0, 1, 2, 4, 9)] == pytest.approx(
        [-0.2, 0.1, 0.4, 1.0, 1.0]
    )
    assert linear_pace(0, 0, start=-0.2, end=1.0) == 1.0
    assert [geometric_pace(epoch, start=0.5, growth=2.0) for epoch in range(4)] == [0.5, 1.0, 2.0, 4.0]


def test_a_pace_beyond_every_float_lets_all_in():
    assert geometric_pace(300, start=0.5, growth=10.0) == 0.5 * 10.0**300
    assert geometric_pace(309, start=0.5, growth=10.0) == geometric_pace(10**9, start=0.5, growth=1.1) == math.inf
    assert geometric_pace(10**6, start=1000.0, growth=0.5) == 0.0
