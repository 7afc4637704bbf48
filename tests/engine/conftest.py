"""Images with what a generator needs to know of them, and runs of generators on them."""

from __future__ import annotations

import json

import pytest
from generators import generator_tree

from medcontrast.settings import load_recipe


@pytest.fixture
def data(tiny, tmp_path):
    """Images of domains A and B with an age, `data/manifest.json`."""
    path = tiny.write_images(tmp_path / "data", train=8, validation=4, test=4)
    tree = json.loads(path.read_text(encoding="utf-8"))
    for split in ("train", "validation", "test"):
        for number, entry in enumerate(tree[split]):
            entry["attributes"] = {"age": 1.0 + number / 2}
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


@pytest.fixture
def run_of(tiny, tmp_path, data):
    def make(name="run", tree=None):
        path = tiny.write_recipe(tmp_path / f"{name}.yaml", generator_tree() if tree is None else tree)
        return tiny.create_run(tmp_path / name, load_recipe(path), path)

    return make
