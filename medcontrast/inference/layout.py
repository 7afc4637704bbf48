"""Which window a network slides over a scan: the training patch, or the largest that a memory budget allows."""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WINDOW_BYTES: int | None = None
"""What one window's forward pass may take; None keeps the training patch, because a larger window cost a batch-norm
V-Net 3.7 points of Dice on four left-atrium scans."""
_MARGIN = 1.5
"""Over the tensors that are counted: working copies inside operators, the softmax, the allocator's waste."""

Triple = tuple[int, int, int]


class Layout(NamedTuple):
    """A window and how far it moves.

    Attributes:
        window: Sides in voxels.
        overlap: Share by which neighbours overlap, an axis each.
    """

    window: Triple
    overlap: tuple[float, float, float]


def choose_layout(
    network: nn.Module,
    sides: Sequence[int],
    *,
    patch: Sequence[int],
    overlap: float,
    memory_bytes: int | None = WINDOW_BYTES,
) -> Layout:
    """The window for an image of these sides.

    A network whose normalisation is the same whatever a window shows (batch norm, none) can take larger windows than it
    was trained on, and neighbours overlap by as many voxels as two patches would; of the windows that fit the one
    with the fewest voxels to compute is taken. With instance or group norm it is another network on another window
    (docs/findings.md): the patch stays.

    Args:
        network: A segmentation network, in evaluation mode.
        sides: (x, y, z) of the image.
        patch: (x, y, z) of the training patch.
        overlap: Share by which neighbouring patches overlap.
        memory_bytes: What a forward pass may take; None keeps the patch.
    """
    plain = Layout(_triple(patch), (overlap, overlap, overlap))
    if memory_bytes is None or getattr(network, "norm", None) not in ("batch", "none"):
        return plain
    # what is left over at both ends for the padding of a smaller scan is the patch's business, not memory's
    voxels = max(math.prod(patch), int(memory_bytes / (_MARGIN * bytes_per_voxel(network))))
    stride = _triple(network.stride)  # type: ignore[arg-type]
    shared = [int(overlap * length) for length in patch]
    choices = [_axis_choices(*axis) for axis in zip(sides, patch, stride, shared, strict=True)]
    best = None
    for chosen in itertools.product(*choices):
        window = math.prod(length for length, _ in chosen)
        if window <= voxels:
            computed = window * math.prod(count for _, count in chosen)
            cost = (computed, math.prod(count for _, count in chosen), chosen[0][0])
            best = min(best, (cost, chosen)) if best is not None else (cost, chosen)
    if best is None:
        return plain
    lengths, counts = zip(*best[1], strict=True)
    x, y, z = (_overlap(*axis) for axis in zip(sides, lengths, counts, strict=True))
    return Layout(_triple(lengths), (x, y, z))


def bytes_per_voxel(network: nn.Module) -> float:
    """Bytes that a forward pass holds at its fullest, per voxel of the image; weights do not count.

    It counts tensors as they come and go on an image of twice the network's stride.
    """
    probe = copy.deepcopy(network).float().cpu()
    sides = [2 * step for step in network.stride]  # type: ignore[union-attr]
    image = torch.zeros(1, network.in_channels, *sides)  # type: ignore[arg-type]
    with torch.no_grad(), _LiveBytes() as live:
        probe(image)
    return (live.most + image.nbytes) / math.prod(sides)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made inside, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, bytes_: int) -> None:
        self._known.discard(key)
        self.now -= bytes_


def _axis_choices(side: int, patch: int, stride: int, shared: int) -> list[tuple[int, int]]:
    """(length, count) of windows along one axis: for every count that pays, the shortest window that does."""
    whole = max(stride, math.ceil(side / stride) * stride)
    found: dict[int, int] = {}
    for length in range(patch, max(whole, patch) + 1, stride):
        count = 1 if length >= side else math.ceil((side - length) / max(1, length - shared)) + 1
        if count not in found:
            found[count] = length
    if whole < patch:  # a scan smaller than the patch needs no padding to the patch
        found[1] = whole
    return [(length, count) for count, length in found.items()]


def _overlap(side: int, length: int, count: int) -> float:
    if count == 1:
        return 0.0
    step = math.ceil((side - length) / (count - 1))
    return 1.0 - (step + 0.5) / length  # half a voxel, so that rounding down gives that step


def _triple(values: Sequence[int]) -> Triple:
    x, y, z = values
    return int(x), int(y), int(z)
