"""Schedules as pure functions of the step: learning-rate factors and the Gaussian ramp-up."""

from __future__ import annotations

import math

_LARGEST_EXPONENT = 700.0
"""e to this is a float, and e to a tenth more is none."""


def gaussian_ramp_up(step: int, ramp_up_steps: int, *, hold_steps: int = 1) -> float:
    """Weight that grows from exp(-5) to 1 over `ramp_up_steps`, then stays 1.

    Args:
        step: Optimiser steps done so far.
        ramp_up_steps: Length of the ramp; 0 gives 1 at once.
        hold_steps: The weight changes only every so many steps (the public FBA-Net code: 150).

    Paper: Laine and Aila 2017, section 2.1: exp(-5 (1 - t)^2).
    """
    if ramp_up_steps == 0:
        return 1.0
    held = step // hold_steps * hold_steps
    fraction = min(1.0, held / ramp_up_steps)
    return math.exp(-5.0 * (1.0 - fraction) ** 2)


def constant(step: int, total: int) -> float:
    """Factor 1 throughout."""
    return 1.0


def polynomial(step: int, total: int, *, power: float) -> float:
    """Factor (1 - step / total)^power."""
    return max(0.0, 1.0 - step / max(total, 1)) ** power


def cosine(step: int, total: int) -> float:
    """Factor from 1 to 0 along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / max(total, 1))))


def cosine_to_one(step: int, total: int, *, start: float) -> float:
    """A value that goes from `start` to 1 along half a cosine, such as the decay of an average of weights."""
    return 1.0 - (1.0 - start) * cosine(step, total)


def staircase(step: int, total: int, *, every: int, factor: float) -> float:
    """Factor multiplied by `factor` every `every` steps."""
    return float(factor ** (step // every))


def warm_up(step: int, steps: int) -> float:
    """Linear factor that reaches 1 after `steps` steps; never 0, so that the first step moves."""
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


def linear_pace(step: int, ramp_up_steps: int, *, start: float, end: float) -> float:
    """What self-paced learning lets in: from `start` to `end` in equal steps; 0 steps give `end` at once."""
    fraction = 1.0 if ramp_up_steps == 0 else min(1.0, step / ramp_up_steps)
    return start + (end - start) * fraction


def geometric_pace(done: int, *, start: float, growth: float) -> float:
    """`start`, multiplied by `growth` after every epoch or step: what self-paced learning lets in, for one.

    Infinite where the number would be too large for a float: all is let in by then.

    Paper: Kumar 2010, self-paced learning.
    """
    return start * growth**done if done * math.log(growth) < _LARGEST_EXPONENT else math.inf
