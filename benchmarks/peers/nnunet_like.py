"""A strong supervised baseline planned and trained the nnU-Net way with MONAI's DynUNet; called by run_peer.py.

nnU-Net itself asks for torchvision (through timm), whose builds on PyPI do not go with a CPU build of PyTorch; so plan,
augmentation, loss and schedule follow nnU-Net 2.8.1, and the code is this project's.

Paper: Isensee et al. 2021 (Nature Methods 18:203-211).
Deviation: of the outputs at lower resolution the logits are enlarged, not the labels reduced; one fold, all labeled
cases; poly decay over the given steps or seconds in place of 250,000 steps; resampling is linear.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import DynUNet
from nnunet_plan import Plan, make_plan
from nnunet_rows import Rows
from peer_cases import read_list
from torch import Tensor, nn

from medcontrast.volume import Grid, read_grid, read_volume, write_label

NOTE = "not nnU-Net itself: its plan, augmentation kinds, loss and schedule with MONAI's DynUNet"
_RATE, _POWER, _CLIP = 0.01, 0.9, 12.0


def make_network(plan: Plan, channels: int, classes: int) -> DynUNet:
    """The planned U-Net; beside the full output as many lower ones as nnU-Net gives a weight."""
    levels = len(plan.strides)
    return DynUNet(
        spatial_dims=3,
        in_channels=channels,
        out_channels=classes,
        kernel_size=plan.kernels,
        strides=plan.strides,
        upsample_kernel_size=plan.strides[1:],
        filters=plan.widths,
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=True,
        deep_supr_num=max(1, levels - 3),
    )


def supervised_loss(outputs: Tensor, label: Tensor, criterion: nn.Module) -> Tensor:
    """Dice and cross-entropy of every output, each of half the weight of the one above it.

    Args:
        outputs: (b, outputs, c, x, y, z) logits, the full one first.
        label: (b, 1, x, y, z).
        criterion: Of one output.
    """
    weights = [0.5**level for level in range(outputs.shape[1])]
    terms = [weight * criterion(outputs[:, level], label) for level, weight in enumerate(weights)]
    return torch.stack(terms).sum() / sum(weights)


def train(network: nn.Module, rows: Rows, batch: int, job: dict[str, Any]) -> int:
    """Trains for the job's seconds where it names any, else its steps; returns the steps done."""
    criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5)
    optimizer = torch.optim.SGD(network.parameters(), _RATE, momentum=0.99, nesterov=True, weight_decay=3e-5)
    network.train()
    started, step = time.monotonic(), 0
    while True:
        elapsed = time.monotonic() - started
        done = step / job["steps"] if job["seconds"] is None else elapsed / job["seconds"]
        if done >= 1:
            return step
        optimizer.param_groups[0]["lr"] = _RATE * (1 - done) ** _POWER
        image, label = rows.batch(step, batch)
        optimizer.zero_grad()
        loss = supervised_loss(network(image), label, criterion)
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss became {loss.item()} at step {step}")
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
        optimizer.step()
        step += 1
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.4f}, {elapsed / step:.2f} s a step", flush=True)


def read_scan(paths: list[Path], plan_mm: tuple[float, ...] | None) -> tuple[Tensor, Grid]:
    """(c, x, y, z) of z-scored channels at the plan's spacing, and the scan's own grid."""
    volumes = [read_volume(path, "image") for path in paths]
    arrays = [(each.array - each.array.mean()) / max(float(each.array.std()), 1e-8) for each in volumes]
    image = torch.as_tensor(np.stack(arrays), dtype=torch.float32)
    grid = volumes[0].grid
    if plan_mm is not None:
        image = resized(image, resampled_shape(grid, plan_mm), "trilinear")
    return image, grid


def resampled_shape(grid: Grid, plan_mm: tuple[float, ...]) -> tuple[int, ...]:
    """Voxels of the scan at the plan's spacing."""
    return tuple(
        max(1, round(edge * own / planned))
        for edge, own, planned in zip(grid.shape, grid.spacing_mm, plan_mm, strict=True)
    )


def resized(image: Tensor, shape: tuple[int, ...], mode: str) -> Tensor:
    """(c, x, y, z) at another shape; itself where the shape is the same."""
    if tuple(image.shape[1:]) == tuple(shape):
        return image
    corners = None if mode == "nearest-exact" else False
    return nn.functional.interpolate(image[None], size=shape, mode=mode, align_corners=corners)[0]


@torch.no_grad()
def predict(network: nn.Module, plan: Plan, image: Tensor, grid: Grid, *, axes: list[int]) -> np.ndarray[Any, Any]:
    """(x, y, z) class indices on the scan's own grid, from Gaussian windows averaged over mirrored versions."""
    network.eval()
    total = torch.zeros(())
    versions = [[axis + 2 for bit, axis in enumerate(axes) if code >> bit & 1] for code in range(2 ** len(axes))]
    for turned in versions:
        logits = sliding_window_inference(
            image[None].flip(turned), plan.patch, 1, network, overlap=0.5, mode="gaussian"
        )
        total = total + logits.softmax(1).flip(turned) / len(versions)
    return resized(total[0], grid.shape, "trilinear").argmax(0).numpy().astype(np.uint8)


def labeled_scans(rows: list[list[Path]], plan: Plan) -> tuple[list[Tensor], list[Tensor]]:
    """Images (c, x, y, z) and labels (x, y, z) of the labeled cases at the plan's spacing."""
    images = [read_scan(row[:-1], plan.spacing_mm)[0] for row in rows]
    labels = []
    for row, image in zip(rows, images, strict=True):
        label = torch.as_tensor(read_volume(row[-1], "label").array)[None].float()
        labels.append(resized(label, tuple(image.shape[1:]), "nearest-exact")[0].long())
    return images, labels


def main() -> None:
    """Does the job of the folder given; leaves predictions/, network.pt and facts.json."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.manual_seed(job["seed"])
    labeled = read_list(folder / "labeled.csv")
    grids = [read_grid(row[0]) for row in labeled]
    plan = make_plan([grid.shape for grid in grids], [grid.spacing_mm for grid in grids], width=job["width"])
    print(f"plan: {plan.to_json()}", flush=True)
    rows = Rows(*labeled_scans(labeled, plan), plan.patch, job["seed"], job["mirror_axes"])
    network = make_network(plan, job["channels"], job["classes"])
    started, started_cpu = time.monotonic(), time.process_time()
    step = train(network, rows, plan.batch, job)
    facts = {
        "peer": {"name": "nnU-Net-like DynUNet", "version": f"of MONAI {metadata.version('monai')}"},
        "settings": {"plan": plan.to_json()},
        "step": step,
        "train_seconds": round(time.monotonic() - started),
        "train_cpu_seconds": round(time.process_time() - started_cpu),
        "trained_parameters": sum(each.numel() for each in network.parameters()),
        "notes": [NOTE, f"{plan.batch} labeled rows of {' x '.join(map(str, plan.patch))} a step"],
        "versions": {package: metadata.version(package) for package in ("torch", "monai", "numpy", "scipy")},
    }
    torch.save(network.state_dict(), folder / "network.pt")
    (folder / "predictions").mkdir()
    for paths in read_list(folder / "test.csv"):
        image, grid = read_scan(paths, plan.spacing_mm)
        mask = predict(network, plan, image, grid, axes=job["mirror_axes"])
        write_label(folder / "predictions" / paths[0].name, mask, grid)
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
