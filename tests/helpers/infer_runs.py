"""What `medcontrast infer` takes: a run of a tiny network and a scan of noise, written by relative paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import torch

from medcontrast.checkpoint import save_weights
from medcontrast.labels import LabelTable
from medcontrast.networks.build import build_network
from medcontrast.settings import recipe_from_tree

LABELS = {"labels": {"0": "background", "1": "left atrium", "4": "wall"}}
Run = Callable[..., SimpleNamespace]


def write_run(folder: str, channels: tuple[str, ...] = ("image",), phase: float = 0.0) -> None:
    tree = {
        "about": {"command": "-", "needs": "-", "gives": "-", "cost": "-"},
        "data": {"manifest": "m.json", "patch": [16, 16, 16]},
        "network": {"name": "vnet", "filters": 2, "norm": "group"},
        "method": {"name": "supervised"},
        "train": {"steps": 5},
    }
    network = build_network("vnet", in_channels=len(channels), classes=3, filters=2, norm="group")
    tensors = {
        name: torch.sin(torch.arange(tensor.numel()) * 0.7 + phase).reshape(tensor.shape)
        for name, tensor in network.state_dict().items()
    }
    header: dict[str, Any] = {
        "recipe": recipe_from_tree(tree, where="test").model_dump(mode="json"),
        "labels": LabelTable.from_json(LABELS).to_json(),
        "channels": list(channels),
        "network": "student",
        "step": 5,
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_weights(Path(folder) / "last.safetensors", tensors, header)


def write_scan(path: str, seed: int = 0, constant: bool = False) -> np.ndarray:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(size=(18, 16, 13)).astype(np.float32)
    image = nib.Nifti1Image(array * (not constant), np.diag([-1.0, 1.5, 2.0, 1.0]))
    image.set_sform(image.affine, 1)
    nib.save(image, path)
    return array
