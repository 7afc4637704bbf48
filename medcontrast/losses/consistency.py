"""Agreement of a student with a target that is not a label: sharpening, squared difference, entropy.

Letters: b rows, k classes; k = 1 means one foreground probability. Targets never get a gradient. Every row is
normalised by itself; a row without weight does not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medcontrast.errors import InputError
from medcontrast.losses.arguments import require_shape
from medcontrast.losses.precision import in_full_precision
from medcontrast.losses.reduction import mean_over, row_means


@in_full_precision
def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """p_k^(1/T) / sum_j p_j^(1/T), in log space: (b, k, *spatial) like the probabilities.

    Args:
        probabilities: (b, k, *spatial), summing to 1 over k; with k = 1, p^(1/T) / (p^(1/T) + (1 - p)^(1/T)).
        temperature: T > 0; 1 changes nothing, and near 0 the largest class takes all.

    Raises:
        InputError: A temperature that is not positive.

    Paper: MC-Net (Wu 2021), equation 2, and FBA-Net (Chung 2023): the two-class form; this is its case for any number.
    """
    if not temperature > 0.0:
        raise InputError(f"temperature must be above 0, but got {temperature}.")
    if temperature == 1.0:
        return probabilities
    if probabilities.shape[1] == 1:
        return torch.sigmoid((_log(probabilities) - _log(1.0 - probabilities)) / temperature)
    return torch.softmax(_log(probabilities) / temperature, 1)


@in_full_precision
def mse_consistency(student_logits: Tensor, target_probabilities: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared difference between the student's soft-max and a target, over classes and voxels.

    Args:
        student_logits: (b, k, *spatial).
        target_probabilities: (b, k, *spatial), for example a teacher's soft-max, sharpened or not.
        weight: (b, 1, *spatial), at least 0, relative to its row; default 1.

    Raises:
        InputError: A target of another shape.

    Paper: Tarvainen and Valpola 2017, section 2.
    """
    require_shape("target_probabilities", target_probabilities, student_logits.shape, "that of student_logits")
    target = target_probabilities.detach().to(student_logits.dtype)
    return _mean_square(_probabilities(student_logits), target, weight)


@in_full_precision
def mutual_consistency(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Sum over ordered pairs i != j of the squared difference of p_i to the sharpened p_j, which gets no gradient.

    Args:
        logits: (b, k, *spatial) of each decoder, two or more.
        temperature: Of `sharpen`.

    Raises:
        InputError: A single decoder, or decoders of different shapes.

    Paper: MC-Net+ (Wu 2022), equation 4, and FBA-Net (Chung 2023).
    """
    if len(logits) < 2:
        raise InputError(f"mutual consistency compares 2 decoders or more, but got the logits of {len(logits)}.")
    for place, each in enumerate(logits):
        require_shape(f"logits[{place}]", each, logits[0].shape, "that of logits[0]")
    answers = [_probabilities(each) for each in logits]
    targets = [sharpen(each.detach(), temperature) for each in answers]
    pairs = [(i, j) for i in range(len(logits)) for j in range(len(logits)) if i != j]
    return torch.stack([_mean_square(answers[i], targets[j]) for i, j in pairs]).sum()


@in_full_precision
def entropy(probabilities: Tensor) -> Tensor:
    """-sum_k p_k log p_k in nats, of (b, k, *spatial): (b, 1, *spatial), in 0..`maximum_entropy`(k)."""
    if probabilities.shape[1] == 1:
        probabilities = torch.cat((probabilities, 1.0 - probabilities), 1)
    return -(probabilities * _log(probabilities)).sum(1, keepdim=True)


def maximum_entropy(classes: int) -> float:
    """The entropy of C equal probabilities, ln C; one channel holds two classes."""
    return math.log(max(classes, 2))


def _mean_square(probabilities: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    means, counted = row_means((probabilities - target).square(), weight)
    return mean_over(means, counted)


def _probabilities(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, 1)


def _log(probabilities: Tensor) -> Tensor:
    # The smallest number above 0 stands for 0: p log p is 0 there, and its gradient finite.
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
