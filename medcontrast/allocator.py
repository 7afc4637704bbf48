"""Large blocks of memory, kept for reuse instead of being given back to the system and asked for again."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# mallopt's parameters, in malloc.h of the GNU C library
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_LARGEST_THRESHOLD, _USUAL_MMAP_MAX = 32 * 2**20, 65536

_lock = threading.Lock()
_users = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it, memory that is freed stays with the process; at its end that goes back to the system.

    Without it the GNU C library maps every block above 32 MiB anew, and the system clears it page by page on first
    use: a network on windows of a million voxels spends 40 % of its time on that (docs/performance.md). Nests, and may
    be entered from several threads. Afterwards the process is at most as large as it was here: a block that fits where
    one stood may take that place, and keep it. Elsewhere, and where the environment sets up malloc, it does nothing.
    """
    library = _library()
    if library is None:
        yield
        return
    _count(library, 1)
    try:
        yield
    finally:
        _count(library, -1)


def _count(library: ctypes.CDLL, change: int) -> None:
    global _users
    with _lock:
        _users += change
        if change > 0 and _users == 1:
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, _NEVER)
        elif _users == 0:
            # where the library's own adjustment ends up after a few large blocks
            library.mallopt(_MMAP_MAX, _USUAL_MMAP_MAX)
            library.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
            library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
            library.malloc_trim(0)


@cache
def _library() -> ctypes.CDLL | None:
    """The GNU C library of this process, where it is the one that allocates and nobody has set it up."""
    set_up = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if platform.libc_ver()[0] != "glibc" or set_up or os.environ.get("LD_PRELOAD"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
