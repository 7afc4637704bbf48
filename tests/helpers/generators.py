"""Tiny generators: their recipe, and one with no file behind it."""

from __future__ import annotations

from pathlib import Path

import torch

from medcontrast.engine.build import build_generator
from medcontrast.engine.generator.generator import Generator
from medcontrast.networks.parents import Parent
from medcontrast.settings import recipe_from_tree

CPU = torch.device("cpu")
PARENTS = (Parent("domain", ("A", "B")), Parent("age", mean=2.0, std=0.5), Parent("target", ("plain", "striped")))


def generator_tree(**train):
    return {
        "about": {"command": "medcontrast train tiny.yaml", "needs": "nothing", "gives": "little", "cost": "seconds"},
        "seed": 3,
        "data": {"manifest": "data/manifest.json", "size": 16, "channels": 1},
        "network": {"name": "hvae", "filters": [4, 4, 8], "latent_channels": [0, 2, 4]}
        | {f"{part}_blocks": [1, 1, 1] for part in ("encoder", "decoder")},
        "method": {"name": "hvae", "parents": {"domain": "category", "age": "number", "target": "category"}},
        "train": {
            "steps": 6,
            "rows": 4,
            "optimizer": {"lr": 0.01},
            "clip_norm": 350.0,
            "precision": "32-true",
            "log_every": 1,
            **train,
        },
    }


def make_generator(seed=0, parents=PARENTS):
    """A generator whose counterfactuals differ from the image, with no file behind it."""
    recipe = recipe_from_tree(generator_tree(), where="test")
    torch.manual_seed(seed)
    network = build_generator(recipe, parents).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if (parameter == 0).all():
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return Generator(network, recipe, file=Path("gen/last.safetensors"), step=5, loaded=0, device=CPU)
