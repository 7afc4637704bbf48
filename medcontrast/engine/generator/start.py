"""What a recipe must share with the generator that it starts from or goes on with, beside the shapes of its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from medcontrast.errors import CheckpointError
from medcontrast.networks.parents import Parent


def require_same_parents(ours: Sequence[Parent], theirs: Sequence[Parent], where: Path) -> None:
    """A generator takes numbers, whose meaning lies in the parents' order, values and statistics.

    Raises:
        CheckpointError: They differ.
    """
    if len(ours) == len(theirs) and all(_same(*pair) for pair in zip(ours, theirs, strict=True)):
        return
    held, wanted = ("; ".join(_described(parent) for parent in parents) for parents in (theirs, ours))
    raise CheckpointError(
        f"{where}: its parents ({held}) are not those of this recipe and its training images ({wanted}); take the "
        "recipe's parents and manifest from that run."
    )


def _same(one: Parent, other: Parent) -> bool:
    numbers = ((one.mean, other.mean), (one.std, other.std))
    return one[:2] == other[:2] and all(math.isclose(*pair, rel_tol=1e-6, abs_tol=1e-9) for pair in numbers)


def _described(parent: Parent) -> str:
    values = f"{parent.mean:.6g} +- {parent.std:.6g}" if parent.values is None else ", ".join(parent.values)
    return f"{parent.name}: {values}"
