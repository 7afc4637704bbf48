"""Tests of stopping early: by hand, whole (a real process gets a real signal)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medcontrast.checkpoint import load_resume, load_weights
from medcontrast.engine.run import Run
from medcontrast.engine.stopping import StopRequest, parse_duration
from medcontrast.errors import InputError

COMMAND = Path(sys.executable).parent / "medcontrast"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("9m", 540), ("1h30m", 5400), ("2d", 172800), ("45", 45), ("0.5h", 1800), (" 1m30s ", 90)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "9 minutes", "m", "1h30", "-5s", "1m 30s", "1e3", "5M", "inf"])
def test_what_is_no_duration(text):
    with pytest.raises(InputError, match=r"^--max-time .*: expected a duration such as 90s, 9m or 1h30m\.$"):
        parse_duration(text)


def test_no_time_at_all():
    with pytest.raises(InputError, match=r"^--max-time 0s: must be longer than nothing\.$"):
        parse_duration("0s")


def test_a_time_limit_is_due_when_it_is_reached():
    assert not StopRequest().due()
    assert not StopRequest(60).due()
    stop = StopRequest(0.01)
    time.sleep(0.02)
    assert stop.due()
    assert stop.reason == "the time limit is reached"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.due()
        os.kill(os.getpid(), number)
        assert stop.due()
        assert stop.reason == f"{number.name} was received"
    assert signal.getsignal(number) is before


def test_a_second_interrupt_stops_at_once():
    with pytest.raises(KeyboardInterrupt, match=r"^$"), StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def start(tiny, folder, **train):
    tiny.write_data(folder / "data")
    recipe = tiny.write_recipe(folder / "tiny.yaml", tiny.recipe_tree("mean_teacher", **train))
    command = [COMMAND, "train", recipe, "-o", folder / "run", "--accelerator", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def wait_for_steps(process, folder, steps):
    log = folder / "run" / "log.jsonl"
    deadline = time.monotonic() + 200
    while not log.exists() or len(log.read_text().splitlines()) < steps:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_how_to_go_on_and_exits_0(tiny, tmp_path, number):
    process = start(tiny, tmp_path, steps=100_000, save_every=50_000)
    wait_for_steps(process, tmp_path, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    step = load_resume(tmp_path / "run" / "last.pt")["progress"]["step"]
    assert step >= 3
    sentence = f"Stopped at step {step} of 100000 because {number.name} was received; saved."
    assert f"{sentence} Go on with: medcontrast train --resume {tmp_path / 'run'}" in out
    assert load_weights(tmp_path / "run" / "last.safetensors")[1]["step"] == step
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["step"] == step


@pytest.mark.slow
def test_killing_at_any_moment_leaves_checkpoints_that_load(tiny, tmp_path):
    draw = random.Random(0)
    process = start(tiny, tmp_path, steps=100_000, save_every=1)
    run = tmp_path / "run"
    wait_for_steps(process, tmp_path, 2)
    last = 0
    for _ in range(3):
        time.sleep(draw.uniform(0.0, 0.7))
        process.kill()
        process.communicate()
        step = load_resume(run / "last.pt")["progress"]["step"]
        assert step >= last
        last = step
        load_weights(run / "last.safetensors")
        trainer = tiny.train(Run.open(run), resume=True, steps=2)
        assert trainer.state.step == step + 2
        steps = [record["step"] for record in tiny.read_log(Run.open(run))]
        assert steps == list(range(1, step + 3))
        last = step + 2
        process = subprocess.Popen(
            [COMMAND, "train", "--resume", run, "--accelerator", "cpu"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        wait_for_steps(process, tmp_path, last + 2)
    process.kill()
    process.wait()
    leftovers = [path.name for path in run.iterdir() if path.name.endswith(".tmp")]
    assert len(leftovers) <= 4  # at most one a kill, and never in the place of a checkpoint
