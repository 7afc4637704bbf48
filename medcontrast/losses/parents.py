"""How well the parents of an image were read off it: cross-entropy of categories, squared error of numbers.

Letters: b rows, p numbers of the parents, k parents.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.losses.precision import in_full_precision


@in_full_precision
def parent_losses(found: Tensor, wanted: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """One scalar a parent, each a mean over rows.

    Args:
        found: (b, p), logits of a category's values, a number as it is.
        wanted: (b, p), one-hot categories and standardised numbers, as a generator takes them.
        widths: (k,), columns of every parent in their order; 1 is a number, more are a category's values.

    Returns:
        k scalars.

    Raises:
        InputError: Widths that are not those of the columns.
    """
    if sum(widths) != found.shape[1] or found.shape != wanted.shape:
        raise InputError(
            f"parents of {list(widths)} columns do not fit numbers of shape {tuple(found.shape)} and "
            f"{tuple(wanted.shape)}."
        )
    pairs = zip(found.split(list(widths), dim=1), wanted.split(list(widths), dim=1), strict=True)
    return [
        functional.mse_loss(one, other) if one.shape[1] == 1 else functional.cross_entropy(one, other.argmax(1))
        for one, other in pairs
    ]
