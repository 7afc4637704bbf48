"""Dice and cross-entropy with labels that leave voxels out, and with soft targets. Dice is MONAI's.

Letters: b rows, k classes (background first). Every row that holds a known voxel is normalised by itself and counts
alike, so that the losses of two halves of a batch average to the loss of the batch where both have as many such rows.
"""

from __future__ import annotations

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.labels import is_known
from medcontrast.losses.arguments import require_classes, require_shape
from medcontrast.losses.precision import in_full_precision
from medcontrast.losses.reduction import mean_over, row_means


@in_full_precision
def dice_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
    include_background: bool = False,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean over rows of dice_weight * Dice + cross_entropy_weight * cross-entropy.

    A row without a labeled voxel, such as an unlabeled one, does not count; where none counts the loss is 0.

    Args:
        logits: (b, k, *spatial), two classes or more.
        label: (b, 1, *spatial) int64 class indices; negative ones are left out of both terms.
        dice_weight: Of 1 - Dice, the mean over classes.
        cross_entropy_weight: Of the cross-entropy, the mean over voxels.
        include_background: Whether Dice counts class 0.
        weight: (b, 1, *spatial) or broadcast to it, at least 0: how much each voxel counts, relative to its row.

    Raises:
        InputError: A single class, or a label of another shape or type.
    """
    require_classes(logits)
    require_shape("label", label, (len(logits), 1, *logits.shape[2:]), "that of the logits with one channel")
    if label.dtype != torch.int64:
        raise InputError(f"label must hold class indices of torch.int64, but got {label.dtype}: take label.long().")
    labeled = is_known(label)
    classes = label.clamp_min(0)
    target = torch.zeros_like(logits).scatter_(1, classes, 1.0)
    counts = labeled.to(logits.dtype) if weight is None else labeled * weight.to(logits.dtype)
    entropy = functional.cross_entropy(logits, classes.squeeze(1), reduction="none").unsqueeze(1)
    dice = _dice(logits, target, counts, include_background, weighted=weight is not None)
    means, counted = row_means(entropy, counts)
    return mean_over(dice_weight * dice + cross_entropy_weight * means, counted)


@in_full_precision
def soft_dice_cross_entropy(
    logits: Tensor,
    target_probabilities: Tensor,
    *,
    dice_weight: float = 1.0,
    cross_entropy_weight: float = 1.0,
    include_background: bool = False,
    weight: Tensor | None = None,
) -> Tensor:
    """`dice_cross_entropy` towards probabilities, for example a teacher's; the target gets no gradient.

    Dice is least where the prediction equals the soft target; the usual form pushes beyond it.

    Args:
        logits: (b, k, *spatial), two classes or more.
        target_probabilities: (b, k, *spatial).
        dice_weight: Of 1 - Dice, the mean over classes.
        cross_entropy_weight: Of the cross-entropy, the mean over voxels.
        include_background: Whether Dice counts class 0.
        weight: (b, 1, *spatial) or broadcast to it, at least 0; rows without any do not count.

    Raises:
        InputError: A single class, or a target of another shape.

    Paper: Wang 2023, Dice Semimetric Losses (MONAI's soft_label).
    """
    require_classes(logits)
    require_shape("target_probabilities", target_probabilities, logits.shape, "that of the logits")
    target = target_probabilities.detach().to(logits.dtype)
    counts = torch.ones_like(logits[:, :1]) if weight is None else weight.to(logits.dtype)
    counts = counts.expand(-1, 1, *logits.shape[2:])
    entropy = functional.cross_entropy(logits, target, reduction="none").unsqueeze(1)
    dice = _dice(logits, target, counts, include_background, weighted=True)
    means, counted = row_means(entropy, counts)
    return mean_over(dice_weight * dice + cross_entropy_weight * means, counted)


def _dice(logits: Tensor, target: Tensor, counts: Tensor, include_background: bool, *, weighted: bool) -> Tensor:
    """1 - Dice (b,), the mean over classes; without weights `counts` is 0 or 1.

    With soft_label MONAI sums |p|, |t| and |p - t|, in which weights act once; its product p t would square them.
    """
    loss = DiceLoss(include_background=include_background, reduction="none", soft_label=weighted)
    losses: Tensor = loss(torch.softmax(logits, 1) * counts, target * counts)
    return losses.flatten(1).mean(1)
