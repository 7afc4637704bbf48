"""Where networks predict, and in what precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from medcontrast.errors import InputError
from medcontrast.gpu import compute_in_float32, sound_in_16_bits

Autocast = Callable[[], AbstractContextManager[Any]]


def resolve_device(name: str | None) -> torch.device:
    """The device of that name; by default cuda where there is one, else the CPU.

    What is in float32 there is then computed in float32, whatever the process did before.

    Raises:
        InputError: No such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device {name}: expected cpu, cuda, cuda:N or mps.")
    count = torch.cuda.device_count() if device.type == "cuda" else int(torch.backends.mps.is_available())
    if device.type != "cpu" and (device.index or 0) >= count:
        raise InputError(f"--device {name}: there is no such device here; take --device cpu.")
    if device.type == "cuda":
        compute_in_float32()
    return device


def autocast_on(device: torch.device, precision: str) -> tuple[str, Autocast]:
    """What forward passes compute in on a device, and the context of it.

    Args:
        device: Where the networks compute.
        precision: What they were trained in (`train.precision`).
    """
    if device.type == "cuda" and precision != "32-true" and sound_in_16_bits():
        if precision == "16-mixed":
            return "float16", partial(torch.autocast, "cuda", torch.float16)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", partial(torch.autocast, "cuda", torch.bfloat16)
    compute_in_float32()
    return "float32", nullcontext
