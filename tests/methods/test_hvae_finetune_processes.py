"""Test of fine-tuning a generator in two processes: reference (one process with the joined batch)."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from ddp_step import Step
from torch.nn.parallel import DistributedDataParallel

from medcontrast.batch import StepInfo
from medcontrast.engine.build import make_optimizer
from medcontrast.methods import build_method
from medcontrast.networks.hvae import HVAE
from medcontrast.networks.parents import Parent, Parents
from medcontrast.settings.generator import HVAEFinetuneSettings
from medcontrast.settings.train import OptimizerSettings

PROCESSES, ROWS, FIRST, TOTAL = 2, 6, 2, 5
PARENTS = (Parent("domain", ("a", "b", "c")), Parent("age", mean=2.0, std=0.5))


def make_step():
    torch.manual_seed(0)
    settings = HVAEFinetuneSettings(
        name="hvae_finetune", parents={"domain": "category", "age": "number"}, predictor_steps=FIRST
    )
    blocks = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}
    plain = {"in_channels": 1, "sides": (8, 8), "filters": (8, 8, 16), "latent_channels": (0, 2, 4), **blocks}
    method = build_method(settings, lambda: HVAE(Parents(PARENTS, 8), **plain))
    with torch.no_grad():
        for parameter in method.student.parameters():
            if (parameter == 0).all():
                parameter.copy_(0.1 * torch.randn_like(parameter))
        method.multiplier.fill_(5.0)
    method.teacher.load_state_dict(method.student.state_dict())
    return Step(method).train().double()


def make_batch(rows):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(ROWS, 1, 8, 8, generator=generator, dtype=torch.float64)
    facts = [{"domain": "abc"[row % 3], "age": 1.5 + row / 2} for row in range(ROWS)]
    numbers = Parents(PARENTS).encode(facts).double()
    return {"image": image[rows], "case": [""] * len(rows), "index": rows, "attributes": numbers[rows]}


def train(step, method, batch):
    """Steps of both kinds, as the loop takes them: the free energies, and the state that they leave."""
    torch.randn_like = torch.zeros_like  # latents are drawn by process; here they are the posterior's means
    optimizer = make_optimizer(OptimizerSettings(name="sgd", lr=0.01), method)
    energies = []
    for number in range(TOTAL):
        info = StepInfo(number, TOTAL, 0, 1)
        for part, group in zip(method.parts(), optimizer.param_groups, strict=True):
            group["lr"] = method.rate(part, 0.001, info)
        terms = step(batch, info)
        terms["loss"].backward()
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["lr"] == 0.0 else ():
                parameter.grad = None
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(info)
        energies.append(terms["free_energy"].detach())
    return {"energies": torch.stack(energies), "state": method.state_dict()}


def process(number, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=PROCESSES)
    wrapped = DistributedDataParallel(make_step())
    share = torch.arange(ROWS).chunk(PROCESSES)[number]
    torch.save(train(wrapped, wrapped.module.method, make_batch(share)), f"{folder}/{number}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one_with_the_joined_batch(tmp_path, monkeypatch):
    multiprocessing.spawn(process, (str(tmp_path),), nprocs=PROCESSES)
    monkeypatch.setattr(torch, "randn_like", torch.randn_like)  # put back afterwards
    step = make_step()
    start = {name: value.clone() for name, value in step.method.state_dict().items()}
    expected = train(step, step.method, make_batch(torch.arange(ROWS)))
    found = [torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in range(PROCESSES)]
    torch.testing.assert_close((found[0]["energies"] + found[1]["energies"]) / 2, expected["energies"])
    for name, value in expected["state"].items():
        for each in found:
            torch.testing.assert_close(each["state"][name], value, rtol=1e-6, atol=1e-8, msg=name)
    for name in ("student.mean.weight", "predictor.head.weight", "multiplier", "bound"):
        assert not torch.equal(start[name], expected["state"][name]), name
    assert expected["state"]["bound"] == pytest.approx(expected["energies"][:FIRST].mean())
