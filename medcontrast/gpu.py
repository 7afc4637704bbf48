"""What CUDA must be told, and be asked, before a network computes on it."""

from __future__ import annotations

from typing import Any

import torch

_WRONG_FROM, _RIGHT_FROM = 90800, 91500
"""Versions of cuDNN, the first of them and the first after them, whose 16-bit 3D convolutions are wrong without a word
(pytorch issue 163539, pull request 166480). PyTorch 2.9 goes around them, several times slower (issue 166122)."""


def sound_in_16_bits() -> bool:
    """Whether 3D convolutions in bfloat16 and float16 are right and fast with the cuDNN that PyTorch came with."""
    version = torch.backends.cudnn.version()
    return version is None or not _WRONG_FROM <= version < _RIGHT_FROM


def compute_in_float32() -> None:
    """Makes float32 mean float32 on GPUs: by default PyTorch rounds a convolution's operands to TF32's 10 bits."""
    torch.backends.cudnn.allow_tf32 = False


def gpu_facts(device: torch.device) -> dict[str, Any]:
    """Which GPU and which cuDNN, for run.json; nothing elsewhere."""
    if device.type != "cuda":
        return {}
    return {"gpu": torch.cuda.get_device_name(device), "cudnn": torch.backends.cudnn.version()}
