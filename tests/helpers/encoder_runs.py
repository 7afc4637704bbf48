"""Recipes and runs of encoders that pre-train in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medcontrast.engine.run import Run
from medcontrast.settings import load_recipe

VIEWS = {
    "simclr": ["first", "second"],
    "moco_v2": ["query", "key"],
    "leoclr": ["anchor", "first", "second"],
    "multi_level": ["query_high", "key_high", "query_low", "key_low"],
}
EXTRA = {"moco_v2": {"queue": 6}, "leoclr": {"queue": 6}, "multi_level": {"queue": 3}}
"""Of the six training images three are healthy."""


def tree(method: str = "simclr", **train: Any) -> dict[str, Any]:
    photometric = {"blur": 0.5, "solarize": 0.2}
    views = {name: {"crop": {"area": [0.4, 1.0]}, "photometric": photometric} for name in VIEWS[method]}
    if method == "leoclr":
        views["anchor"]["crop"] = {"kind": "whole"}
    return {
        "about": {"command": "medcontrast train tiny.yaml", "needs": "nothing", "gives": "little", "cost": "seconds"},
        "seed": 3,
        "data": {"manifest": "data/manifest.json", "size": 16, "channels": 1},
        "augment": {"views": views},
        "network": {"name": "resnet20", "width": 4},
        "method": {"name": method, "embedding_channels": 8, **EXTRA.get(method, {})},
        "train": {
            "steps": 6,
            "rows": 4,
            "optimizer": {"name": "sgd", "lr": 0.1},
            "precision": "32-true",
            "log_every": 1,
            **train,
        },
    }


def runs_of(tiny: Any, folder: Path) -> Callable[..., Run]:
    """Makes runs of `tree` beside images of squares."""

    def make(method: str = "simclr", name: str = "run", **train: Any) -> Run:
        if not (folder / "data").exists():
            tiny.write_squares(folder / "data")
        path = tiny.write_recipe(folder / f"{name}.yaml", tree(method, **train))
        run: Run = tiny.create_run(folder / name, load_recipe(path), path)
        return run

    return make
