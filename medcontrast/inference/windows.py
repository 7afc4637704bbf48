"""The sliding window: logits of overlapping windows, weighted, averaged to one map of a whole image.

Logits and not probabilities, as MONAI and nnU-Net 2 do: a window that is unsure counts for less (docs/findings.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medcontrast.transforms.crop import PAD_VALUE

DEVICE_BYTES = 4 * 2**30
"""Above this size, or a quarter of what a GPU has free, what is kept of an image (the values of all of it, the sums of
the windows at one place along x) is kept in main memory instead of on the device."""

SLAB_PLANES = 16
"""Averages are given in slabs of at most so many planes along x, so that what is made of one stays small. An image that
one window holds has no averages, and is given whole."""

WindowFunction = Callable[[Tensor], Tensor]
"""Windows (n, c, *patch) in, logits (n, k, *patch) out, in any float type."""

Triple = tuple[int, int, int]


def joined(slabs: Iterator[Tensor], sides: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Slabs (k, some x, y, z), one after another along x, as one tensor (k, x, y, z).

    It lies where the slabs lie, or on the CPU where it is too large for that (DEVICE_BYTES).

    Args:
        slabs: At least one.
        sides: (x, y, z).
        dtype: Of the result.
    """
    total: Tensor | None = None
    start = 0
    for slab in slabs:
        if total is None:
            home = _home(dtype.itemsize * len(slab) * math.prod(sides), slab.device)
            total = torch.empty((len(slab), *sides), dtype=dtype, device=home)
        total[:, start : start + slab.shape[1]] = slab.to(total.device)
        start += slab.shape[1]
    assert total is not None and start == total.shape[1]
    return total


def _home(bytes_: int, device: torch.device) -> torch.device:
    return device if bytes_ <= _room_on(device) else torch.device("cpu")


