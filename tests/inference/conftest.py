"""Tiny checkpoints and networks whose answer is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medcontrast.checkpoint import save_weights
from medcontrast.inference.members import Member
from medcontrast.inference.predict import Predictor
from medcontrast.labels import LabelTable
from medcontrast.networks.build import build_network
from medcontrast.networks.output import Output
from medcontrast.settings import Recipe, recipe_from_tree
from medcontrast.settings.train import InferenceSettings

LABELS = {"labels": {"0": "background", "3": "wall", "7": "left atrium"}, "regions": {"heart": [3, 7]}}


def recipe_tree(flip_axes: tuple[int, ...] = (0, 1, 2), **data: Any) -> dict[str, Any]:
    return {
        "about": {"command": "medcontrast train x.yaml", "needs": "-", "gives": "-", "cost": "-"},
        "data": {
            "manifest": "/home/somebody/secret/m.json",
            "root": "/home/somebody/data",
            "patch": [16, 16, 16],
            **data,
        },
        "augment": {"spatial": {"flip_axes": list(flip_axes)}},
        "network": {"name": "vnet", "filters": 2, "norm": "group"},
        "method": {"name": "supervised"},
        "train": {"steps": 5},
    }


def make_recipe(**data: Any) -> Recipe:
    return recipe_from_tree(recipe_tree(**data), where="test")


def sine_weights(recipe: Recipe, channels: int = 1, classes: int = 3, phase: float = 0.0) -> dict[str, Tensor]:
    network = build_network(
        recipe.network.name,
        in_channels=channels,
        classes=classes,
        filters=recipe.network.filters,
        norm=recipe.network.norm,
    )
    return {
        name: torch.sin(torch.arange(tensor.numel()) * 0.7 + phase).reshape(tensor.shape)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in network.state_dict().items()
    }


def write_checkpoint(
    path: Path,
    *,
    channels: tuple[str, ...] = ("image",),
    labels: Any = LABELS,
    phase: float = 0.0,
    half: bool = False,
    **data: Any,
) -> Path:
    recipe = make_recipe(**data)
    tensors = sine_weights(recipe, len(channels), len(labels["labels"]), phase)
    header = {
        "recipe": recipe.model_dump(mode="json"),
        "labels": LabelTable.from_json(labels).to_json(),
        "channels": list(channels),
        "network": "student",
        "step": 5,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, {name: tensor.half() if half else tensor for name, tensor in tensors.items()}, header)
    return path


class Threshold(nn.Module):
    """Class 2 above 75, class 1 above 25, else background; sums its channels."""

    def forward(self, image: Tensor) -> Output:
        value = image.sum(dim=1, keepdim=True)
        zero = torch.zeros_like(value)
        return Output(torch.cat([zero, (value - 25) * 10, (value - 75) * 20 + 500], dim=1), image)


def threshold_predictor(settings: InferenceSettings | None = None, channels: int = 1, **data: Any) -> Predictor:
    recipe = make_recipe(intensity={"kind": "as_stored"}, **data)
    names = tuple(f"channel {index}" for index in range(channels))
    header = {"network": "teacher", "step": 3}
    labels, path = LabelTable.from_json(LABELS), Path("runs/a/last.safetensors")
    member = Member(Threshold(), recipe, labels, names, path, "0" * 64, header)
    return Predictor((member,), settings or InferenceSettings(), torch.device("cpu"))


def marked(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """An asymmetric scan: 100 in a box in one corner, 50 in a longer box in another, 0 elsewhere."""
    array = np.zeros(shape, np.float32)
    x, y, z = shape
    array[2 : x // 2, 1 : y // 3, 1 : z // 2] = 100
    array[x // 2 + 2 : x - 3, y // 2 : y - 2, 2 : z - 1] = 50
    return array


def oblique_affine(mirrored: bool = False) -> NDArray[np.float64]:
    """About 20 and 15 degrees off the axes, anisotropic, far from the origin; axes permuted."""
    a, b = np.deg2rad(20), np.deg2rad(15)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = (turn @ np.diag([-1.0 if mirrored else 1.0, 1, 1]))[:, [1, 2, 0]] * [1.1, 2.5, 0.8]
    affine[:3, 3] = [-80, 33.5, 210]
    return affine


def write_nifti(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    nib.save(image, path)
    return path


@pytest.fixture
def tools() -> SimpleNamespace:
    """The functions above, for every test file of this folder."""
    return SimpleNamespace(
        labels=LABELS,
        make_recipe=make_recipe,
        write_checkpoint=write_checkpoint,
        threshold=Threshold,
        threshold_predictor=threshold_predictor,
        marked=marked,
        oblique_affine=oblique_affine,
        write_nifti=write_nifti,
    )
