"""Probe scores by group and over seeds: by hand, reference (scipy), property."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medcontrast.errors import InputError
from medcontrast.metrics.classification import macro_roc_auc
from medcontrast.metrics.probe import (
    accuracy_over_units,
    over_seeds,
    score_multilabel,
    score_probe,
    t_interval,
    unit_means,
)

TARGETS = np.array([0, 1, 0, 1, 0, 1, 0, 0])
DOMAINS = ["A", "A", "A", "A", "B", "B", "C", "C"]


def one_hot(predicted):
    return np.eye(2)[np.asarray(predicted)]


def right(predicted):
    return np.asarray(predicted) == TARGETS


def test_groups_by_hand():
    # A: all right; B: one of two; C: class 0 alone, one of two
    score = score_probe(one_hot([0, 1, 0, 1, 0, 0, 0, 1]), TARGETS, {"domain": DOMAINS})
    assert score.figures["accuracy"] == 6 / 8
    domain = score.by["domain"]
    assert domain.images == {"A": 4, "B": 2, "C": 2}
    assert {name: row["accuracy"] for name, row in domain.groups.items()} == {"A": 1.0, "B": 0.5, "C": 0.5}
    assert set(domain.groups["C"]) == {"accuracy"}
    assert domain.worst["accuracy"] in ("B", "C") and domain.gap["accuracy"] == 0.5
    assert domain.worst["roc_auc"] == "B"
    assert domain.gap["roc_auc"] == pytest.approx(1.0 - 0.5)


def test_groups_are_scored_as_if_alone():
    scores = np.random.default_rng(0).random((8, 2))
    chosen = np.array([name == "A" for name in DOMAINS])
    alone = macro_roc_auc(scores[chosen], TARGETS[chosen])
    assert score_probe(scores, TARGETS, {"domain": DOMAINS}).by["domain"].groups["A"]["roc_auc"] == alone


def test_one_group_has_no_worst_and_no_gap():
    score = score_probe(one_hot(TARGETS), TARGETS, {"quality": ["good"] * 8})
    assert score.by["quality"].worst == {} and score.by["quality"].gap == {}


def test_flat_names_every_value_once():
    score = score_probe(one_hot([0, 1, 0, 1, 0, 0, 0, 1]), TARGETS, {"domain": DOMAINS})
    flat = score.flat()
    assert flat["accuracy"] == 0.75
    assert flat["domain=C accuracy"] == 0.5 and "domain=C roc_auc" not in flat
    assert flat["domain worst accuracy"] == 0.5 and flat["domain gap accuracy"] == 0.5
    assert flat["domain worst roc_auc"] == flat["domain=B roc_auc"]


def test_one_class_alone_and_a_missing_class_are_refused():
    with pytest.raises(InputError, match="needs images of at least two classes, but all 3 are of class 0"):
        score_probe(np.random.default_rng(0).random((3, 2)), np.zeros(3, int))
    with pytest.raises(InputError, match="class 2 does not occur"):
        score_probe(np.random.default_rng(0).random((4, 3)), np.array([0, 1, 0, 1]))
    with pytest.raises(InputError, match="domain: 8 images need a group each, but got 2 groups"):
        score_probe(one_hot(TARGETS), TARGETS, {"domain": ["A", "B"]})


def test_t_interval_against_scipy():
    values = [0.71, 0.74, 0.69, 0.78]
    found = t_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.sd) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    # by hand: t(0.975, 1 degree) is 12.706
    assert t_interval([0.0, 2.0]).high == pytest.approx(1 + 12.7062047, abs=1e-6)
    assert t_interval([0.7]).low is None and t_interval([0.7]).sd is None


def test_t_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(4)
    hits = [i.low <= 0 <= i.high for i in (t_interval(row) for row in random.standard_normal((1500, 3)))]
    assert 0.93 < np.mean(hits) < 0.97


def test_over_seeds_averages_every_value():
    first = score_probe(one_hot([0, 1, 0, 1, 0, 0, 0, 1]), TARGETS, {"domain": DOMAINS})
    second = score_probe(one_hot(TARGETS), TARGETS, {"domain": DOMAINS})
    summary = over_seeds([first, second])
    assert summary["accuracy"].mean == pytest.approx((0.75 + 1) / 2)
    assert summary["domain worst accuracy"].mean == pytest.approx((0.5 + 1) / 2)
    assert summary["domain gap accuracy"].sd == pytest.approx(0.5 / np.sqrt(2))
    with pytest.raises(InputError, match="must be scored on the same images"):
        over_seeds([first, score_probe(one_hot(TARGETS), TARGETS)])
    with pytest.raises(InputError, match="at least one seed"):
        over_seeds([])


def test_accuracy_over_units_averages_seeds_first():
    found = accuracy_over_units([right([0, 1, 0, 1, 0, 0, 0, 1]), right([1, 1, 0, 1, 0, 0, 0, 0])])
    each = np.array([0.5, 1, 1, 1, 1, 0, 1, 0.5])
    assert found.mean == pytest.approx(each.mean())
    assert found.sd == pytest.approx(each.std(ddof=1))
    assert found.low < found.mean < found.high


def test_values_are_averaged_within_units():
    found = unit_means(np.array([1.0, 0.0, 1.0, 0.5]), np.array([7, 2, 7, 2]))
    assert found.tolist() == [0.25, 1.0]
    with pytest.raises(InputError, match="4 images need a unit each, but got 3 units"):
        unit_means(np.zeros(4), np.arange(3))


def test_accuracy_over_units_resamples_units():
    # units 0 and 1 are right in both of their images: none of four units is drawn right once in 16 times
    hits = [right([0, 1, 0, 1, 1, 0, 1, 1])]
    found = accuracy_over_units(hits, np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    alone = accuracy_over_units(hits)
    assert alone.mean == 0.5 and (alone.low, alone.high) != (0.0, 1.0)


def test_groups_of_several_labels_by_hand():
    # B's second image is missed; in C no image holds the last label, so that its mean over labels would say nothing
    wanted = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0]], bool)
    scores = wanted + np.array([[0.1, 0, 0]] * 6)
    scores[3] = [0.1, 0.9, 0.8]
    score = score_multilabel(scores, wanted, {"domain": ["A", "A", "B", "B", "C", "C"]})
    assert score.figures["accuracy"] == 5 / 6
    groups = score.by["domain"].groups
    assert {name: row["accuracy"] for name, row in groups.items()} == {"A": 1.0, "B": 0.5, "C": 1.0}
    assert set(groups["A"]) == {"accuracy"} and set(groups["C"]) == {"accuracy"}  # all of A hold the middle label
    assert set(score.figures) == {"accuracy", "average_precision", "roc_auc"}
    assert score.by["domain"].worst["accuracy"] == "B" and score.by["domain"].gap["accuracy"] == 0.5
    whole = score_multilabel(scores, wanted, {"domain": ["A"] * 6}).by["domain"].groups["A"]
    assert whole == score.figures


def test_a_group_that_lacks_one_of_three_classes_has_the_accuracy_alone():
    targets = np.array([0, 1, 2, 0, 1, 1])
    score = score_probe(np.eye(3)[targets], targets, {"domain": ["A", "A", "A", "B", "B", "B"]})
    assert set(score.by["domain"].groups["B"]) == {"accuracy"}
    assert set(score.by["domain"].groups["A"]) == set(score.figures)
