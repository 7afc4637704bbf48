"""Figures of a classification: accuracy, balanced accuracy, macro ROC-AUC and quadratic-weighted kappa.

Letters: n images, k classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError

Targets = NDArray[np.int64]


def accuracy(scores: NDArray[np.float64], targets: Targets) -> float:
    """Share of images whose largest score is their class's; of equal scores the first class counts.

    Args:
        scores: (n, k), for example probabilities.
        targets: (n,) class indices.

    Raises:
        InputError: Shapes that do not fit, a score that is not finite, or an unknown class.
    """
    scores, targets = checked(scores, targets)
    return float(np.mean(scores.argmax(axis=1) == targets))


def balanced_accuracy(scores: NDArray[np.float64], targets: Targets) -> float:
    """Mean over the classes that occur of the share of their images that is recognised.

    Raises:
        InputError: As for `accuracy`, or fewer than two classes occur.
    """
    scores, targets = checked(scores, targets)
    _require_two(targets, "Balanced accuracy")
    hit = scores.argmax(axis=1) == targets
    return float(np.mean([hit[targets == k].mean() for k in np.unique(targets)]))


def macro_roc_auc(scores: NDArray[np.float64], targets: Targets) -> float:
    """Mean over all k classes of the area under the ROC curve of that class against the rest.

    The area is the chance that an image of the class scores higher than one of the rest; equal scores count half
    (Mann-Whitney's U over the number of pairs).

    Raises:
        InputError: As for `accuracy`, or a class does not occur: without it its area means nothing.
    """
    scores, targets = checked(scores, targets)
    _require_two(targets, "ROC-AUC")
    absent = sorted(set(range(scores.shape[1])) - set(targets.tolist()))
    if absent:
        raise InputError(
            f"ROC-AUC is the mean over {scores.shape[1]} classes, but class {absent[0]} does not occur among the "
            f"{len(targets)} images; score a split that holds every class."
        )
    return float(np.mean([area_under_roc(scores[:, k], targets == k) for k in range(scores.shape[1])]))


def quadratic_weighted_kappa(scores: NDArray[np.float64], targets: Targets) -> float:
    """Agreement of ordered classes beyond chance, a mistake weighing as the square of its distance in classes.

    1 - sum w O / sum w E with w_ij = (i - j)^2, O the counts of (target, prediction) and E those expected of two
    independent raters with the same totals. It means something where class indices are grades in order; with two
    classes it is Cohen's kappa.

    Raises:
        InputError: As for `accuracy`, or fewer than two classes occur.

    Paper: Cohen 1968, weighted kappa.
    """
    scores, targets = checked(scores, targets)
    _require_two(targets, "Kappa")
    classes = scores.shape[1]
    observed = np.zeros((classes, classes))
    np.add.at(observed, (targets, scores.argmax(axis=1)), 1.0)
    expected = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / len(targets)
    grades = np.arange(classes)
    weight = (grades[:, None] - grades[None, :]) ** 2
    return float(1.0 - (weight * observed).sum() / (weight * expected).sum())


def area_under_roc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Chance that a positive image scores higher than another; equal scores count half.

    Args:
        scores: (n,).
        positive: (n,) of both kinds, which is not checked.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # equal scores share the mean of their ranks
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    count = int(positive.sum())
    wins = ranks[positive].sum() - count * (count + 1) / 2
    return float(wins / (count * (len(scores) - count)))


def checked(scores: NDArray[np.float64], targets: Targets) -> tuple[NDArray[np.float64], Targets]:
    """Scores as float64 and targets as int64.

    Raises:
        InputError: Shapes that do not fit, a score that is not finite, or an unknown class.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    if scores.ndim != 2 or scores.shape[1] < 2 or targets.shape != (len(scores),) or not len(scores):
        raise InputError(
            f"Expected scores (images, classes) of two classes or more and one target an image, "
            f"but got shapes {scores.shape} and {targets.shape}."
        )
    if targets.dtype.kind not in "iu":
        raise InputError(f"Targets are class indices, whole numbers from 0, but their type is {targets.dtype}.")
    if not np.isfinite(scores).all():
        row = int(np.argwhere(~np.isfinite(scores))[0, 0])
        raise InputError(f"Scores must be finite, but those of image {row} are {scores[row].tolist()}.")
    if targets.min() < 0 or targets.max() >= scores.shape[1]:
        wrong = int(targets.min() if targets.min() < 0 else targets.max())
        raise InputError(f"Targets lie in 0..{scores.shape[1] - 1}, a column of the scores each, but got {wrong}.")
    return scores, targets.astype(np.int64)


def _require_two(targets: Targets, figure: str) -> None:
    if len(np.unique(targets)) < 2:
        raise InputError(
            f"{figure} needs images of at least two classes, but all {len(targets)} are of class {targets[0]}."
        )
