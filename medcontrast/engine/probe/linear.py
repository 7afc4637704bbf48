"""The linear probe: logistic regression on frozen features, its strength chosen on validation images.

Multinomial where an image has a class; one regression a label, all of one strength, where it may hold several labels.

Letters: n images, d feature channels, k classes or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medcontrast.errors import InputError

STRENGTHS = tuple(10.0**power for power in range(-6, 3))
"""Of the L2 penalty, the weakest first."""
_STEPS = 1000


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A classifier of standardised features.

    Attributes:
        weight: (k, d) float64.
        bias: (k,) float64.
        mean: (d,) of the training features.
        scale: (d,) their standard deviation; 1 for a feature that is constant.
        strength: Of the penalty it was fitted with.
        several: Whether an image may hold several of the k.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    strength: float
    several: bool = False

    def logits(self, features: NDArray[np.float64]) -> Tensor:
        """(n, k) float64 of features (n, d)."""
        return (torch.from_numpy(features) - self.mean) / self.scale @ self.weight.T + self.bias

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, k), rows that sum to 1, or each by itself where an image may hold several."""
        logits = self.logits(features)
        found: NDArray[np.float64] = (logits.sigmoid() if self.several else logits.softmax(dim=1)).numpy()
        return found


Targets = NDArray[np.int64] | NDArray[np.bool_]
"""(n,) class indices, or (n, k) which labels each image holds."""


def fit_linear(features: NDArray[np.float64], targets: Targets, *, classes: int, strength: float) -> LinearProbe:
    """Least mean cross-entropy + strength / 2 * |weight|^2 over all images at once; the bias is not penalised.

    Of labels the cross-entropies are summed, so that each of their regressions is the one it would be alone.

    The problem is convex: LBFGS in float64 finds its one solution from any start, so nothing about it is random.

    Args:
        features: (n, d).
        targets: (n,) class indices, or (n, k) bool which labels each image holds.
        classes: k.
        strength: Above 0.

    Raises:
        InputError: A strength that is not positive.
    """
    if not strength > 0.0:
        raise InputError(f"The strength of the L2 penalty must be above 0, but got {strength}.")
    plain, wanted = torch.from_numpy(np.asarray(features, np.float64)), torch.from_numpy(targets)
    mean, deviation = plain.mean(dim=0), plain.std(dim=0, correction=0)
    # rounding alone gives a constant feature a deviation, which would blow it up
    scale = torch.where(deviation > 1e-12 * (1.0 + mean.abs()), deviation, torch.ones_like(deviation))
    inputs = (plain - mean) / scale
    # in these units a strong penalty is no steeper than the cross-entropy, and the bias converges as fast as the weight
    unit = (1.0 + strength) ** -0.5
    scaled = torch.zeros(classes, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [scaled, bias],
        max_iter=_STEPS,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        weight = unit * scaled
        loss = _cross_entropy(inputs @ weight.T + bias, wanted) + 0.5 * strength * weight.square().sum()
        scaled.grad, bias.grad = torch.autograd.grad(loss, [scaled, bias])
        return loss

    optimizer.step(objective)
    return LinearProbe(unit * scaled.detach(), bias.detach(), mean, scale, strength, wanted.ndim == 2)


def choose_linear(
    features: NDArray[np.float64],
    targets: Targets,
    validation: NDArray[np.float64],
    validation_targets: Targets,
    *,
    classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """The probe whose strength gives the lowest cross-entropy on validation images; of equal ones the strongest.

    It is fitted to the training images alone; test images are not among the arguments.
    """
    wanted = torch.from_numpy(validation_targets)
    best: tuple[float, LinearProbe] | None = None
    for strength in sorted(strengths, reverse=True):
        probe = fit_linear(features, targets, classes=classes, strength=strength)
        loss = float(_cross_entropy(probe.logits(validation), wanted))
        if best is None or loss < best[0]:
            best = loss, probe
    if best is None:
        raise InputError("The strengths to choose from are an empty list.")
    return best[1]


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean over images: of the class, or of every label for itself, summed."""
    if wanted.ndim == 1:
        return functional.cross_entropy(logits, wanted)
    each = functional.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
    return each.sum(dim=1).mean()
