"""Figures of images that hold several labels each: exact match, mean average precision and macro ROC-AUC.

Letters: n images, l labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError
from medcontrast.metrics.classification import area_under_roc

Wanted = NDArray[np.bool_]


def exact_matches(scores: NDArray[np.float64], wanted: Wanted) -> NDArray[np.bool_]:
    """(n,) Whether an image's labels are the ones with the highest scores, as many as it holds.

    Of equal scores the first label counts.

    Args:
        scores: (n, l), for example a probability a label.
        wanted: (n, l) which labels each image holds.

    Raises:
        InputError: Shapes that do not fit, a score that is not finite, or an image without a label.
    """
    scores, wanted = checked_labels(scores, wanted)
    places = np.argsort(-scores, axis=1, kind="stable")
    ranks = np.argsort(places, axis=1, kind="stable")
    found: NDArray[np.bool_] = ((ranks < wanted.sum(axis=1, keepdims=True)) == wanted).all(axis=1)
    return found


def mean_average_precision(scores: NDArray[np.float64], wanted: Wanted) -> float:
    """Mean over labels of the average precision: the precision at every image that holds the label, averaged.

    Images of equal score are taken together, so that their order says nothing. A score that knows nothing gets the
    share of images that hold the label.

    Raises:
        InputError: As for `exact_matches`, or a label that no image or every image holds.
    """
    scores, wanted = checked_labels(scores, wanted)
    require_both(wanted)
    return float(np.mean([_average_precision(scores[:, k], wanted[:, k]) for k in range(wanted.shape[1])]))


def label_roc_auc(scores: NDArray[np.float64], wanted: Wanted) -> float:
    """Mean over labels of the area under the ROC curve of the images that hold it against those that do not.

    Raises:
        InputError: As for `mean_average_precision`.
    """
    scores, wanted = checked_labels(scores, wanted)
    require_both(wanted)
    return float(np.mean([area_under_roc(scores[:, k], wanted[:, k]) for k in range(wanted.shape[1])]))


def checked_labels(scores: NDArray[np.float64], wanted: Wanted) -> tuple[NDArray[np.float64], Wanted]:
    """Scores as float64, and which labels each image holds.

    Raises:
        InputError: Shapes that do not fit, a score that is not finite, or an image without a label.
    """
    scores, wanted = np.asarray(scores, np.float64), np.asarray(wanted)
    if scores.ndim != 2 or scores.shape[1] < 2 or not len(scores) or wanted.shape != scores.shape:
        raise InputError(
            "Expected scores (images, labels) of two labels or more and as many marks, "
            f"but got shapes {scores.shape} and {wanted.shape}."
        )
    if wanted.dtype != np.bool_:
        raise InputError(f"Which labels an image holds is told by true and false, but their type is {wanted.dtype}.")
    if not np.isfinite(scores).all():
        row = int(np.argwhere(~np.isfinite(scores))[0, 0])
        raise InputError(f"Scores must be finite, but those of image {row} are {scores[row].tolist()}.")
    if not wanted.any(axis=1).all():
        raise InputError(f"Image {int(np.flatnonzero(~wanted.any(axis=1))[0])} holds no label.")
    return scores, wanted


def tells_apart(wanted: Wanted) -> bool:
    """Whether every label is held by some of the images and not by all."""
    return bool(_tell_apart(wanted).all())


def require_both(wanted: Wanted) -> None:
    """Refuses labels that do not tell the images apart.

    Raises:
        InputError: With the place of the first.
    """
    if not tells_apart(wanted):
        label = int(np.flatnonzero(~_tell_apart(wanted))[0])
        how = "all" if wanted[:, label].all() else "none"
        raise InputError(f"A label needs images that hold it and images that do not, but {how} hold label {label}.")


def _tell_apart(wanted: Wanted) -> NDArray[np.bool_]:
    """(l,) Which labels are held by some of the images and not by all."""
    return np.asarray(wanted.any(axis=0) & ~wanted.all(axis=0))


def _average_precision(scores: NDArray[np.float64], positive: Wanted) -> float:
    values, place = np.unique(-scores, return_inverse=True)
    images = np.bincount(place, minlength=len(values))
    hits = np.bincount(place, weights=positive, minlength=len(values))
    precision = hits.cumsum() / images.cumsum()
    return float((precision * hits).sum() / hits.sum())
