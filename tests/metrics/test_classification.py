"""Classification figures and neighbours: reference (plain loops, scikit-learn where installed), by hand, property."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medcontrast.errors import InputError
from medcontrast.metrics.classification import accuracy, balanced_accuracy, macro_roc_auc, quadratic_weighted_kappa
from medcontrast.metrics.neighbours import knn_probabilities


def drawn(images=60, classes=4, seed=0, levels=7):
    """Scores on a coarse grid, so that many are equal; every class occurs."""
    random = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(classes), random.integers(0, classes, images - classes)])
    scores = random.integers(0, levels, (images, classes)) / levels + 0.4 * np.eye(classes)[targets]
    return np.round(scores, 6), targets


def auc_by_loops(scores, targets):
    areas = []
    for k in range(scores.shape[1]):
        won, pairs = 0.0, 0
        for i in range(len(targets)):
            for j in range(len(targets)):
                if targets[i] == k and targets[j] != k:
                    pairs += 1
                    won += 1.0 if scores[i, k] > scores[j, k] else 0.5 if scores[i, k] == scores[j, k] else 0.0
        areas.append(won / pairs)
    return sum(areas) / len(areas)


def kappa_by_loops(scores, targets):
    predicted, n, classes = scores.argmax(1), len(targets), scores.shape[1]
    above = sum((int(t) - int(p)) ** 2 for t, p in zip(targets, predicted, strict=True)) / n
    below = 0.0
    for i in range(classes):
        for j in range(classes):
            below += (i - j) ** 2 * (targets == i).sum() / n * (predicted == j).sum() / n
    return 1 - above / below


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_against_plain_loops(seed, classes):
    scores, targets = drawn(classes=classes, seed=seed)
    predicted = [max(range(classes), key=lambda k: (row[k], -k)) for row in scores]
    hits = [p == t for p, t in zip(predicted, targets, strict=True)]
    recalls = [np.mean([hit for hit, t in zip(hits, targets, strict=True) if t == k]) for k in range(classes)]
    assert accuracy(scores, targets) == pytest.approx(sum(hits) / len(hits), abs=1e-12)
    assert balanced_accuracy(scores, targets) == pytest.approx(sum(recalls) / classes, abs=1e-12)
    assert macro_roc_auc(scores, targets) == pytest.approx(auc_by_loops(scores, targets), abs=1e-12)
    assert quadratic_weighted_kappa(scores, targets) == pytest.approx(kappa_by_loops(scores, targets), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_against_scikit_learn(classes):
    witness = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        scores, targets = drawn(classes=classes, seed=seed)
        scores = scores / scores.sum(1, keepdims=True)
        predicted = scores.argmax(1)
        area = (
            witness.roc_auc_score(targets, scores[:, 1])
            if classes == 2
            else witness.roc_auc_score(targets, scores, multi_class="ovr", average="macro")
        )
        assert accuracy(scores, targets) == pytest.approx(witness.accuracy_score(targets, predicted))
        assert balanced_accuracy(scores, targets) == pytest.approx(witness.balanced_accuracy_score(targets, predicted))
        assert macro_roc_auc(scores, targets) == pytest.approx(area, abs=1e-12)
        expected = witness.cohen_kappa_score(targets, predicted, weights="quadratic", labels=range(classes))
        assert quadratic_weighted_kappa(scores, targets) == pytest.approx(expected, abs=1e-12)


def test_area_by_hand_with_ties():
    # positives 0.8 and 0.5, negatives 0.5 and 0.2: pairs won 1, 1, tied 1/2, won 1 of 4
    second = np.array([0.8, 0.5, 0.5, 0.2])
    scores, targets = np.stack([1 - second, second], axis=1), np.array([1, 1, 0, 0])
    assert macro_roc_auc(scores, targets) == pytest.approx(3.5 / 4)
    assert macro_roc_auc(np.full((4, 2), 0.5), targets) == 0.5
    assert macro_roc_auc(np.eye(2)[targets], targets) == 1.0
    assert macro_roc_auc(np.eye(2)[1 - targets], targets) == 0.0


def test_area_sees_the_order_of_scores_alone():
    scores, targets = drawn(seed=3)
    assert macro_roc_auc(np.exp(3 * scores), targets) == pytest.approx(macro_roc_auc(scores, targets), abs=1e-12)


def test_kappa_by_hand():
    targets = np.array([0, 1, 2, 0, 1, 2])
    assert quadratic_weighted_kappa(np.eye(3)[targets], targets) == 1.0
    # one mistake by two grades; observed 4/6; expected from totals (2,2,2) and (3,2,1): (2*4 + 2*1 + 2*1 + 3*4 ...)
    predicted = np.array([0, 1, 2, 0, 1, 0])
    expected = sum((i - j) ** 2 * t / 6 * p / 6 for i, t in enumerate((2, 2, 2)) for j, p in enumerate((3, 2, 1)))
    assert quadratic_weighted_kappa(np.eye(3)[predicted], targets) == pytest.approx(1 - (4 / 6) / expected)
    near = np.array([0, 1, 2, 0, 1, 1])
    assert quadratic_weighted_kappa(np.eye(3)[near], targets) > quadratic_weighted_kappa(np.eye(3)[predicted], targets)
    assert quadratic_weighted_kappa(np.eye(3)[np.full(6, 1)], targets) == pytest.approx(0.0)


def test_balanced_accuracy_weighs_classes_alike():
    targets = np.array([0] * 9 + [1])
    assert accuracy(np.eye(2)[np.zeros(10, int)], targets) == 0.9
    assert balanced_accuracy(np.eye(2)[np.zeros(10, int)], targets) == 0.5


@pytest.mark.parametrize("figure", [balanced_accuracy, macro_roc_auc, quadratic_weighted_kappa])
def test_one_class_alone_is_refused(figure):
    with pytest.raises(InputError, match="needs images of at least two classes, but all 5 are of class 1"):
        figure(np.random.default_rng(0).random((5, 2)), np.ones(5, int))


def test_area_without_a_class_is_refused():
    with pytest.raises(InputError, match="mean over 3 classes, but class 2 does not occur among the 4 images"):
        macro_roc_auc(np.random.default_rng(0).random((4, 3)), np.array([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("scores", "targets", "sentence"),
    [
        (np.ones((3, 2)), np.zeros(2, int), r"got shapes \(3, 2\) and \(2,\)"),
        (np.ones((3, 1)), np.zeros(3, int), "two classes or more"),
        (np.ones((0, 2)), np.zeros(0, int), "Expected scores"),
        (np.ones((2, 2)), np.array([0.0, 1.0]), "whole numbers from 0, but their type is float64"),
        (np.array([[0.1, 0.9], [np.nan, 1.0]]), np.array([0, 1]), "those of image 1 are"),
        (np.ones((2, 2)), np.array([0, 2]), r"Targets lie in 0\.\.1, a column of the scores each, but got 2"),
        (np.ones((2, 2)), np.array([-1, 0]), "but got -1"),
    ],
)
def test_wrong_input_is_refused(scores, targets, sentence):
    with pytest.raises(InputError, match=sentence):
        accuracy(scores, targets)


def knn_by_loops(train, targets, query, classes, neighbours, temperature):
    out = []
    for q in query:
        near = []
        for place, t in enumerate(train):
            cosine = sum(a * b for a, b in zip(q, t, strict=True)) / math.sqrt(sum(a * a for a in q))
            near.append((-cosine / math.sqrt(sum(b * b for b in t)), place))
        votes = [0.0] * classes
        for negative, place in sorted(near)[:neighbours]:
            votes[targets[place]] += math.exp(-negative / temperature)
        out.append([vote / sum(votes) for vote in votes])
    return np.array(out)


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.07), (5, 0.07), (17, 0.5), (30, 2.0)])
def test_neighbours_against_plain_loops(neighbours, temperature):
    random = np.random.default_rng(neighbours)
    train, query, targets = random.normal(size=(30, 6)), random.normal(size=(9, 6)), random.integers(0, 3, 30)
    found = knn_probabilities(train, targets, query, classes=3, neighbours=neighbours, temperature=temperature)
    np.testing.assert_allclose(found, knn_by_loops(train, targets, query, 3, neighbours, temperature), atol=1e-12)


def test_neighbours_against_scikit_learn():
    witness = pytest.importorskip("sklearn.neighbors")
    random = np.random.default_rng(1)
    train, query, targets = random.normal(size=(80, 5)), random.normal(size=(300, 5)), random.integers(0, 4, 80)
    classifier = witness.KNeighborsClassifier(
        10, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.1)
    )
    expected = classifier.fit(train, targets).predict_proba(query)
    found = knn_probabilities(train, targets, query, classes=4, neighbours=10, temperature=0.1)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_neighbours_by_hand():
    train, targets = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), np.array([0, 1, 1])
    one = knn_probabilities(train, targets, np.array([[5.0, 1.0]]), classes=2, neighbours=1)
    np.testing.assert_array_equal(one, [[1.0, 0.0]])
    # equally near: the first in the list votes
    tied = knn_probabilities(train, targets, np.array([[1.0, 1.0]]), classes=2, neighbours=1)
    np.testing.assert_array_equal(tied, [[1.0, 0.0]])
    both = knn_probabilities(train, targets, np.array([[1.0, 1.0]]), classes=2, neighbours=2)
    np.testing.assert_allclose(both, [[0.5, 0.5]])


def test_of_many_equally_near_the_first_vote():
    random = np.random.default_rng(0)
    directions = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])[random.integers(0, 3, 600)]
    targets, nearest = random.integers(0, 2, 600), np.flatnonzero(directions[:, 1] == 1.0)[:50]
    found = knn_probabilities(directions, targets, np.array([[0.0, 1.0]]), classes=2, neighbours=50)
    np.testing.assert_allclose(found[0, 1], targets[nearest].mean())


def test_neighbours_do_not_see_lengths_and_stand_any_temperature():
    random = np.random.default_rng(2)
    train, query, targets = random.normal(size=(20, 4)), random.normal(size=(6, 4)), random.integers(0, 2, 20)
    found = knn_probabilities(train, targets, query, classes=2)
    scaled = knn_probabilities(train * random.uniform(0.1, 9, (20, 1)), targets, 7 * query, classes=2)
    np.testing.assert_allclose(found, scaled, atol=1e-12)
    cold = knn_probabilities(train, targets, query, classes=2, temperature=1e-5)
    assert np.isfinite(cold).all()
    np.testing.assert_array_equal(cold, knn_probabilities(train, targets, query, classes=2, neighbours=1).round())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"neighbours": 4}, r"neighbours lies in 1\.\.3, the training images, but got 4"),
        ({"neighbours": 0}, "but got 0"),
        ({"temperature": 0.0}, "temperature must be a number above 0, but got 0"),
        ({"query": np.ones((2, 5))}, "Neighbours need embeddings"),
        ({"query": np.full((2, 4), np.inf)}, "Embeddings must be finite"),
        ({"train_targets": np.array([0, 1, 2])}, r"Targets lie in 0\.\.1, but reach from 0 to 2"),
    ],
)
def test_neighbours_refuse(change, sentence):
    given = {"train": np.ones((3, 4)), "train_targets": np.array([0, 1, 0]), "query": np.ones((2, 4)), "neighbours": 1}
    with pytest.raises(InputError, match=sentence):
        knn_probabilities(**{**given, **change}, classes=2)
