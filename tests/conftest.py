"""Tiny cases on disk, tiny recipes, and the command line as a user meets it."""

from __future__ import annotations

import copy
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from lightning_fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from torch import nn

from medcontrast.batch import Batch
from medcontrast.cli import main
from medcontrast.engine.loop import Trainer
from medcontrast.engine.run import Run
from medcontrast.engine.stopping import StopRequest
from medcontrast.settings import Recipe, load_recipe, recipe_from_tree

torch.set_num_threads(1)
# what tests hold to is the CPU's: a GPU would take over every command that names no device
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

LABELS = {"0": "background", "1": "front", "2": "back"}
METHODS: dict[str, dict[str, Any]] = {
    "supervised": {"name": "supervised"},
    "mean_teacher": {"name": "mean_teacher", "ramp_up_steps": 2, "consistency_weight": 10.0},
    "ua_mt": {"name": "ua_mt", "ramp_up_steps": 2, "consistency_weight": 10.0, "passes": 2},
    "cps": {"name": "cps", "ramp_up_steps": 2},
    "mc_net": {"name": "mc_net", "ramp_up_steps": 2},
    "bcp": {"name": "bcp", "pretrain_steps": 2},
    "fba_net": {
        "name": "fba_net",
        "consistency": {"ramp_up_steps": 2},
        "contrast": {"weight": 0.1, "ramp_up_steps": 2, "embedding_channels": 8, "memory": 4},
    },
    "fba_legacy": {"name": "fba_legacy", "patch": [16, 16, 16], "ramp_up_steps": 2, "embedding_channels": 8},
}


PRETRAINING = ("simclr", "moco_v2", "moco_v3", "dino", "leoclr", "multi_level", "hvae", "hvae_finetune")


