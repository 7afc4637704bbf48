"""Sentences on a console as they are: a path in brackets is no markup, and no command is broken where it is copied."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # most commands say nothing, and start without rich
    from rich.console import Console


def say(console: Console, *sentences: str) -> None:
    """Prints each on a line of its own, neither wrapped nor coloured."""
    for sentence in sentences:
        console.print(sentence, markup=False, emoji=False, highlight=False, soft_wrap=True)


def quoted(path: Path) -> str:
    """A path as it is typed in a shell, blanks and all."""
    return shlex.quote(str(path))
