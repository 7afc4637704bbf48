"""What losses ask of their arguments. Shapes and types are looked at and never values: nothing waits for a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medcontrast.errors import InputError


def require_shape(name: str, tensor: Tensor | None, wanted: Sequence[int], meaning: str) -> None:
    """Refuses another shape than `wanted`, of which `meaning` says what it is; PyTorch would broadcast some of them."""
    if tensor is not None and tuple(tensor.shape) != tuple(wanted):
        raise InputError(f"{name} must have shape {tuple(wanted)}, {meaning}, but got {tuple(tensor.shape)}.")


def require_mask(name: str, tensor: Tensor | None, wanted: Sequence[int], meaning: str) -> None:
    """`require_shape` of a mask, which is bool."""
    require_shape(name, tensor, wanted, meaning)
    if tensor is not None and tensor.dtype != torch.bool:
        raise InputError(f"{name} must be bool, but got {tensor.dtype}.")


def require_embeddings(**named: Tensor) -> None:
    """Refuses what has no cosine: not (n, d) numbers with a fraction, or another d or precision than the first."""
    first, one = next(iter(named.items()))
    for name, tensor in named.items():
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise InputError(
                f"{name} must be embeddings, rows x channels of a floating type, but got shape "
                f"{tuple(tensor.shape)} of {tensor.dtype}."
            )
        if tensor.shape[1] != one.shape[1]:
            raise InputError(
                f"{name} must have as many channels as {first}, {one.shape[1]}, but got {tensor.shape[1]}."
            )
        # losses take half precision to float32 themselves
        if (tensor.dtype == torch.float64) != (one.dtype == torch.float64):
            raise InputError(f"{name} must have the type of {first}, {one.dtype}, but got {tensor.dtype}.")


def require_classes(logits: Tensor) -> None:
    """Refuses logits that no soft-max over classes can learn from."""
    if logits.ndim < 2 or logits.shape[1] < 2:
        raise InputError(
            "logits must have shape (rows, classes, ...) with 2 classes or more, background first, but got "
            f"{tuple(logits.shape)}: the soft-max of one channel is 1 everywhere, and nothing would be learned."
        )
