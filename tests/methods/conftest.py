"""Tiny images on disk and the recipes of pre-training methods on them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch


def write_images(folder, *, count=12, side=8):
    """`folder/data/manifest.json` and its images of noise."""
    (folder / "data").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
    np.savez(folder / "data" / "images.npz", images=images)
    manifest = {"kind": "images", "root": ".", "train": [{"npz": "images.npz"}]}
    (folder / "data" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def image_tree(method: dict[str, Any], network: dict[str, Any]) -> dict[str, Any]:
    """A recipe of six steps of four rows, with every view that the method asks for."""
    tree: dict[str, Any] = {
        "about": {"command": "medcontrast train tiny.yaml", "needs": "nothing", "gives": "little", "cost": "seconds"},
        "seed": 3,
        "data": {"manifest": "data/manifest.json", "size": 8, "channels": 1},
        "augment": {"views": {}},
        "network": network,
        "method": method,
        "train": {"steps": 6, "rows": 4, "precision": "32-true", "log_every": 1},
    }
    views = ["first", "second"]
    if method["name"] == "dino":
        views = ["global_first", "global_second", *[f"local_{number + 1}" for number in range(method["local_views"])]]
    tree["augment"]["views"] = {name: {"photometric": {"blur": 0.5}} for name in views}
    return tree


def require_same_after_resume(tiny, tree, folder):
    """Six steps leave the same tensors and log as three and, resumed, three more."""
    write_images(folder)
    whole = tiny.train(tiny.make_run(folder, tree, name="whole"))
    parts = tiny.make_run(folder, tree, name="parts")
    tiny.train(parts, steps=3)
    resumed = tiny.train(tiny.open_run(parts.folder), resume=True)
    state = resumed.method.state_dict()
    assert state.keys() == whole.method.state_dict().keys()
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert tiny.read_log(whole.run) == tiny.read_log(resumed.run)
    assert len({record["loss"] for record in tiny.read_log(whole.run)}) == 6


@pytest.fixture(scope="session")
def images() -> SimpleNamespace:
    """The functions above."""
    return SimpleNamespace(
        tree=image_tree,
        write=write_images,
        require_same_after_resume=require_same_after_resume,
    )
