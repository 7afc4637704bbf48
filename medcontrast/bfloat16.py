"""bfloat16 on CPUs that do not compute in it: the same roundings, the sums in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


def rounds_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether training in this precision there is `RoundedToBfloat16`: on CPUs for which oneDNN has no bfloat16.

    PyTorch computes without oneDNN then: steps of a 3D network take minutes instead of seconds, and gradients are
    summed in bfloat16, so that 0.6 to 0.7 of those of a convolution's input were off in their last digit.
    """
    if precision != "bf16-mixed" or device.type != "cpu":
        return False
    return not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


_MULTIPLIES = frozenset(
    {
        functional.conv1d,
        functional.conv2d,
        functional.conv3d,
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
        functional.linear,
        torch.matmul,
        torch.mm,
        torch.bmm,
        torch.addmm,
        torch.baddbmm,
        torch.einsum,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.mm,
        Tensor.bmm,
    }
)
"""What the networks here multiply by, of what CPU autocast computes in bfloat16; the rest stays as slow as it was."""


class RoundedToBfloat16(TorchFunctionMode):
    """Within it, what CPU autocast computes in bfloat16 is computed in float32 of rounded operands, and rounded.

    Gradients are rounded likewise. Bfloat16 units sum in float32 too, so that the order of sums is all that may differ:
    a result in ten thousand is off by its last digit. It is as fast as float32.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _MULTIPLIES or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        args, kwargs = tree_map(_round, (args, kwargs))
        with torch.autocast("cpu", enabled=False):
            return func(*args, **kwargs).bfloat16()


def _round(value: Any) -> Any:
    return value.bfloat16().float() if isinstance(value, Tensor) and value.is_floating_point() else value
