"""Tests of a session's processes: property (real processes)."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from medcontrast.engine import session
from medcontrast.engine.benchmark.benchmark import run_facts
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


def test_a_cpu_without_bfloat16_is_named_and_recorded(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    for precision, rounds in (("bf16-mixed", True), ("32-true", False)):
        run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=1, precision=precision), name=precision)
        console = Console(record=True, width=200, file=io.StringIO())
        session.train_run(run.folder, resume=False, recipe=run.recipe, accelerator="cpu", console=console)
        sentence = "This CPU does not compute in bfloat16: float32 is rounded to it, at the speed of 32-true."
        assert (sentence in console.export_text()) is rounds
        facts = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        assert facts["precision"] == precision and facts.get("bfloat16_rounded", False) is rounds
        assert run_facts(run).get("bfloat16_rounded", False) is rounds


def test_one_process_has_no_others():
    for launcher in (None, SimpleNamespace(procs=None)):
        alone = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
        with pytest.raises(KeyboardInterrupt), session._ending_together(alone):
            raise KeyboardInterrupt
