"""Whether a channel holds Hounsfield units: by its name, or by its values."""

from __future__ import annotations

import re


def called_ct(channel: str) -> bool:
    """Whether CT is a word of the name."""
    return re.search(r"(?<![a-z])ct(?![a-z])", channel.lower()) is not None


def like_ct(low: float, high: float, *, whole_numbers: bool) -> bool:
    """Air is there, and no range as a phase image has, -4096 to 4095; padding goes to -3024, or to -32768."""
    air = -500 if whole_numbers else -900  # resampled scans have broken numbers; other such images lie near 0
    phase = low < -3500 and high > 3500
    return low <= air and high >= 200 and not phase
