"""A small training for what scores other things: a probe's classifier, a predictor of parents. No run, no resume."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medcontrast import schedules
from medcontrast.errors import NonFiniteLossError

WEIGHT_DECAY = 0.01


def fit_briefly(
    module: nn.Module,
    loss_at: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    what: str,
    advice: str,
    weight_decay: float = WEIGHT_DECAY,
    tell: Callable[[int, Tensor], None] = lambda step, loss: None,
) -> None:
    """Trains all of a module with AdamW for a fixed number of steps; the last weights stay, nothing is chosen.

    Args:
        module: In the mode and on the device that it trains in.
        loss_at: Step, from 0 -> the loss of its rows, a scalar.
        steps: Of the optimiser.
        lr: At the end of the warm-up, a tenth of the steps; half a cosine takes it to 0.
        what: Opens the sentence about a loss that is not finite.
        advice: Ends it: what the user can do.
        weight_decay: Of AdamW.
        tell: Called after every step with its number, from 0, and its loss.

    Raises:
        NonFiniteLossError: The loss became NaN or infinite.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay)
    for step in range(steps):
        rate = schedules.cosine(step, steps) * schedules.warm_up(step, steps // 10)
        for group in optimizer.param_groups:
            group["lr"] = lr * rate
        loss = loss_at(step)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLossError(f"{what}: the loss is not finite at step {step}; {advice}.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        tell(step, loss.detach())
