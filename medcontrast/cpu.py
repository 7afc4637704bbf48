"""Which processor computes, and with how many threads."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

_LINUX = Path("/proc/cpuinfo")


def cpu_facts() -> dict[str, Any]:
    """For run.json: hours of two runs compare only where both are the same."""
    return {"cpu": _model(), "threads": torch.get_num_threads()}


def _model() -> str:
    try:
        lines = _LINUX.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(filter(None, named), platform.processor() or platform.machine())
