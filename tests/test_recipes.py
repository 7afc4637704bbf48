"""Tests of every shipped recipe: whole (loads, and trains two steps when shrunken)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from far_device import train_far

from medcontrast.data.fit import recipe_manifest, require_fit, worth_saying
from medcontrast.engine.build import make_method
from medcontrast.engine.job import job_of
from medcontrast.engine.run import Run
from medcontrast.methods import METHODS
from medcontrast.settings import PretrainRecipe, Recipe, load_recipe, recipe_from_tree, recipe_to_yaml
from medcontrast.settings.sentences import names_of
from medcontrast.settings.shipped import shipped_folder, shipped_recipes

RECIPES = shipped_recipes()
PRETRAINING = [path for path in RECIPES if isinstance(load_recipe(path), PretrainRecipe)]
SEGMENTATION = [path for path in RECIPES if path not in PRETRAINING]


def name_of(path: Path) -> str:
    return path.relative_to(shipped_folder("recipes")).as_posix()


def test_recipes_are_found():
    assert len(RECIPES) >= 45
    assert {load_recipe(path).method.name for path in RECIPES} == {name for each in METHODS for name in names_of(each)}


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
    assert not any(sentence.startswith("Warning") for sentence in worth_saying(recipe, manifest))
    made = job_of(Run(path.parent, recipe, manifest)).method if path in PRETRAINING else make_method(recipe, manifest)
    assert made.student is not None


def shrink(recipe: Recipe) -> Recipe:
    """The same recipe with a tiny network on tiny patches, two steps long."""
    tree = recipe.model_dump(mode="json")
    network = tree["network"]
    if network["encoder"] is not None:
        network["encoder"]["width"] = 4
    network["filters"] = [4, 4, 8, 8][: len(network["filters"])] if isinstance(network["filters"], list) else 4
    if isinstance(network["filters"], list) and network["strides"] is not None:
        network["strides"] = network["strides"][: len(network["filters"]) - 1]
    small = recipe_patch(network)
    tree["inference"]["window"] = None
    tree["data"] |= {"manifest": "data/manifest.json", "root": None, "patch": small, "cache": "memory", "workers": 0}
    if "patch" in tree["method"]:
        tree["method"]["patch"] = small
    if "contrast" in tree["method"] and "region" in tree["method"]["contrast"]:
        tree["method"]["contrast"]["region"] = min(tree["method"]["contrast"]["region"], 8)
    if "pretrain_steps" in tree["method"]:
        tree["method"]["pretrain_steps"] = 1
    tree["train"] |= {"steps": 2, "precision": "32-true", "log_every": 1, "validate_every": None, "init_from": None}
    for rows in ("labeled_rows", "unlabeled_rows"):
        tree["train"][rows] = min(tree["train"][rows], 2 * tree["train"]["accumulate"])
    return recipe_from_tree(tree, where="shrunken")


def recipe_patch(network):
    if network["name"] == "unet2d":
        return [1 if axis == network["axis"] else 16 for axis in range(3)]
    if network["name"] == "vnet":
        return [32, 32, 16]
    if network["name"] == "segresnet":
        return [16, 16, 16]
    levels = len(network["filters"])
    strides = network["strides"] or [[2, 2, 2]] * (levels - 1)
    return [2 * max(4, math.prod(stride[axis] for stride in strides)) for axis in range(3)]


def require_same_far(run, records):
    """A device that is not the CPU (its stand-in) refuses nothing of two steps, and gives the same terms."""
    for terms, record in zip(train_far(run, steps=2), records, strict=True):
        # of the second step: a voxel whose hard target the rounding of the first turned moves the gradient's norm most
        assert terms == pytest.approx({name: record[name] for name in terms}, rel=5e-3, abs=1e-6)


@pytest.mark.parametrize("path", SEGMENTATION, ids=name_of)
def test_it_trains_two_steps_when_shrunken(tiny, tmp_path, path):
    recipe = load_recipe(path)
    labels, channels = {"0": "background", "1": "one", "2": "two"}, 1
    manifest_file = path.parent / recipe.data.manifest
    if manifest_file.exists():
        raw = json.loads(manifest_file.read_text(encoding="utf-8"))
        labels, channels = raw["labels"], len(raw.get("channels", [0]))
    tiny.write_data(tmp_path / "data", labels=labels, channels=channels, validation=1)
    small = shrink(recipe)
    written = tmp_path / "small.yaml"
    written.write_text(recipe_to_yaml(small), encoding="utf-8")
    trainer = tiny.train(tiny.create_run(tmp_path / "run", load_recipe(written), written))
    assert trainer.state.step == 2
    records = tiny.read_log(trainer.run)
    assert all(math.isfinite(value) for record in records for value in record.values())
    require_same_far(tiny.create_run(tmp_path / "far", load_recipe(written), written), records)


def shrink_pretraining(recipe: PretrainRecipe) -> PretrainRecipe:
    """The same recipe with a tiny encoder on few tiny images, two steps long."""
    tree = recipe.model_dump(mode="json")
    if recipe.generates:
        blocks = ("latent_channels", "encoder_blocks", "decoder_blocks")
        tree["network"] |= {"filters": [4, 4, 8, 8]} | {name: tree["network"][name][-4:] for name in blocks}
    else:
        tree["network"]["width"] = 12
    tree["data"] |= {"manifest": "data/images.json", "root": None, "size": 16, "workers": 0}
    for view in tree["augment"]["views"].values():
        view["size"] = None if view["size"] is None else 8
    if "queue" in tree["method"]:
        tree["method"]["queue"] = 12  # as many as there are healthy images
    tree["train"] |= {"steps": 2, "accumulate": 1, "precision": "32-true", "log_every": 1, "init_from": None}
    tree["train"]["rows"] = 16  # split batch normalisation needs two in each part
    if recipe.method.name == "hvae_finetune":
        tree["method"]["predictor_steps"], tree["train"]["init_from"] = 1, "start"
    return recipe_from_tree(tree, where="shrunken")


def start_of(recipe: PretrainRecipe) -> PretrainRecipe:
    """What trains the generator that a shrunken recipe starts from."""
    tree = recipe.model_dump(mode="json")
    method = {"name": "hvae", "parents": tree["method"]["parents"]}
    train = {**tree["train"], "steps": 1, "init_from": None}
    return recipe_from_tree({**tree, "method": method, "train": train}, where="start")


@pytest.mark.parametrize("path", PRETRAINING, ids=name_of)
def test_it_pretrains_two_steps_when_shrunken(tiny, tmp_path, path):
    recipe = load_recipe(path)
    shape = (24, 16, 16) if recipe.data.channels == 1 else (24, 16, 16, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "data").mkdir()
    facts = {"target": np.arange(24) % 2, "domain": np.arange(24) // 2 % 2, "number": np.arange(24) / 3}
    facts["other_domain"] = 1 - facts["domain"]
    of = np.array([f"images.npz#images[{number}]" for number in range(24)])
    np.savez(tmp_path / "data" / "images.npz", images=images, others=255 - images, of=of, **facts)
    parents = {name: kind for name, kind in getattr(recipe.method, "parents", {}).items() if name not in facts}
    source = {"npz": "images.npz", "target": "target", "domain": "domain"}
    source["attributes"] = {name: "target" if kind == "category" else "number" for name, kind in parents.items()}
    counterfactuals = {**source, "images": "others", "of": "of", "domain": "other_domain"}
    manifest = {"kind": "images", "root": ".", "classes": ["no", "yes"], "train": [source, counterfactuals]}
    if recipe.needs_lesion_boxes:
        manifest["lesion_boxes"] = {name: [[2, 3, 9, 12]] for name in of[1::2]}
    (tmp_path / "data" / "images.json").write_text(json.dumps(manifest), encoding="utf-8")
    written = tmp_path / "small.yaml"
    small = shrink_pretraining(recipe)
    if small.train.init_from is not None:
        written.write_text(recipe_to_yaml(start_of(small)), encoding="utf-8")
        tiny.train(tiny.create_run(tmp_path / "start", load_recipe(written), written))
    written.write_text(recipe_to_yaml(small), encoding="utf-8")
    trainer = tiny.train(tiny.create_run(tmp_path / "run", load_recipe(written), written))
    assert trainer.state.step == 2
    records = tiny.read_log(trainer.run)
    assert all(math.isfinite(value) for record in records for value in record.values())
    require_same_far(tiny.create_run(tmp_path / "far", load_recipe(written), written), records)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pairs_leoclr", "whole"),
        ("cifar10_leoclr", "whole"),
        ("imagenet_leoclr", "whole"),
        ("pairs_centre", "centre"),
        ("pairs_moco_two_keys", "random"),
    ],
)
def test_the_anchor_of_leoclr_shows_what_its_recipe_says(name, kind):
    """Left out, its crop would be random: LeOCLR would be MoCo with two keys."""
    view = load_recipe(shipped_folder("recipes") / f"{name}.yaml").augment.views["anchor"]
    assert view.crop.kind == kind and view.rotation_degrees == 0 and view.same_crop_as is None


@pytest.mark.parametrize("path", [path for path in PRETRAINING if "multi_level" in path.name], ids=name_of)
def test_clean_and_degraded_patches_get_the_same_colours(path):
    """Else the two qualities would differ by more than the degradation."""
    first, *others = [view.photometric for view in load_recipe(path).augment.views.values()]
    assert others == [first] * 3
