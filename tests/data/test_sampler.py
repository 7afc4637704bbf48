"""Tests of the two-stream sampler: by hand, property."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from medcontrast.data.sampler import ImageSampler, RowKey, TwoStreamSampler
from medcontrast.errors import InputError


def make(n_labeled=5, n_unlabeled=7, labeled_rows=4, unlabeled_rows=8, seed=0, *, steps=20, **options):
    return TwoStreamSampler(n_labeled, n_unlabeled, labeled_rows, unlabeled_rows, seed, steps=steps, **options)


def cases(sampler, labeled):
    return [key.case_index for key in chain.from_iterable(sampler) if key.labeled == labeled]


def test_rows_of_a_step_are_numbered_labeled_first():
    for step, keys in enumerate(make()):
        assert [key.row for key in keys] == list(range(12))
        assert [key.labeled for key in keys] == [True] * 4 + [False] * 8
        assert {key.step for key in keys} == {step}


@pytest.mark.parametrize(("labeled", "count"), [(True, 5), (False, 7)])
def test_every_round_holds_every_case_once_in_a_new_order(labeled, count):
    walked = cases(make(), labeled)
    rounds = [tuple(walked[start : start + count]) for start in range(0, len(walked) - count + 1, count)]
    assert all(sorted(order) == list(range(count)) for order in rounds)
    assert len(set(rounds)) > 0.8 * len(rounds)


def test_no_image_stands_in_a_step_twice_and_all_have_their_turn():
    """10 images and 4 rows: two steps a round, in which eight images stand; which two sit out changes."""
    sampler = ImageSampler(10, 0, 4, 0, 3, steps=400)
    steps = [[key.case_index for key in sampler.batch(step)] for step in range(400)]
    assert all(len({*steps[step], *steps[step + 1]}) == 8 for step in range(0, 400, 2))
    counts = Counter(chain.from_iterable(steps)).values()
    assert len(counts) == 10 and min(counts) > 130 and max(counts) < 190  # 160 expected; the deviation is 5.7
    assert [sampler.epoch(step) for step in (0, 1, 2, 399)] == [0, 0, 1, 199]
    plain = TwoStreamSampler(8, 0, 4, 0, 3, steps=6)
    assert list(ImageSampler(8, 0, 4, 0, 3, steps=6)) == list(plain)  # where rows divide the images


def test_more_rows_than_cases_show_each_case_equally_often():
    sampler = make(n_labeled=2, labeled_rows=8)
    assert Counter(key.case_index for key in sampler.batch(3) if key.labeled) == {0: 4, 1: 4}


def test_resuming_goes_on_exactly():
    whole, rest = list(make(micro_batches=2)), make(micro_batches=2, start_step=13)
    assert list(rest) == whole[26:]
    assert len(rest) == 14


def test_seed_matters_and_nothing_else_is_remembered():
    sampler = make()
    assert list(sampler) == list(sampler) == list(make())
    assert list(make(seed=1)) != list(make())


def test_the_two_streams_have_orders_of_their_own():
    sampler = make(n_labeled=6, n_unlabeled=6, labeled_rows=6, unlabeled_rows=6)
    assert cases(sampler, True) != cases(sampler, False)


@pytest.mark.parametrize(("world_size", "micro_batches"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_processes_and_micro_batches_share_out_the_same_rows(world_size, micro_batches):
    whole = list(make())
    samplers = [make(rank=rank, world_size=world_size, micro_batches=micro_batches) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    for step, keys in enumerate(whole):
        parts = [share[step * micro_batches + micro_batch] for micro_batch in range(micro_batches) for share in shares]
        assert sorted(chain.from_iterable(parts)) == sorted(keys)
        for part in parts:
            assert [key.labeled for key in part] == sorted((key.labeled for key in part), reverse=True)
            rows = [key.row for key in part if key.labeled]
            assert rows == list(range(rows[0], rows[0] + len(rows)))


def test_share_of_a_process_by_hand():
    keys = make(rank=1, world_size=2, micro_batches=2).batch(0, 1)
    assert [(key.row, key.labeled) for key in keys] == [(3, True), (10, False), (11, False)]


def test_epoch_counts_full_passes_over_the_labeled_cases():
    assert [make().epoch(step) for step in range(6)] == [0, 0, 1, 2, 3, 4]
    assert make(n_labeled=0, labeled_rows=0).epoch(3) == 0


def test_without_unlabeled_rows_no_unlabeled_case_is_needed():
    assert make(n_unlabeled=0, unlabeled_rows=0).batch(0)[-1] == RowKey(0, 3, make().batch(0)[3].case_index, True)


def test_rows_without_cases_are_refused():
    with pytest.raises(InputError, match=r"unlabeled_rows is 8, but the manifest has no unlabeled cases; add some or"):
        make(n_unlabeled=0)


def test_rows_that_cannot_be_shared_evenly_are_refused():
    match = r"labeled_rows 4 cannot be shared evenly by 3 process\(es\) with train.accumulate 2; .* multiple of 6\."
    with pytest.raises(InputError, match=match):
        make(world_size=3, micro_batches=2)


def test_rank_outside_the_world_is_a_programming_error():
    with pytest.raises(ValueError, match=r"rank 2 does not lie in 0\.\.1"):
        make(rank=2, world_size=2)


def test_micro_batches_come_before_processes_by_hand():
    keys = make(rank=0, world_size=2, micro_batches=2).batch(0, 1)
    assert [(key.row, key.labeled) for key in keys] == [(2, True), (8, False), (9, False)]


def test_rows_that_micro_batches_cannot_share_are_refused():
    match = r"labeled_rows 4 cannot be shared evenly by 1 process\(es\) with train.accumulate 3"
    with pytest.raises(InputError, match=match):
        make(micro_batches=3)
