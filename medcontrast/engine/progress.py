"""What training shows: a bar with loss, Dice, speed and time left; plain lines where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medcontrast.say import say

PLAIN_INTERVAL_S = 10.0


class TrainingProgress:
    """Use as a context manager around the loop."""

    def __init__(self, console: Console, start: int, total: int, *, enabled: bool = True) -> None:
        self._console = console
        self._enabled = enabled
        self._start, self._total = start, total
        self._began = self._last_line = time.monotonic()
        self._dice = ""
        self._bar: Progress | None = None
        if enabled and console.is_terminal:
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("training", total=total, completed=start, facts="")

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int, loss: float) -> None:
        """Shows that `step` steps are done."""
        if not self._enabled:
            return
        now = time.monotonic()
        speed = (step - self._start) / max(now - self._began, 1e-9)
        facts = f"loss {loss:.3f}{self._dice}  {speed:.2f} steps/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, facts=facts)
        elif now - self._last_line >= PLAIN_INTERVAL_S or step == self._total:
            self._last_line = now
            left = (self._total - step) / max(speed, 1e-9)
            say(self._console, f"step {step}/{self._total}  {facts}  {left:.0f} s left")

    def validated(self, step: int, dice: float) -> None:
        """Shows a validation result from now on."""
        self._dice = f"  Dice {dice:.4f}"
        self.say(f"step {step}: validation Dice {dice:.4f}")

    def say(self, sentence: str) -> None:
        """Prints a line above the bar."""
        if self._enabled:
            say(self._console, sentence)
