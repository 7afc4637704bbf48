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


def test_a_share_that_split_norm_cannot_part_is_refused_at_the_start(tiny, tmp_path):
    tree = tiny.pretrain_tree(rows=8)
    tree["augment"]["views"] = {"query": {}, "key": {}}
    tree |= {"method": {"name": "moco_v2"}, "network": {"name": "resnet20", "width": 4, "norm": "split_batch"}}
    sentence = r"^train\.rows 8 must be a multiple of 16 with network\.norm split_batch, .* each of 2 process\(es\)"
    with pytest.raises(InputError, match=sentence):
        session.train_run(tmp_path, resume=False, recipe=tiny.recipe_from(tree), accelerator="cpu", devices=2)


def test_one_process_has_no_others():
    for launcher in (None, SimpleNamespace(procs=None)):
        alone = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
        with pytest.raises(KeyboardInterrupt), session._ending_together(alone):
            raise KeyboardInterrupt
