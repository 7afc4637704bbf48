"""Tests of training in several processes: reference (an uninterrupted run in one process), property, whole."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from lightning_fabric import Fabric
from rich.console import Console

from medcontrast.checkpoint import load_resume
from medcontrast.engine.loop import Trainer
from medcontrast.engine.run import Run
from medcontrast.engine.stopping import StopRequest
from medcontrast.errors import NonFiniteLossError
from medcontrast.settings.shipped import shipped_folder

PROCESSES = 2
METHODS = ("supervised", "ua_mt", "bcp", "fba_net")
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.001}
BEGUN = "begun in {} processes"
ACCUMULATED = "micro-batches in {}"
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def make_trainer(folder, devices):
    """A run from where it stands, in float64: in float32 a convolution rounds otherwise for another number of rows."""
    fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
    fabric.launch()
    trainer = Trainer(Run.open(folder), fabric, Console(file=io.StringIO(), width=200))
    trainer.method.double()
    views = trainer.job.views
    trainer.job.views = lambda *args, **names: in_float64(*views(*args, **names))
    if trainer.run.resume_file.is_file():
        trainer.resume()
    fabric.barrier()
    return trainer


class AfterThree(StopRequest):
    """Stops after three steps, which the loop asks about one by one."""

    asked = 0

    def due(self):
        self.asked += 1
        return self.asked >= 3


def in_float64(views, label):
    return {name: view.double() for name, view in views.items()}, label


def break_the_second(trainer):
    losses = trainer.method.losses

    def broken(method, batch, info):
        terms = losses(batch, info)
        second = info.step == 1 and trainer.fabric.global_rank == 1
        return {**terms, "loss": terms["loss"] * math.nan} if second else terms

    trainer.method.losses = types.MethodType(broken, trainer.method)


def process(number, folder, port):
    torch.set_num_threads(1)
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(number), "NODE_RANK": "0"}
    os.environ.update(world)
    folder = Path(folder)
    for method in METHODS:
        for name in ("two", BEGUN.format(1), BEGUN.format(2)):
            stop = AfterThree() if name == BEGUN.format(2) else StopRequest()
            make_trainer(folder / f"{method} {name}", PROCESSES).fit(stop)
    make_trainer(folder / ACCUMULATED.format("two"), PROCESSES).fit(StopRequest())
    trainer = make_trainer(folder / "broken", PROCESSES)
    break_the_second(trainer)
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.fit(StopRequest())
    (folder / f"broken {number}.txt").write_text(str(caught.value), encoding="utf-8")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Four runs of 6 steps of each method: in one process, in two, and changing from each to the other."""
    folder = tmp_path_factory.mktemp("processes")
    constant = {"optimizer": SGD, "schedule": {"name": "constant"}}
    for method in METHODS:
        for name in ("one", "two", BEGUN.format(1), BEGUN.format(2)):
            tiny.make_run(folder, tiny.recipe_tree(method, steps=6, **constant), name=f"{method} {name}")
        make_trainer(folder / f"{method} one", 1).fit(StopRequest())
        make_trainer(folder / f"{method} {BEGUN.format(1)}", 1).fit(AfterThree())
    for name in ("one", "two"):
        halves = tiny.recipe_tree("fba_net", steps=4, accumulate=2, labeled_rows=4, unlabeled_rows=4, **constant)
        tiny.make_run(folder, halves, name=ACCUMULATED.format(name))
    make_trainer(folder / ACCUMULATED.format("one"), 1).fit(StopRequest())
    tiny.make_run(folder, tiny.recipe_tree(steps=3), name="broken")
    multiprocessing.spawn(process, (str(folder), free_port()), nprocs=PROCESSES)
    for method in METHODS:
        make_trainer(folder / f"{method} {BEGUN.format(2)}", 1).fit(StopRequest())
    return folder


@pytest.mark.parametrize("name", ["two", BEGUN.format(1), BEGUN.format(2)])
@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_processes_changes_nothing_and_may_change(tiny, runs, method, name):
    require_same(tiny, runs / f"{method} one", runs / f"{method} {name}")


def test_the_number_of_processes_changes_nothing_in_micro_batches(tiny, runs):
    require_same(tiny, *(runs / ACCUMULATED.format(name) for name in ("one", "two")))


