"""DINO's loss: a student's soft-max over prototypes follows a teacher's, which is centred and sharpened.

Letters: b rows, k prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.losses.precision import in_full_precision


def self_distillation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Mean over pairs of a teacher's and another view of the student's of their cross-entropy.

    Args:
        student: Logits (b, k) of every view, the teacher's views first and in the teacher's order.
        teacher: Logits (b, k) of the views that the teacher sees; they get no gradient.
        center: (k,), taken from the teacher's logits.
        student_temperature: Above 0.
        teacher_temperature: Above 0 and smaller, which sharpens.

    Raises:
        InputError: No pair of different views.

    Paper: Caron 2021 (DINO), equation 3 and algorithm 1.
    """
    targets = [centred_softmax(logits, center, temperature=teacher_temperature) for logits in teacher]
    terms = [
        cross_entropy_to(logits, target, temperature=student_temperature)
        for place, target in enumerate(targets)
        for other, logits in enumerate(student)
        if other != place
    ]
    if not terms:
        raise InputError(
            f"self-distillation compares different views, but got {len(student)} of the student and "
            f"{len(teacher)} of the teacher."
        )
    return torch.stack(terms).mean()


@in_full_precision
def centred_softmax(logits: Tensor, center: Tensor, *, temperature: float) -> Tensor:
    """Soft-max of (logits - center) / temperature, (b, k), without gradient."""
    return torch.softmax((logits.detach() - center) / temperature, dim=-1)


@in_full_precision
def cross_entropy_to(logits: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """Mean over rows of -sum_k t_k log softmax_k(logits / temperature), with targets (b, k) that sum to 1."""
    return -(target * functional.log_softmax(logits / temperature, dim=-1)).sum(-1).mean()


def moved_center(center: Tensor, mean: Tensor, momentum: float) -> Tensor:
    """The centre (k,) after a step whose teacher logits had this mean (k,).

    Paper: Caron 2021 (DINO), equation 4.
    """
    return momentum * center + (1.0 - momentum) * mean.to(center.dtype)