def _room_on(device: torch.device) -> int:
    if device.type != "cuda":
        return DEVICE_BYTES
    return min(DEVICE_BYTES, torch.cuda.mem_get_info(device)[0] // 4)


@torch.no_grad()
def window_slabs(
    image: Tensor,
    patch: Sequence[int],
    logits_of: WindowFunction,
    *,
    overlap: float = 0.5,
    weighting: str = "gaussian",
    window_batch: int = 4,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """The averaged logits of overlapping windows, slab by slab along x.

    Slabs are given as soon as no further window reaches them, so that no more than a window's length of the image is
    held for all classes at once.

    Args:
        image: (1, c, x, y, z); smaller than the patch it is padded on both sides, and the result cropped again.
        patch: Window in voxels.
        logits_of: What is averaged; `mirrored` makes one that looks at every mirrored version too.
        overlap: Share by which neighbouring windows overlap, 0 to below 1.
        weighting: "gaussian" (standard deviation an eighth of the patch) or "uniform".
        window_batch: Windows in one call.
        device: Where `logits_of` computes.

    Yields:
        (k, some x, y, z) float32, together the image; on `device` unless they are too large for it (DEVICE_BYTES).
    """
    if image.ndim != 5 or image.shape[0] != 1:
        raise ValueError(f"expected an image of shape (1, c, x, y, z), but got {tuple(image.shape)}")
    size, window = _triple(image.shape[2:]), _triple(patch)
    padded, before = _pad(image, window)
    inner = (slice(None), *(slice(first, first + side) for first, side in zip(before, size, strict=True)))
    starts = window_starts(_triple(padded.shape[2:]), window, overlap)
    if len(starts) == 1:  # nothing to average, so that no sums are kept beside the answer
        yield logits_of(padded.to(device))[0].float()[inner]
        return
    weights = window_weights(window, weighting)
    buffer: _Slab | None = None
    for group in _groups(starts, window_batch):
        windows = torch.cat([padded[(slice(None), slice(None), *_slices(start, window))] for start in group]).to(device)
        for start, part in zip(group, logits_of(windows).float(), strict=True):
            if buffer is None:
                sides = (window[0], *_triple(padded.shape[2:])[1:])
                home = _home(len(part) * math.prod(sides) * part.itemsize, part.device)
                buffer, weights = _Slab(len(part), sides, home), weights.to(home)
            for slab in buffer.advance(start[0]):
                yield slab[(slice(None), slice(None), *inner[2:])]
            buffer.add(start, part.to(home), weights)
    assert buffer is not None
    # an image that was padded along x has one column of windows, so that these slabs are the first and only ones
    kept = (before[0], before[0] + size[0]) if padded.shape[2] > size[0] else (0, window[0])
    for slab in buffer.advance(buffer.start + window[0], kept):
        yield slab[(slice(None), slice(None), *inner[2:])]


class _Slab:
    """Weighted sums over as much of the image as the windows of one start along x reach."""

    def __init__(self, classes: int, sides: Triple, device: torch.device) -> None:
        self.start = 0
        self.total = torch.zeros((classes, *sides), device=device)
        self.weight = torch.zeros(sides, device=device)

    def add(self, start: Triple, part: Tensor, weights: Tensor) -> None:
        """Adds a window's logits (k, *window) under their weights (*window)."""
        place = _slices((start[0] - self.start, *start[1:]), _triple(part.shape[1:]))
        self.total[(slice(None), *place)].addcmul_(part, weights)
        self.weight[place] += weights

    def advance(self, start: int, kept: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """Moves on to `start`; gives the means (k, some x, y, z) of what is left behind, or of its `kept` planes."""
        planes = start - self.start
        first, end = kept or (0, planes)
        for plane in range(first, end, SLAB_PLANES):
            part = slice(plane, min(plane + SLAB_PLANES, end))
            yield self.total[:, part] / self.weight[part]
        if planes:
            for sums, axis in ((self.total, 1), (self.weight, 0)):
                rest = sums.narrow(axis, planes, sums.shape[axis] - planes).clone()
                sums.zero_()
                sums.narrow(axis, 0, rest.shape[axis]).copy_(rest)
        self.start = start


def even_slabs(slabs: Iterator[Tensor], planes: int) -> Iterator[Tensor]:
    """The same slabs cut and joined to `planes` along x each, the last one to what is left."""
    held: list[Tensor] = []
    count = 0
    for slab in slabs:
        held, count = [*held, slab], count + slab.shape[1]
        while count >= planes:
            whole = torch.cat(held, dim=1)
            yield whole[:, :planes]
            held, count = [whole[:, planes:]], count - planes
    if count:
        yield torch.cat(held, dim=1)


def mirrored(logits_of: WindowFunction, axes: Sequence[int] = ()) -> WindowFunction:
    """A window function that averages probabilities over every mirrored version, and gives their logarithms in float32.

    Versions of one window are as trustworthy as each other, unlike overlapping windows: the mean of probabilities was
    better here, and worse there (docs/findings.md).

    Args:
        logits_of: What is asked for every version.
        axes: Spatial axes 0 to 2; all three make eight versions; none makes one, and leaves its logits as they are.
    """
    versions = [chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]

    def averaged(windows: Tensor) -> Tensor:
        total: Tensor | None = None
        for version in versions:
            dims = [axis + 2 for axis in version]
            turned = logits_of(windows.flip(dims)).float().log_softmax(dim=1).flip(dims)
            total = turned if total is None else torch.logaddexp(total, turned)
        assert total is not None
        return total - math.log(len(versions))

    return averaged if axes else logits_of


def window_weights(patch: Sequence[int], weighting: str) -> Tensor:
    """Weight of each voxel of a window, (x, y, z) float32.

    "gaussian" is MONAI's definition: centred between the middle voxels, standard deviation side / 8, and at least
    0.001, so that corners still count where no other window reaches.
    """
    if weighting == "uniform":
        return torch.ones(tuple(patch))
    if weighting != "gaussian":
        raise ValueError(f"weighting is gaussian or uniform, but got {weighting!r}")
    exponent = torch.zeros(())
    for side in patch:
        distance = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        exponent = exponent[..., None] - distance**2 / (2 * (side / 8) ** 2)
    return exponent.exp().clamp(min=1e-3)


def window_starts(size: Triple, patch: Triple, overlap: float) -> list[Triple]:
    """First voxel of every window; the last window of an axis ends with the image.

    Args:
        size: Sides of the image, none smaller than the patch's.
        patch: Sides of the window.
        overlap: Share by which neighbouring windows overlap.
    """
    axes = []
    for side, length in zip(size, patch, strict=True):
        step = max(1, int(length * (1 - overlap)))
        count = math.ceil((side - length) / step) + 1
        axes.append([min(index * step, side - length) for index in range(count)])
    return [(x, y, z) for x, y, z in itertools.product(*axes)]


def _pad(image: Tensor, patch: Triple) -> tuple[Tensor, Triple]:
    missing = [max(0, length - side) for length, side in zip(patch, image.shape[2:], strict=True)]
    before = _triple([lack // 2 for lack in missing])
    if not any(missing):
        return image, before
    sides = [(first, lack - first) for lack, first in zip(missing, before, strict=True)]
    amounts = [amount for side in reversed(sides) for amount in side]  # torch counts axes from the last
    return functional.pad(image, amounts, value=PAD_VALUE), before


def _slices(start: Triple, sides: Triple) -> tuple[slice, ...]:
    return tuple(slice(first, first + length) for first, length in zip(start, sides, strict=True))


def _groups(starts: list[Triple], count: int) -> Iterator[list[Triple]]:
    return (starts[index : index + count] for index in range(0, len(starts), count))


def _triple(values: Sequence[int]) -> Triple:
    x, y, z = values
    return int(x), int(y), int(z)