def write_nifti(path: Path, array: NDArray[Any], affine: NDArray[np.float64] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def make_scan(number: int, shape: tuple[int, int, int], values: list[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Boxes of the label values, brighter than the noise around them."""
    random = np.random.default_rng(number)
    label = np.zeros(shape, np.uint8)
    for place, value in enumerate(values):
        start = 3 + 5 * place + number % 3
        label[start : start + 5, 4 : 12 + number % 4, 5:13] = value
    image = random.normal(size=shape) + 3.0 * np.sign(label) + np.searchsorted(values, label)
    return image.astype(np.float32), label


def write_data(
    folder: Path,
    *,
    labeled: int = 2,
    unlabeled: int = 2,
    validation: int = 0,
    test: int = 0,
    shape: tuple[int, int, int] = (20, 18, 22),
    channels: int = 1,
    labels: dict[str, Any] | None = None,
    **extra: Any,
) -> Path:
    """A manifest and its files: `folder/manifest.json`, `folder/images/*.nii`, `folder/labels/*.nii`."""
    labels = labels or LABELS
    values = [int(value) for value in labels if value != "0"]
    names = [f"channel {index}" for index in range(channels)]
    manifest: dict[str, Any] = {"name": "tiny", "root": ".", "labels": labels, **extra}
    manifest["channels"] = {str(index): name for index, name in enumerate(names)}
    number = 0
    for split, count in (("labeled", labeled), ("unlabeled", unlabeled), ("validation", validation), ("test", test)):
        manifest[split] = []
        for _ in range(count):
            image, label = make_scan(number, shape, values)
            files = [f"images/case_{number:02d}_{index}.nii" for index in range(channels)]
            for index, file in enumerate(files):
                write_nifti(folder / file, image * (1.0 + index))
            target = f"labels/case_{number:02d}.nii"
            write_nifti(folder / target, label)
            manifest[split].append({"case": f"case_{number:02d}", "image": files, "label": target})
            number += 1
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return path


def write_squares(folder: Path, *, count: int = 12, channels: int = 1, **extra: Any) -> Path:
    """Bright squares and dark squares in noise, as an .npz file, and its manifest."""
    generator = np.random.default_rng(3)
    images = generator.integers(80, 120, (count, 16, 16, channels)).astype(np.uint8)
    labels = np.arange(count) % 2
    images[labels == 0, 4:12, 4:12] += 100
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "images.npz", images=images, labels=labels)
    half = count // 2
    manifest = {
        "kind": "images",
        "name": "squares",
        "root": ".",
        "classes": ["bright", "dark"],
        "train": [{"npz": "images.npz", "images": "images", "target": "labels", "rows": [0, half]}],
        "test": [{"npz": "images.npz", "images": "images", "target": "labels", "rows": [half, count]}],
        **extra,
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return path


def write_images(
    folder: Path,
    *,
    train: int = 24,
    validation: int = 8,
    test: int = 12,
    side: int = 16,
    classes: tuple[str, ...] = ("plain", "striped"),
    **known: Any,
) -> Path:
    """A manifest of grey PNGs, `folder/manifest.json`; class k has stripes k pixels wide. Domains A and B take turns.

    Args:
        known: Of every image, over what is said above; None takes a key away.
    """
    tree: dict[str, Any] = {"kind": "images", "name": "stripes", "root": ".", "classes": list(classes)}
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        tree[split] = []
        for number in range(count):
            target = number % len(classes)
            stripes = (np.arange(side) // target % 2)[:, None] * 120.0 if target else 0.0
            pixels = np.clip(60 + stripes + random.normal(0, 20, (side, side)), 0, 255)
            file = f"{split}/{number:02d}.png"
            (folder / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / file)
            facts = {"image": file, "target": target, "domain": "AB"[number // len(classes) % 2], **known}
            tree[split].append({key: value for key, value in facts.items() if value is not None})
    path = folder / "manifest.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def pretrain_tree(manifest: str = "data/manifest.json", **train: Any) -> dict[str, Any]:
    """A recipe that pre-trains in a second on what `write_images` writes; `train` holds keys of that section."""
    view = {"crop": {"kind": "random", "area": [0.5, 1.0]}}
    return {
        "about": {"command": "medcontrast train tiny.yaml", "needs": "nothing", "gives": "little", "cost": "seconds"},
        "seed": 3,
        "data": {"manifest": manifest, "size": 16, "channels": 1},
        "augment": {"views": {"first": view, "second": view}},
        "network": {"name": "resnet20", "width": 4},
        "method": {"name": "simclr", "embedding_channels": 8},
        "train": {"steps": 2, "rows": 8, "precision": "32-true", "log_every": 1, **train},
    }


def recipe_tree(method: str = "supervised", manifest: str = "data/manifest.json", **train: Any) -> dict[str, Any]:
    """A recipe that trains in a second; `train` holds keys of the section of that name."""
    network: dict[str, Any] = {"name": "dynunet", "filters": [4, 8, 8]}
    if method == "mc_net":
        network["decoders"] = 3
    if method == "fba_legacy":
        network = {"name": "vnet", "filters": 2, "decoders": 3, "norm": "group"}
    return {
        "about": {"command": "medcontrast train tiny.yaml", "needs": "nothing", "gives": "little", "cost": "seconds"},
        "seed": 3,
        "data": {"manifest": manifest, "patch": [16, 16, 16], "foreground_crop": 0.5},
        "augment": {"strong": {"probability": 0.5, "gamma": 0.2, "contrast": 0.2, "brightness": 0.1, "noise_std": 0.1}},
        "network": network,
        "method": copy.deepcopy(METHODS[method]),
        "train": {
            "steps": 6,
            "labeled_rows": 2,
            "unlabeled_rows": 0 if method == "supervised" else 2,
            "precision": "32-true",
            "log_every": 1,
            **train,
        },
        "inference": {"overlap": 0.25},
    }


def set_key(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of a tree with `a.b.c` set."""
    tree = copy.deepcopy(tree)
    *parents, last = key.split(".")
    branch = tree
    for parent in parents:
        branch = branch.setdefault(parent, {})
    branch[last] = value
    return tree


def write_recipe(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def make_recipe(method: str = "supervised", **train: Any) -> Recipe:
    return recipe_from_tree(recipe_tree(method, **train), where="test")


def recipe_from(tree: dict[str, Any]) -> Recipe:
    return recipe_from_tree(tree, where="test")


def make_run(folder: Path, tree: dict[str, Any], *, name: str = "run", **data: Any) -> Run:
    """A run folder that has not been trained; writes volumes first where there is no data."""
    if not (folder / "data" / "manifest.json").exists():
        write_data(folder / "data", **data)
    path = write_recipe(folder / f"{name}.yaml", tree)
    return Run.create(folder / name, load_recipe(path), path)


class StopAfter(StopRequest):
    """Wants to stop once it has been asked so many times: after so many steps of a session."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def due(self) -> bool:
        self.left -= 1
        if self.left == 0:
            self.reason = "the test asks for it"
        return self.reason is not None


def sine_fill(module: nn.Module) -> None:
    """Fills every floating-point tensor by a formula, so that a network is the same on every machine."""
    with torch.no_grad():
        for name, tensor in sorted(module.state_dict().items()):
            if tensor.is_floating_point() and "running" not in name:
                wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 0.7 + len(name))
                tensor.copy_(wave.reshape(tensor.shape))


def train(run: Run, *, resume: bool = False, steps: int | None = None, sine: bool = False) -> Trainer:
    """Trains on the CPU in this process, for `steps` steps or to the recipe's end."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=run.recipe.train.precision)
    trainer = Trainer(run, fabric, Console(file=io.StringIO(), width=200))
    if sine:
        sine_fill(trainer.method)
    if resume:
        trainer.resume()
    else:
        trainer.initialise()
    trainer.fit(StopRequest() if steps is None else StopAfter(steps))
    return trainer


def read_log(run: Run) -> list[dict[str, Any]]:
    """The log's records without the wall time."""
    lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def make_batch(labeled: int = 2, unlabeled: int = 2, *, side: int = 16, classes: int = 3, channels: int = 1) -> Batch:
    """Boxes in noise; labeled rows first, as the loader has them."""
    generator = torch.Generator().manual_seed(5)
    rows = labeled + unlabeled
    label = torch.zeros(rows, 1, side, side, side, dtype=torch.int64)
    for row in range(rows):
        for value in range(1, classes):
            start = 1 + 5 * (value - 1) + row % 2
            label[row, 0, start : start + 5, 3:11, 2 + row : 9 + row] = value
    image = torch.randn(rows, channels, side, side, side, generator=generator) + 2.0 * label
    strong = image + 0.2 * torch.randn(image.shape, generator=generator)
    label[labeled:] = -1
    return Batch(
        image=image,
        label=label,
        labeled=torch.arange(rows) < labeled,
        case=[f"case_{row:02d}" for row in range(rows)],
        index=torch.arange(rows),
        spacing_mm=torch.ones(rows, 3),
        views={"strong": strong, "weak": image},
    )


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The functions above."""
    return SimpleNamespace(
        labels=LABELS,
        methods=METHODS,
        pretraining=PRETRAINING,
        write_nifti=write_nifti,
        make_scan=make_scan,
        write_data=write_data,
        write_images=write_images,
        write_squares=write_squares,
        pretrain_tree=pretrain_tree,
        recipe_tree=recipe_tree,
        set_key=set_key,
        write_recipe=write_recipe,
        make_recipe=make_recipe,
        recipe_from=recipe_from,
        make_run=make_run,
        sine_fill=sine_fill,
        train=train,
        read_log=read_log,
        make_batch=make_batch,
        stop_after=StopAfter,
        open_run=Run.open,
        create_run=Run.create,
    )


@pytest.fixture
def data_root() -> Path:
    """Folder of real data; tests that need it are skipped elsewhere."""
    if not os.environ.get("MEDCONTRAST_DATA"):
        pytest.skip("MEDCONTRAST_DATA is not set")
    return Path(os.environ["MEDCONTRAST_DATA"])


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Runs a command in this process; gives `code`, `out` and `err`."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["medcontrast", *(str(word) for word in words)])
        capsys.readouterr()
        code: Any = None
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
        captured = capsys.readouterr()
        return SimpleNamespace(code=code or 0, out=captured.out, err=captured.err)

    return run
