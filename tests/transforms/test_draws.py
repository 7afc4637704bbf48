"""Tests of the random numbers: property."""

from __future__ import annotations

import numpy as np

from medcontrast.transforms.draws import row_generator

NUMBERS = [832, 929, 937, 195]


def test_generators_differ_by_each_of_their_arguments():
    base = (0, 0, 0, "weak")
    others = [(1, 0, 0, "weak"), (0, 1, 0, "weak"), (0, 0, 1, "weak"), (0, 0, 0, "strong")]
    first = row_generator(*base).random(100)
    assert np.array_equal(row_generator(*base).random(100), first)
    for other in others:
        assert not np.intersect1d(row_generator(*other).random(100), first).size


def test_long_streams_of_neighbouring_rows_and_steps_do_not_overlap():
    drawn = [
        row_generator(2**31 - 1, step, row, "x").integers(2**63, size=2000) for step in range(3) for row in range(3)
    ]
    assert len(np.unique(np.concatenate(drawn))) == 9 * 2000


def test_numbers_are_the_same_on_every_machine():
    assert row_generator(3, 10, 2, "geometry").integers(1000, size=4).tolist() == NUMBERS
