"""Tests of a session's processes: property (real processes)."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from medcontrast.engine import session
from medcontrast.errors import InputError


def started(code):
    return subprocess.Popen([sys.executable, "-c", code])


def fabric_of(*processes):
    return SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=list(processes))))


def test_where_the_first_process_fails_the_others_do_not_wait_for_it(monkeypatch):
    monkeypatch.setattr(session, "_PATIENCE_S", 1.0)
    waiting, failing = started("import time; time.sleep(100)"), started("raise SystemExit(2)")
    with pytest.raises(InputError, match="no such scan"), session._ending_together(fabric_of(waiting, failing)):
        raise InputError("no such scan")
    assert waiting.wait(10) == -9
    assert failing.wait(10) == 2  # said what it had to say


def test_where_it_does_not_fail_they_are_left_alone():
    running = started("pass")
    with session._ending_together(fabric_of(running)):
        pass
    assert running.wait(30) == 0


def test_one_process_has_no_others():
    for launcher in (None, SimpleNamespace(procs=None)):
        alone = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
        with pytest.raises(KeyboardInterrupt), session._ending_together(alone):
            raise KeyboardInterrupt