def require_same(tiny, *folders):
    one, other = map(Run.open, folders)
    for left, right in zip(tiny.read_log(one), tiny.read_log(other), strict=True):
        assert left == pytest.approx(right, rel=1e-5, abs=1e-5)
    left, right = (load_resume(run.resume_file)["method"] for run in (one, other))
    assert left.keys() == right.keys()
    for key, value in left.items():
        torch.testing.assert_close(value, right[key], rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def test_all_processes_stop_at_a_loss_that_is_not_finite_on_one(runs):
    first, second = ((runs / f"broken {number}.txt").read_text(encoding="utf-8") for number in range(PROCESSES))
    assert first.startswith("The loss of another process is not finite at step 1; ")
    assert second.startswith("The loss is not finite at step 1 (loss nan); cases case_0")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fba_net", "fba_legacy"])
def test_the_command_trains_on_two_devices_and_resumes_on_one(tiny, tmp_path, method):
    tiny.write_data(tmp_path / "data", validation=1)
    tree = tiny.recipe_tree(method, steps=4, validate_every=2)
    recipe = tiny.write_recipe(tmp_path / "tiny.yaml", tree)

    def run(*words):
        command = [BIN / "medcontrast", *words, "--accelerator", "cpu"]
        return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=280)

    done = run("train", recipe, "-o", tmp_path / "run", "--devices", "2")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("Finished 4 steps in ") == 1
    log = [record for record in tiny.read_log(tiny.open_run(tmp_path / "run")) if "loss" in record]
    assert [record["step"] for record in log] == [1, 2, 3, 4]
    more = run("train", "--resume", tmp_path / "run", "--set", "train.steps=5")
    assert more.returncode == 0, more.stderr
    assert "Resuming at step 4 of 5, by the recipe" in more.stdout


def processes_of(folder):
    """Ids of the processes whose command names the folder."""
    lines = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in lines.splitlines() if str(folder) in line]


def run_groups(folder, *words, limit_s):
    """Runs a command under two torchruns of one process each that meet on this machine; gives what each printed."""
    places = [folder / f"group {number}.txt" for number in range(2)]
    launch = [BIN / "torchrun", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1"]
    launch += ["--master-port", str(free_port())]
    groups = []
    try:
        for number, place in enumerate(places):
            with place.open("w") as output:
                command = [*launch, "--node-rank", str(number), BIN / "medcontrast", *words]
                groups.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT))
        deadline = time.monotonic() + limit_s
        # the other group of one that failed would wait for it
        while {group.poll() for group in groups} in ({None}, {None, 0}) and time.monotonic() < deadline:
            time.sleep(0.1)
        ended, left = [group.poll() for group in groups], processes_of(folder)
    finally:
        for group in groups:
            group.terminate()
        for group in groups:
            with contextlib.suppress(subprocess.TimeoutExpired):
                group.wait(20)
        for number in processes_of(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for group in groups:
            group.wait()
    printed = [place.read_text() for place in places]
    shown = "".join(f"\n--- group {number}\n{text}" for number, text in enumerate(printed))
    assert ended == [0, 0], f"exit codes {ended} (None: over {limit_s} s){shown}"
    assert left == [], f"processes {left} are left{shown}"
    return printed


@pytest.mark.slow
def test_two_groups_of_torchrun_train_as_one_process(cli, tmp_path):
    """SGD, because AdamW takes full steps where a gradient is rounding alone."""
    cases = ("--labeled", 2, "--unlabeled", 2, "--validation", 1, "--test", 0)
    assert cli("data", "phantom", tmp_path / "data", *cases).code == 0
    settings = {
        "data.manifest": tmp_path / "data" / "manifest.json",
        "data.patch": "[32, 32, 24]",
        "train.steps": 6,
        "train.log_every": 1,
        "train.optimizer.name": "sgd",
        "train.optimizer.lr": 0.05,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    words += ["--precision", "32-true", "--accelerator", "cpu", "--devices", "1"]
    recipe = shipped_folder("recipes") / "quickstart.yaml"
    alone = cli("train", recipe, "-o", tmp_path / "one", *words)
    assert alone.code == 0, alone.err
    first, second = run_groups(tmp_path, "train", recipe, "-o", tmp_path / "two", *words, "--nodes", "2", limit_s=200)
    assert first.count("Finished 6 steps in ") == 1
    assert "Finished" not in second
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
    one, two = (load_resume(tmp_path / name / "last.pt")["method"] for name in ("one", "two"))
    networks = [key for key in one if key.startswith(("student.", "teacher."))]
    assert len(networks) == 2 * len([key for key in networks if key.startswith("student.")])
    for key in networks:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
