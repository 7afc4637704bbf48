"""Random numbers that are a pure function of (seed, step, row, stream): nothing is stored, nothing is shared.

They are drawn on the CPU, because a GPU's generator gives other numbers than a CPU's (and may with the next model);
only a handful of numbers and noise fields are moved afterwards. `device_generator` is for what is too large for that.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch


def row_generator(seed: int, step: int, row: int, stream: str) -> np.random.Generator:
    """A fresh generator for one row of one step.

    Philox numbers its outputs by a 256-bit counter. The step and the row are its two upper words, so two
    generators of one stream never overlap, whatever each of them draws.
    Paper: Philox4x64 (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3).

    Args:
        seed: Seed of the run, not negative.
        step: Optimiser step, or whatever counts slowly (an epoch).
        row: Global row number in the step.
        stream: What the numbers are for, so that no two uses share numbers.
    """
    return np.random.Generator(np.random.Philox(key=[seed, crc32(stream.encode())], counter=[0, 0, row, step]))


def device_generator(seed: int, step: int, row: int, stream: str, device: torch.device | str) -> torch.Generator:
    """A fresh generator on the device, for noise that would take too long to draw on the CPU and move.

    A function of the arguments, and of what kind of device it is; see `row_generator` for them.
    """
    start = int(row_generator(seed, step, row, stream).integers(2**63))
    return torch.Generator(device).manual_seed(start)
