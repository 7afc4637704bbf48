"""Several processes seen from one: rank, world size, and gathering rows with and without gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes; 1 where none were launched."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _active() else 0


def gather(tensor: Tensor) -> Tensor:
    """Rows (n, ...) of every process, in the order of rank, without gradient: (world_size * n, ...).

    Every process gives the same shape. Alone it is the tensor itself, detached.
    """
    if world_size() == 1:
        return tensor.detach()
    # Gloo has no bool.
    plain = tensor.detach().to(torch.uint8) if tensor.dtype == torch.bool else tensor.detach()
    parts = [torch.empty_like(plain, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, plain.contiguous())
    return torch.cat(parts).to(tensor.dtype)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Rows (n, ...) of every process, in the order of rank, with gradient: (world_size * n, ...).

    A loss of the gathered rows is the same on every process. Its gradient to this process's rows is the sum over all
    processes, and DDP divides the parameters' gradients by the number of processes: together the gradient of one
    process with the joined batch. Every process gives the same shape. Alone it is the tensor itself.
    """
    if world_size() == 1:
        return tensor
    gathered: Tensor = _Gather.apply(tensor)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        start = rank() * int(ctx.rows)
        return total[start : start + int(ctx.rows)]
