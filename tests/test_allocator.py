"""Kept memory. Kinds: property (page faults and resident size of this process)."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from medcontrast import allocator
from medcontrast.allocator import freed_memory_kept

BYTES = 100 * 2**20
PAGES = BYTES // resource.getpagesize()

needs_glibc = pytest.mark.skipif(allocator._library() is None, reason="another C library, or malloc is set up")


def faults_of_a_large_block() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(BYTES, dtype=np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


# Prints the pages by which a freed block leaves the process larger, where it is kept and afterwards. What is allocated
# behind it is too small to be mapped, and in use; the second block is too large for the hole that the first may leave.
_GROWTH = f"""
from pathlib import Path
import numpy as np
from medcontrast.allocator import freed_memory_kept

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

def growth(size):
    block, behind = np.ones(size, dtype=np.uint8), [np.ones(65536, dtype=np.uint8) for _ in range(200)]
    before = resident()
    del block
    return size // {resource.getpagesize()} - (before - resident())

with freed_memory_kept():
    print(growth({BYTES}))
print(growth({2 * BYTES}))
"""


@needs_glibc
def test_a_freed_block_is_used_again_and_given_back_at_the_end() -> None:
    faults_of_a_large_block()
    with freed_memory_kept():
        faults_of_a_large_block()
        assert faults_of_a_large_block() < PAGES / 10
        kept = resident()
    assert kept - resident() > 0.9 * PAGES


@needs_glibc
def test_blocks_after_it_go_back_at_once() -> None:
    """In a process of its own: a hole that earlier tests left in this one's heap may be large enough for any block."""
    done = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, check=True)
    inside, afterwards = map(int, done.stdout.split())
    assert inside > 0.9 * PAGES
    assert afterwards < PAGES / 10


@needs_glibc
def test_an_inner_use_ends_nothing() -> None:
    with freed_memory_kept():
        with freed_memory_kept():
            faults_of_a_large_block()
        assert faults_of_a_large_block() < PAGES / 10
    assert allocator._users == 0


@needs_glibc
def test_threads_share_it() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with freed_memory_kept():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with freed_memory_kept():
        thread.start()
        assert entered.wait(10)
        assert allocator._users == 2
        leave.set()
        thread.join()
        faults_of_a_large_block()
        assert faults_of_a_large_block() < PAGES / 10


def test_a_fault_inside_ends_it() -> None:
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        raise ValueError("inside")
    assert allocator._users == 0


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_whoever_set_up_malloc_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert allocator._library.__wrapped__() is None
