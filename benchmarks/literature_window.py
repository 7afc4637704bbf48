"""The sliding window of the left-atrium papers, as they describe it: what inference is measured against."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def literature_classes(
    logits_of: Callable[[Tensor], Tensor],
    image: Tensor,
    patch: Sequence[int] = (112, 112, 80),
    stride: Sequence[int] = (18, 18, 4),
) -> NDArray[np.int64]:
    """The most probable class of every voxel: one window at a time, soft-max, plain mean over windows.

    Args:
        logits_of: (1, c, *patch) in, (1, k, *patch) out.
        image: (c, x, y, z); padded with 0 on both sides where it is smaller than the patch.
        patch: Window in voxels.
        stride: Voxels from one window to the next; the last of an axis ends with the image.

    Returns:
        (x, y, z).
    """
    lacks = [max(0, length - side) for length, side in zip(patch, image.shape[1:], strict=True)]
    before = [lack // 2 for lack in lacks]
    padded = np.pad(image.numpy(), [(0, 0), *((b, lack - b) for b, lack in zip(before, lacks, strict=True))])
    total, count = None, np.zeros(padded.shape[1:], np.float32)
    axes = []
    for side, length, step in zip(padded.shape[1:], patch, stride, strict=True):
        windows = math.ceil((side - length) / step) + 1
        axes.append([min(step * index, side - length) for index in range(windows)])
    for start in itertools.product(*axes):
        place = tuple(slice(first, first + length) for first, length in zip(start, patch, strict=True))
        window = torch.from_numpy(padded[(slice(None), *place)][None].astype(np.float32))
        with torch.no_grad():
            probabilities = torch.softmax(logits_of(window), dim=1)[0].numpy()
        if total is None:
            total = np.zeros((len(probabilities), *padded.shape[1:]), np.float32)
        total[(slice(None), *place)] += probabilities
        count[place] += 1
    assert total is not None
    inner = tuple(slice(b, b + side) for b, side in zip(before, image.shape[1:], strict=True))
    classes: NDArray[np.int64] = np.argmax(total / count, axis=0)[inner]
    return classes
