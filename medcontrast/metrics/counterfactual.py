"""Figures of counterfactual images: effectiveness of an intervention, composition, reversibility.

Letters: n images, k values of a category.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError


@dataclass(frozen=True)
class CategoryEffect:
    """How often a predictor finds the intended value of a category.

    Attributes:
        balanced_accuracy: Mean over the values that were intended.
        by_value: Share of the images of each such value.
    """

    balanced_accuracy: float
    by_value: dict[str, float]


def category_effect(predicted: NDArray[np.int64], intended: NDArray[np.int64], values: Sequence[str]) -> CategoryEffect:
    """Effectiveness for a category.

    Args:
        predicted: (n,) places in `values`.
        intended: (n,).
        values: Names of the k values.

    Raises:
        InputError: No images, or other numbers of them.

    Paper: Monteiro 2023, "Measuring axiomatic soundness of counterfactual image models", section 3, effectiveness.
    """
    predicted, intended = _pair(predicted, intended)
    shares = {
        str(values[place]): float(np.mean(predicted[intended == place] == place)) for place in np.unique(intended)
    }
    return CategoryEffect(float(np.mean(list(shares.values()))), shares)


def number_effect(predicted: NDArray[np.float64], intended: NDArray[np.float64]) -> float:
    """Effectiveness for a number: mean absolute error, in its own unit.

    Raises:
        InputError: No images, or other numbers of them.
    """
    predicted, intended = _pair(predicted, intended)
    return float(np.mean(np.abs(predicted - intended)))


class MeanDifference:
    """Mean absolute difference of images in 0..1, over all pixels of all images seen so far.

    Composition is that of an image and its null intervention, reversibility that of an image and what comes back.
    """

    def __init__(self) -> None:
        self._total, self._pixels = 0.0, 0

    def add(self, images: NDArray[np.float32], others: NDArray[np.float32]) -> None:
        """Counts images (n, c, x, y) and as many others.

        Raises:
            InputError: Different shapes.
        """
        if images.shape != others.shape:
            raise InputError(f"Images are compared one by one, but have shapes {images.shape} and {others.shape}.")
        self._total += float(np.abs(images.astype(np.float64) - others).sum())
        self._pixels += images.size

    @property
    def mean(self) -> float:
        """Of all pixels.

        Raises:
            InputError: No image was counted.
        """
        if not self._pixels:
            raise InputError("A mean difference needs at least one image.")
        return self._total / self._pixels


def _pair(predicted: NDArray, intended: NDArray) -> tuple[NDArray, NDArray]:
    predicted, intended = np.asarray(predicted), np.asarray(intended)
    if predicted.ndim != 1 or predicted.shape != intended.shape or not len(predicted):
        raise InputError(
            f"Expected one prediction and one intended value an image, but got shapes {predicted.shape} and "
            f"{intended.shape}."
        )
    return predicted, intended
