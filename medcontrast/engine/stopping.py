"""Stopping early and cleanly: Ctrl-C, SIGTERM, and a limit on wall time."""

from __future__ import annotations

import re
import signal
import time
from types import FrameType, TracebackType
from typing import Any

from medcontrast.errors import InputError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `9m`, `1h30m`, `2d`, or a bare number of seconds.

    Raises:
        InputError: Not a duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if parts and "".join(number + unit for number, unit in parts) == text.strip():
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    elif re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        seconds = float(text)
    else:
        raise InputError(f"--max-time {text}: expected a duration such as 90s, 9m or 1h30m.")
    if seconds <= 0:
        raise InputError(f"--max-time {text}: must be longer than nothing.")
    return seconds


class StopRequest:
    """Collects reasons to stop after the current step; a second Ctrl-C stops at once."""

    def __init__(self, max_time_s: float | None = None) -> None:
        self.reason: str | None = None
        self._deadline = None if max_time_s is None else time.monotonic() + max_time_s
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._on_signal)
            except ValueError:  # not the main thread: signals are somebody else's business
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def due(self) -> bool:
        """Whether this process wants to stop now."""
        if self.reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.reason = "the time limit is reached"
        return self.reason is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = f"{signal.Signals(number).name} was received"
