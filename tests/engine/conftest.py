"""Images with what a generator needs to know of them, and runs of generators on them; a grid of tiny scans."""

from __future__ import annotations

import json

import pytest
import yaml
from generators import generator_tree
from tensorboard.summary.writer import event_file_writer
from tiny_grid import TREE

from medcontrast.settings import load_recipe


@pytest.fixture(autouse=True, scope="session")
def curves_in_order():
    """TensorBoard reads event files in the order of their names: a second, then the writer's number, 10 before 9.

    Only tests write for a run and its resume in one second of one process; here all such numbers have one length.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(10**6))
        yield


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


@pytest.fixture
def grid(tiny, tmp_path, monkeypatch):
    """A grid of two methods and full supervision on tiny scans; the current folder is its own."""
    monkeypatch.chdir(tmp_path)
    tiny.write_data(tmp_path / "data", labeled=2, unlabeled=3, validation=2)
    for method in ("supervised", "mean_teacher"):
        tiny.write_recipe(tmp_path / f"{method}.yaml", tiny.recipe_tree(method))
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TREE, "set": ["train.steps=2"]}, sort_keys=False), encoding="utf-8")
    return path
