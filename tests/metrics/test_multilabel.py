"""Figures of images that hold several labels: by hand, reference (scikit-learn), property."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from medcontrast.errors import InputError
from medcontrast.metrics.multilabel import exact_matches, label_roc_auc, mean_average_precision

WANTED = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 0]], bool)


def draw(seed, images=200, labels=5):
    random = np.random.default_rng(seed)
    wanted = random.random((images, labels)) < 0.3
    wanted[np.arange(images), random.integers(labels, size=images)] = True
    # tenths, so that scores are often equal
    scores = np.round(wanted * 0.4 + random.random((images, labels)), 1)
    return scores, wanted


def test_exact_matches_by_hand():
    scores = np.array([[0.9, 0.8, 0.1], [0.9, 0.2, 0.8], [0.7, 0.9, 0.1]])
    assert exact_matches(scores, WANTED).tolist() == [True, False, False]
    assert exact_matches(WANTED * 1.0, WANTED).all()
    # of equal scores the first label counts
    assert exact_matches(np.zeros((3, 3)), WANTED).tolist() == [True, False, True]


def test_a_score_of_one_label_an_image_is_the_accuracy():
    scores, _ = draw(3)
    targets = np.random.default_rng(5).integers(5, size=len(scores))
    assert np.array_equal(exact_matches(scores, np.eye(5, dtype=bool)[targets]), scores.argmax(axis=1) == targets)


@pytest.mark.parametrize("seed", range(4))
def test_means_over_labels_against_scikit_learn(seed):
    scores, wanted = draw(seed)
    assert mean_average_precision(scores, wanted) == pytest.approx(average_precision_score(wanted, scores), abs=1e-12)
    assert label_roc_auc(scores, wanted) == pytest.approx(roc_auc_score(wanted, scores), abs=1e-12)


def test_a_score_that_knows_nothing_gets_the_share_of_each_label():
    scores, wanted = draw(1)
    assert mean_average_precision(np.zeros_like(scores), wanted) == pytest.approx(wanted.mean())
    assert label_roc_auc(np.zeros_like(scores), wanted) == 0.5


def test_what_bad_input_gets():
    scores = np.random.default_rng(0).random((3, 3))
    with pytest.raises(InputError, match=r"but got shapes \(3, 3\) and \(3,\)"):
        exact_matches(scores, WANTED[:, 0])
    with pytest.raises(InputError, match="their type is int64"):
        exact_matches(scores, WANTED.astype(np.int64))
    with pytest.raises(InputError, match="those of image 1 are"):
        exact_matches(np.where([[False], [True], [False]], np.nan, scores), WANTED)
    with pytest.raises(InputError, match="Image 2 holds no label"):
        exact_matches(scores, WANTED & np.array([[True], [True], [False]]))
    with pytest.raises(InputError, match="but all hold label 0"):
        mean_average_precision(scores, WANTED | np.array([True, False, False]))
    with pytest.raises(InputError, match="but none hold label 2"):
        label_roc_auc(scores, np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]], bool))
