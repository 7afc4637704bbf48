"""A stand-in for a GPU at the level of PyTorch's functions.

Tensors know whether they lie on it, and what PyTorch refuses between a GPU and the CPU is refused. The numbers are
computed on the CPU all the same, so that they must be those of the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from medcontrast.engine.feed import Feed
from medcontrast.engine.loop import Trainer
from medcontrast.engine.run import Run

FAR, NEAR = torch.device("cuda", 0), torch.device("cpu")
TAKEN_ACROSS = ("copy_", "_has_compatible_shallow_copy_type")
"""Functions whose tensors may lie on different devices."""


class Far(Tensor):
    """A tensor on the device."""

    def __deepcopy__(self, memo: Any) -> Tensor:
        return memo.setdefault(id(self), moved(self.detach().clone()))


class FarParameter(nn.Parameter):
    """A parameter on the device."""

    def __deepcopy__(self, memo: Any) -> Tensor:
        return memo.setdefault(id(self), moved(nn.Parameter(self.detach().clone(), self.requires_grad)))


def is_far(value: Any) -> bool:
    return isinstance(value, Far | FarParameter)


def moved(tensor: Tensor) -> Tensor:
    """The same tensor, there; parameters too, so that an optimiser's are still the module's."""
    tensor.__class__ = FarParameter if isinstance(tensor, nn.Parameter) else Far
    return tensor


class FarDevice(TorchFunctionMode):
    """Entered, tensors made with `device=FAR` lie there, and no function takes some from there and some from here."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name == "__get__":
            return self._property(function.__self__, args[0])
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        wanted = self._wanted(name, args, kwargs)
        there = self._required_place(name, args, tensors) if wanted is None else wanted == FAR
        if wanted == FAR:
            args, kwargs = tree_map(lambda each: NEAR if isinstance(each, torch.device) else each, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            found = function(*args, **kwargs)
            copied = wanted is not None and isinstance(found, Tensor) and is_far(found) is not there
            if copied and any(found is each for each in tensors):
                found = found.view_as(found)  # what lies elsewhere is a copy
        if copied and not there:
            return found.as_subclass(Tensor)
        for each in tree_leaves(found) if there else ():
            if isinstance(each, Tensor) and not is_far(each):
                moved(each)
        return found

    def _required_place(self, name: str, args: Any, tensors: list[Tensor]) -> bool:
        """Whether the result lies there."""
        if name in ("numpy", "__array__") and is_far(args[0]):
            raise TypeError("a tensor of the device is no array: copy it to the CPU first")
        if name in ("__getitem__", "__setitem__"):
            if not is_far(args[0]) and any(is_far(each) for each in tree_leaves(args[1])):
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            return is_far(args[0])
        if not any(map(is_far, tensors)):
            return False
        with torch._C.DisableTorchFunctionSubclass():
            apart = [each for each in tensors if not is_far(each) and each.dim() > 0]
        if apart and name not in TAKEN_ACROSS:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        return name not in TAKEN_ACROSS or is_far(args[0])

    def _property(self, owner: Any, tensor: Tensor) -> Any:
        kind = getattr(owner, "__name__", "")
        if is_far(tensor) and kind == "device":
            return FAR
        if is_far(tensor) and kind == "is_cuda":
            return True
        with torch._C.DisableTorchFunctionSubclass():
            found = owner.__get__(tensor)
        if is_far(tensor) and isinstance(found, Tensor) and not is_far(found):
            moved(found)  # a gradient, say
        return found

    def _wanted(self, name: str, args: Any, kwargs: Any) -> torch.device | None:
        if name == "cpu":
            return NEAR
        asked = [kwargs.get("device"), *(args[1:] if name == "to" else ())]
        for each in asked:
            if isinstance(each, torch.device | str):
                return FAR if torch.device(each).type == FAR.type else NEAR
            if name == "to" and isinstance(each, Tensor):
                return FAR if is_far(each) else NEAR
        return None


def module_to(module: nn.Module, device: torch.device) -> nn.Module:
    """`Module.to`, of the device alone."""
    for tensor in [*module.parameters(), *module.buffers()] if torch.device(device).type == FAR.type else ():
        moved(tensor)
    return module


class FarFabric(Fabric):
    """Moves modules and batches to the device."""

    def to_device(self, obj):
        if isinstance(obj, nn.Module):
            return module_to(obj, FAR)
        return tree_map(lambda each: each.to(FAR) if isinstance(each, Tensor) else each, obj)


@contextmanager
def far_device() -> Iterator[None]:
    """The stand-in, as `cuda`; its generators are the CPU's, and it has no bfloat16."""
    generator = torch.Generator
    with (
        mock.patch.object(torch, "Generator", lambda device=None: generator("cpu")),
        mock.patch.object(nn.Module, "to", module_to),
        mock.patch.object(torch.cuda, "device_count", lambda: 1),
        mock.patch.object(torch.cuda, "mem_get_info", lambda device=None: (2**33, 2**34)),
        FarDevice(),
    ):
        yield


def train_far(run: Run, *, steps: int) -> list[dict[str, float]]:
    """The terms of so many steps on the device, from where a new run starts."""
    fabric = FarFabric(accelerator="cpu", devices=1)
    trainer = Trainer(run, fabric, Console(quiet=True))
    trainer.initialise()
    found = []
    with far_device():
        wrapped, optimizer = fabric.setup(trainer.method, trainer.optimizer)
        fabric.to_device(trainer.method)
        wrapped.mark_forward_method("losses")
        loader, sampler = trainer.job.loader(rank=0, world_size=1, start_step=0)
        infos = trainer._infos(sampler)[:steps]
        feed = Feed(iter(loader), iter(infos), trainer._ready, FAR)
        for info in infos:
            wrapped.train()
            found.append(trainer._step(wrapped, optimizer, feed, info))
    assert all(map(is_far, [*trainer.method.parameters(), *trainer.method.buffers()]))
    return found
