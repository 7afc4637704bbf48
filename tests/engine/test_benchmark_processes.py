"""Tests of a grid that several processes share, one of which is killed: whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_grid import NAMES, edit_grid, recorded

from medcontrast.engine.benchmark.records import Record

COMMAND = [sys.executable, "-c", "from medcontrast.cli import main; main()", "benchmark"]


def start(grid, *words):
    pipe, environment = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*COMMAND, str(grid), *words], stdout=pipe, stderr=pipe, text=True, env=environment)


def wait_until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_share_a_grid_and_outlive_the_kill_of_a_third(cli, grid):
    edit_grid(grid, set=["train.steps=40", "train.save_every=1"])
    assert cli("benchmark", grid, "--results", "straight", "--work", "w1").code == 0
    last = Path("runs/benchmarks/tiny") / "supervised-2-0" / "last.pt"
    killed = start(grid, "--only", "supervised-2-0")
    wait_until(last.is_file)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert recorded() == []
    both = [start(grid), start(grid)]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "supervised-2-0: resuming" in said[0] + said[1]
    assert recorded() == NAMES
    for name in NAMES:
        ours, theirs = (
            Record.load(Path(folder) / f"{name}.json") for folder in ("benchmarks/results/tiny", "straight")
        )
        assert (ours.scores, ours.recipe_hash) == (theirs.scores, theirs.recipe_hash)
