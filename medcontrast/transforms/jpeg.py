"""The loss of JPEG compression: the cosine transform of blocks of 8x8 pixels, rounded to multiples of a table.

Letters: r rows, c channels, h, w pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 8
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""ITU-T T.81, annex K.1: the step of each frequency of the luminance at quality 50, rows from low to high."""


def compress(image: Tensor, quality: Tensor) -> Tensor:
    """What decoding a JPEG file of each channel as a grey image gives, without rounding to whole grey levels.

    Args:
        image: (r, c, h, w) in 0..1; sides that are no multiple of 8 are continued by their last pixels, as JPEG does.
        quality: (r,) 1 to 100, on the CPU; rounded.

    Returns:
        (r, c, h, w) in 0..1.
    """
    height, width = image.shape[2:]
    padded = F.pad(image, (0, -width % _BLOCK, 0, -height % _BLOCK), "replicate")
    rows, channels, high, wide = padded.shape
    blocks = (255.0 * padded - 128.0).reshape(rows, channels, high // _BLOCK, _BLOCK, wide // _BLOCK, _BLOCK)
    cosines = _cosines().to(image)
    table = quantisation_table(quality).to(image)[:, None, None, :, None, :]
    frequencies = _transform(_transform(blocks, cosines, 3), cosines, 5)
    frequencies = (frequencies / table).round() * table
    blocks = _transform(_transform(frequencies, cosines.T, 3), cosines.T, 5)
    decoded = (blocks.reshape(rows, channels, high, wide) + 128.0) / 255.0
    return decoded[:, :, :height, :width].clamp(0.0, 1.0)


def quantisation_table(quality: Tensor) -> Tensor:
    """Steps (r, 8, 8), whole numbers 1 to 255, of each quality (r,), scaled as the Independent JPEG Group does."""
    quality = quality.round().clamp(1, 100).to(torch.float64)
    scale = torch.where(quality < 50, (5000.0 / quality).floor(), 200.0 - 2.0 * quality)
    steps = torch.tensor(_LUMINANCE, dtype=torch.float64) * scale[:, None, None]
    return ((steps + 50.0) / 100.0).floor().clamp(1, 255)


def _cosines() -> Tensor:
    """(8, 8) float64: row u holds frequency u, orthonormal."""
    places = torch.arange(_BLOCK, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2.0 * places[None, :] + 1.0) * places[:, None] / (2.0 * _BLOCK)) / 2.0
    matrix[0] /= math.sqrt(2.0)
    return matrix


def _transform(blocks: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Matrix times blocks along an axis of 8, as a sum of eight terms.

    A matrix product may round otherwise with other rows in the batch, and the rounding to steps would make that seen.
    """
    shape = [1] * blocks.ndim
    shape[axis] = _BLOCK
    out = torch.zeros_like(blocks)
    for place in range(_BLOCK):
        out.addcmul_(blocks.narrow(axis, place, 1), matrix[:, place].reshape(shape))
    return out
