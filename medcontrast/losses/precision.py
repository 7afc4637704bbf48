"""Losses run in float32 with autocast off; float64 stays float64, for gradient checks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_full_precision(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorates a loss: its float16 and bfloat16 tensors, in lists too, become float32, and autocast is off inside.

    In bfloat16 a similarity of 0.9995 is 1, and -log(1 - 1) infinite.
    """

    @functools.wraps(function)
    def promoted(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device_type=device, enabled=False):
            return function(
                *[_promote(value) for value in args],  # type: ignore[arg-type]
                **{name: _promote(value) for name, value in kwargs.items()},  # type: ignore[arg-type]
            )

    return promoted


def _promote(value: object) -> object:
    if isinstance(value, list | tuple) and any(isinstance(each, Tensor) for each in value):
        return [_promote(each) for each in value]
    low = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if low and isinstance(value, Tensor) else value
