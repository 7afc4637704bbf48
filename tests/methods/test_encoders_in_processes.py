"""Tests of SimCLR and MoCo v2 in two processes: reference (one process with the joined batch)."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from ddp_step import Step
from torch.nn.parallel import DistributedDataParallel

from medcontrast.batch import StepInfo
from medcontrast.methods import build_method
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.settings.pretraining import MoCoSettings, SimCLRSettings

# MoCo's keys are float32 whatever its weights are
PRECISION = {"simclr": torch.float64, "moco_v2": torch.float32}
TOLERANCE = {torch.float64: {"rtol": 1e-5, "atol": 1e-8}, torch.float32: {"rtol": 1e-3, "atol": 1e-5}}
PROCESSES, ROWS, STEPS = 2, 6, 2
SETTINGS = {
    "simclr": SimCLRSettings(name="simclr", embedding_channels=5),
    "moco_v2": MoCoSettings(name="moco_v2", embedding_channels=5, queue=12, ema_decay=0.5),
}


def make_step(name):
    torch.manual_seed(0)
    # batch norm would use each process's own statistics
    return Step(
        build_method(SETTINGS[name], lambda: build_encoder("resnet20", in_channels=1, width=4, norm="group"))
    ).to(PRECISION[name])


def make_batch(rows, step, precision):
    generator = torch.Generator().manual_seed(step)
    views = {
        name: torch.rand(ROWS, 1, 8, 8, generator=generator, dtype=torch.float64)[rows].to(precision)
        for name in ("first", "second", "query", "key")
    }
    return {"views": views, "case": [""] * len(rows), "index": rows}


def train(step, method, rows, precision):
    """Losses and last gradients of a few steps, and the state that they leave."""
    step.train()
    optimizer = torch.optim.SGD([each for each in method.parameters() if each.requires_grad], lr=0.05)
    losses = []
    for number in range(STEPS):
        info = StepInfo(step=number, total=STEPS, seed=1)
        optimizer.zero_grad()
        loss = step(make_batch(rows, number, precision), info)["loss"]
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
        method.after_step(info)
    gradients = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    return {"losses": torch.stack(losses), "gradients": gradients, "state": method.state_dict()}


def process(number, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=PROCESSES)
    half = ROWS // PROCESSES
    rows = torch.arange(number * half, (number + 1) * half)
    found = {}
    for name in SETTINGS:
        wrapped = DistributedDataParallel(make_step(name))
        found[name] = train(wrapped, wrapped.module.method, rows, PRECISION[name])
    torch.save(found, f"{folder}/{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(process, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(PROCESSES)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_train_as_one_with_the_joined_batch(together, name):
    step = make_step(name)
    expected = train(step, step.method, torch.arange(ROWS), PRECISION[name])
    found = [each[name] for each in together]
    torch.testing.assert_close(torch.stack([each["losses"] for each in found]).mean(0), expected["losses"])
    for each in found:
        assert each["gradients"].keys() == expected["gradients"].keys()
        for part in ("gradients", "state"):
            for key, value in expected[part].items():
                torch.testing.assert_close(each[part][key], value, **TOLERANCE[PRECISION[name]], msg=f"{part} {key}")
    assert max(float(value.abs().max()) for value in expected["gradients"].values()) > 1e-3


def test_negatives_come_from_both_processes(together):
    """With its own rows alone a process would have half of the negatives, and another loss than the other one."""
    first, second = (each["simclr"]["losses"] for each in together)
    torch.testing.assert_close(first, second)
