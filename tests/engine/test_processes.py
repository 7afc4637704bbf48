"""Tests of training in several processes: reference (one process with the joined batch), whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medcontrast.batch import StepInfo
from medcontrast.methods import build_method
from medcontrast.networks.build import build_network

PROCESSES = 2
METHODS = ("supervised", "mean_teacher", "fba_net")
INFO = StepInfo(step=3, total=10, seed=1)


class Step(nn.Module):
    """DDP watches forward alone, so the method's losses are made it; Fabric does the same."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch):
        return self.method.losses(batch, INFO)["loss"]


def make_step(settings):
    torch.manual_seed(0)
    method = build_method(settings, lambda: build_network("dynunet", in_channels=1, classes=3, filters=[4, 8, 8]))
    return Step(method).train()


def rows_of(batch, rows):
    chosen = torch.tensor(rows)
    views = {name: view[chosen] for name, view in batch["views"].items()}
    part = {name: batch[name][chosen] for name in ("image", "label", "labeled", "index", "spacing_mm")}
    return {**part, "case": [batch["case"][row] for row in rows], "views": views}


def gradients(step):
    return {name: value.grad for name, value in step.method.named_parameters() if value.grad is not None}


def process(number, folder, settings, batch):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=PROCESSES)
    mine = rows_of(batch, [number, 2 + number])
    result = {}
    for name, each in settings.items():
        wrapped = DistributedDataParallel(make_step(each))
        for _ in range(2):  # the second pass fails where a parameter got no gradient in the first
            wrapped.zero_grad()
            wrapped(mine).backward()
        result[name] = gradients(wrapped.module)
    torch.save(result, f"{folder}/{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    settings = {name: tiny.make_recipe(name).method for name in METHODS}
    batch = tiny.make_batch()
    multiprocessing.spawn(process, (str(folder), settings, batch), nprocs=PROCESSES)
    found = [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(PROCESSES)]
    return settings, batch, found


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_have_the_gradient_of_one_with_the_joined_batch(together, method):
    settings, batch, found = together
    step = make_step(settings[method])
    step(batch).backward()
    expected = gradients(step)
    largest = max(float(value.abs().max()) for value in expected.values())
    for number in range(PROCESSES):
        assert found[number][method].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[number][method][name], value, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fba_net", "fba_legacy"])
def test_the_command_trains_on_two_devices_and_resumes_on_one(tiny, tmp_path, method):
    tiny.write_data(tmp_path / "data", validation=1)
    tree = tiny.recipe_tree(method, steps=4, validate_every=2)
    recipe = tiny.write_recipe(tmp_path / "tiny.yaml", tree)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = Path(sys.executable).parent / "medcontrast"

    def run(*words):
        return subprocess.run(
            [command, *words, "--accelerator", "cpu"], capture_output=True, text=True, env=environment, timeout=280
        )

    done = run("train", recipe, "-o", tmp_path / "run", "--devices", "2")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("Finished 4 steps in ") == 1
    log = [record for record in tiny.read_log(tiny.open_run(tmp_path / "run")) if "loss" in record]
    assert [record["step"] for record in log] == [1, 2, 3, 4]
    more = run("train", "--resume", tmp_path / "run", "--set", "train.steps=5")
    assert more.returncode == 0, more.stderr
    assert "Resuming at step 4 of 5." in more.stdout
