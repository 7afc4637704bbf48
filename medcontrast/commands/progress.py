"""A count of cases on a terminal's error stream; silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counting(verb: str) -> Iterator[Callable[[str], None]]:
    """Gives a function to call with each case's name; shows the count and the name in one changing line."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console

    count = 0
    with Console(stderr=True).status(f"{verb} ...") as status:

        def tell(name: str) -> None:
            nonlocal count
            count += 1
            status.update(f"{verb} {count}: {name}")

        yield tell
