"""Tests of the segmentation methods in two processes: reference (one process with the joined batch).

fba_legacy is not among them: its heads have batch norm and pair the rows of one process alone (docs/scale.md).
"""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from ddp_step import Step
from torch.nn.parallel import DistributedDataParallel

from medcontrast.batch import StepInfo
from medcontrast.methods import build_method
from medcontrast.networks.build import build_network

PROCESSES = 2
STEPS = 2

CASES = {
    "supervised": ("supervised", {}, (4, 0)),
    "mean_teacher": ("mean_teacher", {}, (4, 4)),
    "ua_mt": ("ua_mt", {"noise_std": 0.5}, (4, 4)),
    "ua_mt, one row with certain voxels": (
        "ua_mt",
        {"noise_std": 0.5, "threshold_start": 0.04, "consistency_weight": 1000.0},
        (4, 4),
    ),
    "cps": ("cps", {}, (4, 4)),
    "mc_net": ("mc_net", {}, (4, 4)),
    "bcp": ("bcp", {"pretrain_steps": 1}, (4, 4)),
    "bcp, fewer unlabeled rows": ("bcp", {"pretrain_steps": 0}, (4, 2)),
    "bcp, more unlabeled rows": ("bcp", {"pretrain_steps": 0}, (2, 4)),
    "fba_net": ("fba_net", {}, (4, 4)),
    "fba_net, few cells, long memory": ("fba_net", {"contrast.regions": 7, "contrast.memory": 11}, (4, 2)),
    "fba_net, ranks and confidence": (
        "fba_net",
        {"contrast.pull_rank_decay": 0.25, "contrast.push_rank_decay": 2.5, "contrast.weigh_by_confidence": True},
        (2, 4),
    ),
    "fba_net, boxes of unlabeled rows": (
        "fba_net",
        {
            "consistency.paste_from": "unlabeled",
            "consistency.paste_probability": 1,
            "consistency.weigh_by_confidence": True,
            "contrast.weigh_by_confidence": True,
        },
        (4, 4),
    ),
    "fba_net, whole patches": ("fba_net", {"contrast.region": 0, "consistency.target": "soft"}, (4, 4)),
    "fba_net, no contrast": ("fba_net", {"contrast.weight": 0.0}, (4, 4)),
    "fba_net, three decoders": ("fba_net", {"consistency.mutual_weight": 0.5}, (4, 4)),
}
"""Method, settings over the tiny recipe's, and labeled and unlabeled rows."""
THREE_DECODERS = ("mc_net", "fba_net, three decoders")


def make_step(case, settings):
    torch.manual_seed(0)
    network = {"in_channels": 1, "classes": 3, "filters": [4, 8, 8], "decoders": 3 if case in THREE_DECODERS else 1}
    step = Step(build_method(settings, lambda: build_network("dynunet", **network))).train()
    return step.double()  # no arg-max and no threshold hangs on how a batch's size rounds


def make_batch(tiny, labeled, unlabeled):
    """Rows with more, fewer and no labeled voxels, so that the processes' rows do not weigh alike by themselves."""
    batch = tiny.make_batch(labeled, unlabeled)
    batch["label"][1] = -1
    batch["label"][0, :, :4] = -1
    if labeled > 2:
        batch["label"][labeled - 1] = 0  # background alone is labeled all the same
    batch["views"] = {name: view.double() for name, view in batch["views"].items()}
    return batch


def share_of(batch, number):
    """A process's rows: contiguous shares of the labeled and of the unlabeled ones, as the sampler gives them."""
    labeled = int(batch["labeled"].sum())
    streams = (range(labeled), range(labeled, len(batch["labeled"])))
    rows = [row for each in streams for row in each[number * len(each) // 2 : (number + 1) * len(each) // 2]]
    chosen = torch.tensor(rows)
    views = {name: view[chosen] for name, view in batch["views"].items()}
    part = {name: batch[name][chosen] for name in ("image", "label", "labeled", "index", "spacing_mm")}
    return {**part, "case": [batch["case"][row] for row in rows], "views": views}


def train(step, method, batch):
    """Optimiser steps on one batch: the last one's gradients, the loss of every one, and the state they leave."""
    optimizer = torch.optim.SGD([each for each in method.parameters() if each.requires_grad], lr=0.05)
    losses = []
    for number in range(STEPS):
        info = StepInfo(step=number, total=STEPS, seed=1)
        optimizer.zero_grad()
        loss = step(batch, info)["loss"]
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
        method.after_step(info)
    gradients = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    return {"gradients": gradients, "losses": torch.stack(losses), "state": method.state_dict()}


def process(number, folder, settings, batches):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=PROCESSES)
    result = {}
    for name, each in settings.items():
        wrapped = DistributedDataParallel(make_step(name, each))
        result[name] = train(wrapped, wrapped.module.method, share_of(batches[name], number))
    torch.save(result, f"{folder}/{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    settings, batches = {}, {}
    for name, (method, changes, (labeled, unlabeled)) in CASES.items():
        tree = tiny.recipe_tree(method)
        tree["network"]["decoders"] = 3 if name in THREE_DECODERS else 1
        for key, value in changes.items():
            tree = tiny.set_key(tree, f"method.{key}", value)
        settings[name], batches[name] = tiny.recipe_from(tree).method, make_batch(tiny, labeled, unlabeled)
    multiprocessing.spawn(process, (str(folder), settings, batches), nprocs=PROCESSES)
    found = [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(PROCESSES)]
    return settings, batches, found


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_with_the_joined_batch(together, case):
    settings, batches, found = together
    step = make_step(case, settings[case])
    expected = train(step, step.method, batches[case])
    largest = max(float(value.abs().max()) for value in expected["gradients"].values())
    torch.testing.assert_close((found[0][case]["losses"] + found[1][case]["losses"]) / 2, expected["losses"])
    for part, scale in (("gradients", largest), ("state", 1.0)):
        for number in range(PROCESSES):
            assert found[number][case][part].keys() == expected[part].keys()
            for name, value in expected[part].items():
                torch.testing.assert_close(found[number][case][part][name], value, rtol=1e-5, atol=1e-5 * scale)
