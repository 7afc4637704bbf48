"""Tests of every shipped recipe: whole (loads, and trains two steps when shrunken)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from medcontrast.data.fit import recipe_manifest, require_fit
from medcontrast.engine.job import job_of
from medcontrast.engine.run import Run
from medcontrast.settings import AnyRecipe, PretrainRecipe, load_recipe, recipe_from_tree, recipe_to_yaml
from medcontrast.settings.shipped import shipped_folder, shipped_recipes

RECIPES = shipped_recipes()
LEAST = 6


def name_of(path: Path) -> str:
    return path.relative_to(shipped_folder("recipes")).as_posix()


def test_recipes_are_found():
    assert len(RECIPES) >= LEAST
    assert {load_recipe(path).method.name for path in RECIPES} >= {
        "supervised",
        "mean_teacher",
        "fba_net",
        "fba_legacy",
    }


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_it_loads_and_its_resolved_form_is_equal(path, tmp_path):
    recipe = load_recipe(path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_recipe(resolved) == recipe
    assert f"recipes/{name_of(path)}" in recipe.about.command


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_its_manifest_fits_and_its_network_is_built(path):
    recipe = load_recipe(path)
    manifest_file = path.parent / recipe.data.manifest
    if not manifest_file.exists():  # data that a command makes first, such as the phantom's
        assert not manifest_file.resolve().is_relative_to(shipped_folder("data_manifests").resolve())
        pytest.skip(f"{recipe.data.manifest} is made by a command first")
    manifest = recipe_manifest(recipe, path)
    require_fit(recipe, manifest, where=str(path))
    assert job_of(Run(path.parent, recipe, manifest)).method.student is not None


def shrink(recipe: AnyRecipe) -> AnyRecipe:
    """The same recipe with a tiny network on tiny patches or images, two steps long."""
    tree = recipe.model_dump(mode="json")
    tree["train"] |= {"steps": 2, "precision": "32-true", "log_every": 1, "init_from": None}
    return recipe_from_tree(
        shrink_images(tree) if isinstance(recipe, PretrainRecipe) else shrink_volumes(tree), where=""
    )


def shrink_images(tree):
    tree["data"] |= {"manifest": "data/manifest.json", "root": None, "size": 16, "cache": "memory", "workers": 0}
    if tree["network"]["name"] == "hvae":
        tree["network"]["filters"] = [4, 4, 8, 8]
    else:
        tree["network"]["width"] = 4
    tree["train"] |= {"rows": 4, "accumulate": 1}
    if "queue" in tree["method"]:
        tree["method"]["queue"] = 8
    for view in tree["augment"]["views"].values():
        view["size"] = view["size"] and 8
    return tree


def shrink_volumes(tree):
    network = tree["network"]
    network["filters"] = [4, 4, 8, 8][: len(network["filters"])] if isinstance(network["filters"], list) else 4
    if isinstance(network["filters"], list) and network["strides"] is not None:
        network["strides"] = network["strides"][: len(network["filters"]) - 1]
    small = recipe_patch(network)
    tree["data"] |= {"manifest": "data/manifest.json", "root": None, "patch": small, "cache": "memory", "workers": 0}
    if "patch" in tree["method"]:
        tree["method"]["patch"] = small
    if "contrast" in tree["method"] and "region" in tree["method"]["contrast"]:
        tree["method"]["contrast"]["region"] = min(tree["method"]["contrast"]["region"], 8)
    tree["train"]["validate_every"] = None
    for rows in ("labeled_rows", "unlabeled_rows"):
        tree["train"][rows] = min(tree["train"][rows], 2 * tree["train"]["accumulate"])
    return tree


def recipe_patch(network):
    if network["name"] == "vnet":
        return [32, 32, 16]
    if network["name"] == "segresnet":
        return [16, 16, 16]
    levels = len(network["filters"])
    strides = network["strides"] or [[2, 2, 2]] * (levels - 1)
    return [2 * max(4, math.prod(stride[axis] for stride in strides)) for axis in range(3)]


def write_volumes(tiny, folder, recipe, path):
    labels, channels = {"0": "background", "1": "one", "2": "two"}, 1
    manifest_file = path.parent / recipe.data.manifest
    if manifest_file.exists():
        raw = json.loads(manifest_file.read_text(encoding="utf-8"))
        labels, channels = raw["labels"], len(raw.get("channels", [0]))
    tiny.write_data(folder, labels=labels, channels=channels, validation=1)


def write_images(tiny, folder, recipe, path):
    path = tiny.write_squares(folder, channels=recipe.data.channels)
    if recipe.generates or recipe.needs_counterfactuals:
        arrays = dict(np.load(folder / "images.npz"))
        count = len(arrays["labels"])
        names = [f"images.npz#images[{number}]" for number in range(count)]
        arrays |= {"domain": np.arange(count) // 2 % 2, "number": np.arange(count) / 3, "of": np.array(names)}
        np.savez_compressed(folder / "images.npz", **arrays)
        tree = json.loads(path.read_text(encoding="utf-8"))
        source = tree["train"][0]
        names = [name for name in getattr(recipe.method, "parents", {}) if name not in ("domain", "target")]
        source |= {"domain": "domain", "attributes": dict.fromkeys(names, "number")}
        (folder / "copies.npz").write_bytes((folder / "images.npz").read_bytes())
        tree["train"].append({**source, "npz": "copies.npz", "of": "of"})
        path.write_text(json.dumps(tree), encoding="utf-8")


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_it_trains_two_steps_when_shrunken(tiny, tmp_path, path):
    recipe = load_recipe(path)
    write = write_images if isinstance(recipe, PretrainRecipe) else write_volumes
    write(tiny, tmp_path / "data", recipe, path)
    small = shrink(recipe)
    written = tmp_path / "small.yaml"
    written.write_text(recipe_to_yaml(small), encoding="utf-8")
    trainer = tiny.train(tiny.create_run(tmp_path / "run", load_recipe(written), written))
    assert trainer.state.step == 2
    records = tiny.read_log(trainer.run)
    assert all(math.isfinite(value) for record in records for value in record.values())
