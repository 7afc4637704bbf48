"""Several processes seen from one: rank, world size, gathering rows with and without gradient, means over all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes; 1 where none were launched."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _active() else 0


def gather(tensor: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Rows (n, ...) of every process, in the order of rank, without gradient: (rows of all, ...).

    Alone it is the tensor itself, detached.

    Args:
        tensor: (n, ...), the same shape on every process, but for n where `counts` are given.
        counts: Rows of every process, in the order of rank. Default: as many as here.
    """
    if world_size() == 1:
        return tensor.detach()
    # Gloo has no bool.
    plain = tensor.detach().to(torch.uint8) if tensor.dtype == torch.bool else tensor.detach()
    longest = len(plain) if counts is None else max(counts)
    if len(plain) < longest:  # a collective moves equal shapes alone
        plain = functional.pad(plain, [0, 0] * (plain.ndim - 1) + [0, longest - len(plain)])
    parts = [torch.empty_like(plain, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, plain.contiguous())
    if counts is not None:
        parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
    return torch.cat(parts).to(tensor.dtype)


def gather_with_gradient(tensor: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """Rows (n, ...) of every process, in the order of rank, with gradient: (rows of all, ...).

    A loss of the gathered rows is the same on every process. Its gradient to this process's rows is the sum over all
    processes, and DDP divides the parameters' gradients by the number of processes: together the gradient of one
    process with the joined batch. Alone it is the tensor itself. See `gather` for the arguments.
    """
    if world_size() == 1:
        return tensor
    gathered: Tensor = _Gather.apply(tensor, counts)
    return gathered


def gather_chosen(tensor: Tensor, chosen: Tensor) -> Tensor:
    """Rows `chosen` of the rows of all processes, in that order, with gradient; no other row is moved.

    Args:
        tensor: (n, ...), as many rows on every process.
        chosen: (m,) int64, each row once, counted through the processes in the order of rank; the same on all.
    """
    if world_size() == 1:
        return tensor[chosen]
    owner = chosen // len(tensor)
    mine = tensor[chosen[owner == rank()] % len(tensor)]
    gathered = gather_with_gradient(mine, torch.bincount(owner, minlength=world_size()).tolist())
    return gathered[torch.argsort(owner, stable=True).argsort()]


def mean_over_processes(tensor: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient; alone it is the tensor itself, detached."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def share_of_mean(mean: Tensor, counted: Tensor) -> Tensor:
    """This process's share of a mean over the rows of all processes: the mean of the shares, as DDP takes it, is that.

    Without it a row weighs more on a process where fewer rows count. Alone it is the mean itself.

    Args:
        mean: Scalar, over those rows of this process that count; 0 where none does.
        counted: (b,) bool, which they are.
    """
    if world_size() == 1:
        return mean
    here = counted.sum().to(mean.dtype)
    return mean * here / mean_over_processes(here).clamp_min(1.0 / world_size())


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: Sequence[int] | None) -> Tensor:
        ctx.counts = [len(tensor)] * world_size() if counts is None else list(counts)
        return gather(tensor, counts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        start = sum(ctx.counts[: rank()])
        return total[start : start + ctx.counts[rank()]], None
