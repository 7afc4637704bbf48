"""Tests of `medcontrast recipe new` on real data: whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from medcontrast.settings import load_recipe
from medcontrast.settings.shipped import shipped_folder

Cli = Callable[..., SimpleNamespace]
SHIPPED = shipped_folder("data_manifests")


def test_a_recipe_for_the_hippocampus(data_root: Path, cli: Cli, tmp_path: Path) -> None:
    answer = cli("recipe", "new", "--manifest", SHIPPED / "hippocampus_8of160.json", "-o", tmp_path / "h.yaml")
    assert answer.code == 0
    recipe = load_recipe(tmp_path / "h.yaml")
    assert recipe.data.patch == (32, 48, 32) and recipe.data.spacing_mm == (1.0, 1.0, 1.0)
    assert (recipe.data.intensity.kind, recipe.method.name) == ("zscore", "fba_net")


def test_sides_are_not_mirrored_by_a_recipe_like_another(tiny: SimpleNamespace, cli: Cli, tmp_path: Path) -> None:
    manifest = tiny.write_data(tmp_path / "data")
    manifest.write_text(manifest.read_text().replace('"front"', '"lh"').replace('"back"', '"rh"'))
    tree = tiny.set_key(tiny.recipe_tree("mean_teacher"), "augment.spatial.flip_axes", [0])
    like = tiny.write_recipe(tmp_path / "like.yaml", tiny.set_key(tree, "inference.flips", True))
    answer = cli("recipe", "new", "--manifest", manifest, "-o", tmp_path / "x.yaml", "--like", like)
    assert (answer.code, answer.err) == (0, "")
    reason = "labels name a side, so axis 0 of the other recipe, left and right, is not mirrored"
    assert answer.out.splitlines()[1] == f"Note: augment.spatial.flip_axes is []: {reason}."
    recipe = load_recipe(tmp_path / "x.yaml")
    assert recipe.augment.spatial.flip_axes == () and not recipe.inference.flips
    assert reason in " ".join((tmp_path / "x.yaml").read_text().replace("#", " ").split())


@pytest.mark.slow
def test_images_are_sent_to_the_recipes_that_pre_train(tiny: SimpleNamespace, cli: Cli, tmp_path: Path) -> None:
    manifest = tiny.write_images(tmp_path / "data")
    answer = cli("recipe", "new", "--manifest", manifest, "-o", tmp_path / "x.yaml", "--like", "cifar10_simclr")
    assert (answer.code, answer.err) == (
        2,
        f"{manifest}: lists images, and a recipe is proposed for scans alone. Copy one that pre-trains (`medcontrast "
        "recipes` lists them), and set its data.manifest, data.size and data.channels.\n",
    )
    assert not (tmp_path / "x.yaml").exists()


def test_a_recipe_for_the_left_atrium(data_root: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("data", "check", SHIPPED / "la_8of64_val16.json").code == 0
    answer = cli("recipe", "new", "--manifest", SHIPPED / "la_8of64_val16.json", "-o", tmp_path / "l.yaml")
    assert answer.code == 0
    recipe = load_recipe(tmp_path / "l.yaml")
    assert (recipe.data.intensity.kind, recipe.network.name) == ("as_stored", "vnet")
    assert recipe.data.spacing_mm == (0.625, 0.625, 0.625) and recipe.data.patch[2] in (64, 80, 96)
