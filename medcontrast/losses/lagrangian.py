"""An objective under a bound on another quantity: its Lagrangian, and how the multiplier follows the bound."""

from __future__ import annotations

from torch import Tensor

from medcontrast.errors import InputError
from medcontrast.losses.precision import in_full_precision


@in_full_precision
def lagrangian(objective: Tensor, value: Tensor, *, bound: Tensor, multiplier: Tensor, damping: float = 0.0) -> Tensor:
    """Objective - (multiplier - damping (bound - value)) (bound - value).

    Its derivative by the value is multiplier - 2 damping (bound - value), that by the multiplier value - bound, so that
    descent by the first and ascent by the second keep the value at its bound or below.

    Args:
        objective: Scalar that is minimised.
        value: Scalar that shall not exceed the bound.
        bound: Scalar.
        multiplier: Scalar, at least 0.
        damping: At least 0. Above 0 it pulls the value towards the bound from both sides, and an oscillation dies out.

    Raises:
        InputError: A negative damping.

    Paper: Platt and Barr 1987 (constrained differential optimization); De Sousa Ribeiro 2023 and Roschewitz 2025 bound
        a generator's free energy by it.
    """
    if damping < 0.0:
        raise InputError(f"damping must be 0 or above, but got {damping}.")
    slack = bound - value
    return objective - (multiplier - damping * slack) * slack


def ascended(multiplier: Tensor, value: Tensor, *, bound: Tensor, rate: float) -> Tensor:
    """The multiplier after one step of ascent along value - bound, and never below 0.

    Deviation: plain ascent, where the public code takes AdamW, whose averages let the multiplier rise for some steps in
        which the value is below its bound.
    """
    return (multiplier + rate * (value - bound)).clamp_min(0.0)
