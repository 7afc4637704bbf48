"""The sliding window: overlapping windows, weighted, averaged to one probability map."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medcontrast.transforms.crop import PAD_VALUE

DEVICE_BYTES = 4 * 2**30
"""Above this size the sum of probabilities is kept in main memory instead of on the device."""

WindowFunction = Callable[[Tensor], Tensor]
"""Windows (n, c, *patch) in, probabilities (n, k, *patch) out."""

Triple = tuple[int, int, int]


@torch.no_grad()
def sliding_window(
    image: Tensor,
    patch: Sequence[int],
    probabilities_of: WindowFunction,
    *,
    overlap: float = 0.5,
    weighting: str = "gaussian",
    window_batch: int = 4,
    device: torch.device | str = "cpu",
    pad_value: float = PAD_VALUE,
) -> Tensor:
    """Averages the probabilities of overlapping windows over a whole image.

    Args:
        image: (1, c, x, y, z); smaller than the patch it is padded on both sides, and the result cropped again.
        patch: Window in voxels.
        probabilities_of: What is averaged; `mirrored_softmax` makes one from a network.
        overlap: Share by which neighbouring windows overlap, 0 to below 1.
        weighting: "gaussian" (standard deviation an eighth of the patch) or "uniform".
        window_batch: Windows in one call.
        device: Where `probabilities_of` computes.
        pad_value: What the padding holds, in the prepared image's units.

    Returns:
        (k, x, y, z) float32; on `device` up to DEVICE_BYTES, else on the CPU.
    """
    if image.ndim != 5 or image.shape[0] != 1:
        raise ValueError(f"expected an image of shape (1, c, x, y, z), but got {tuple(image.shape)}")
    size = _triple(image.shape[2:])
    window = _triple(patch)
    padded, before = _pad(image, window, pad_value)
    weights = window_weights(window, weighting).to(device)
    starts = window_starts(_triple(padded.shape[2:]), window, overlap)
    total: Tensor | None = None
    weight_sum = torch.zeros(0)
    for group in _groups(starts, window_batch):
        windows = torch.cat([padded[(slice(None), slice(None), *_slices(start, window))] for start in group]).to(device)
        weighted = probabilities_of(windows).float() * weights
        if total is None:
            home = _home(weighted.shape[1], padded.shape[2:], device)
            total = torch.zeros((weighted.shape[1], *padded.shape[2:]), device=home)
            weight_sum = torch.zeros(padded.shape[2:], device=home)
        for start, part in zip(group, weighted.to(total.device), strict=True):
            total[(slice(None), *_slices(start, window))] += part
            weight_sum[_slices(start, window)] += weights.to(total.device)
    assert total is not None
    total /= weight_sum
    return total[(slice(None), *_slices(before, size))]


def mirrored_softmax(logits_of: Callable[[Tensor], Tensor], axes: Sequence[int] = ()) -> WindowFunction:
    """A window function: soft-max in float32, averaged over every mirrored version along the given axes.

    Args:
        logits_of: Windows (n, c, *patch) in, logits (n, k, *patch) out, in any float type.
        axes: Spatial axes 0 to 2; all three make eight versions, none makes one.
    """
    versions = [chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]

    def probabilities_of(windows: Tensor) -> Tensor:
        total: Tensor | None = None
        for version in versions:
            dims = [axis + 2 for axis in version]
            logits = logits_of(windows.flip(dims) if dims else windows)
            probabilities = logits.float().softmax(dim=1)
            probabilities = probabilities.flip(dims) if dims else probabilities
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None
        return total.div_(len(versions))

    return probabilities_of


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


def _home(classes: int, sides: Sequence[int], device: torch.device | str) -> torch.device:
    fits = 4 * (classes + 1) * math.prod(sides) <= DEVICE_BYTES
    return torch.device(device) if fits else torch.device("cpu")


def _pad(image: Tensor, patch: Triple, value: float) -> tuple[Tensor, Triple]:
    missing = [max(0, length - side) for length, side in zip(patch, image.shape[2:], strict=True)]
    before = _triple([lack // 2 for lack in missing])
    if not any(missing):
        return image, before
    sides = [(first, lack - first) for lack, first in zip(missing, before, strict=True)]
    amounts = [amount for side in reversed(sides) for amount in side]  # torch counts axes from the last
    return functional.pad(image, amounts, value=value), before


def _slices(start: Triple, sides: Triple) -> tuple[slice, ...]:
    return tuple(slice(first, first + length) for first, length in zip(start, sides, strict=True))


def _groups(starts: list[Triple], count: int) -> Iterator[list[Triple]]:
    return (starts[index : index + count] for index in range(0, len(starts), count))


def _triple(values: Sequence[int]) -> Triple:
    x, y, z = values
    return int(x), int(y), int(z)
