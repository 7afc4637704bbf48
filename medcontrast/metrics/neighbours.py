"""Weighted nearest neighbours on embeddings: what a frozen encoder knows without any training.

Letters: n and m images, d channels, k classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError

_ROWS = 256
"""Similarities of so many images are held at a time."""


def knn_probabilities(
    train: NDArray[np.floating],
    train_targets: NDArray[np.integer],
    query: NDArray[np.floating],
    *,
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> NDArray[np.float64]:
    """Votes of the nearest training embeddings by cosine, each weighing exp(cosine / temperature).

    Of equally near embeddings those that stand first in `train` count. An embedding of length 0 has cosine 0 to all.

    Args:
        train: (n, d).
        train_targets: (n,) class indices.
        query: (m, d).
        classes: k.
        neighbours: How many vote; at most n.
        temperature: Above 0; 0.07 is the field's.

    Returns:
        (m, k), rows that sum to 1.

    Raises:
        InputError: Shapes that do not fit, embeddings that are not finite, or a setting out of range.

    Paper: Wu 2018 (instance discrimination), section 3.4.
    """
    known, asked, targets = np.asarray(train, np.float64), np.asarray(query, np.float64), np.asarray(train_targets)
    _check(known, targets, asked, classes)
    if not 1 <= neighbours <= len(known):
        raise InputError(f"neighbours lies in 1..{len(known)}, the training images, but got {neighbours}.")
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"temperature must be a number above 0, but got {temperature}.")
    references, found = _unit(known).T, _unit(asked)
    votes = np.zeros((len(found), classes))
    for start in range(0, len(found), _ROWS):
        similarity = found[start : start + _ROWS] @ references
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
        near = np.take_along_axis(similarity, nearest, axis=1)
        # the nearest weighs 1, so that no temperature overflows; the shares are the same
        weight = np.exp((near - near[:, :1]) / temperature)
        rows = np.arange(start, start + len(near))[:, None]
        np.add.at(votes, (rows, targets[nearest]), weight)
    return votes / votes.sum(axis=1, keepdims=True)


def _check(train: NDArray[np.float64], targets: NDArray[np.integer], query: NDArray[np.float64], classes: int) -> None:
    if train.ndim != 2 or query.ndim != 2 or train.shape[1] != query.shape[1] or targets.shape != (len(train),):
        raise InputError(
            "Neighbours need embeddings (n, d) with n targets and (m, d), "
            f"but got shapes {train.shape}, {targets.shape} and {query.shape}."
        )
    if not (np.isfinite(train).all() and np.isfinite(query).all()):
        raise InputError("Embeddings must be finite, but some are not; the encoder's weights may be damaged.")
    if len(targets) and not (targets.min() >= 0 and targets.max() < classes):
        raise InputError(f"Targets lie in 0..{classes - 1}, but reach from {targets.min()} to {targets.max()}.")


def _unit(embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(length > 0, length, 1.0)
