"""Tests of `medcontrast check` and `medcontrast recipes`: whole, by exact sentence and exit code."""

from __future__ import annotations

import json

from medcontrast.settings.shipped import shipped_folder, shipped_recipes


def test_check_without_faults(cli, place):
    result = cli("check", place)
    manifest = place.parent / "data" / "manifest.json"
    assert result.code == 0
    assert result.out.splitlines() == [
        f"{place}: no faults. Method mean_teacher, network dynunet, 2 steps.",
        f"{manifest}: 2 labeled, 2 unlabeled, 1 validation, 1 test; 3 classes. Data folder: {manifest.parent}",
    ]


def test_check_names_faults_and_opens_no_scan(cli, refused, tiny, place):
    for path in (place.parent / "data" / "images").iterdir():
        path.unlink()
    assert cli("check", place).code == 0
    result = cli("check", place, "--set", "train.setps=3", "--set", "seed=x")
    refused(result, f"2 faults in {place}:\n  - seed: input should be a valid integer, but got 'x'\n")
    refused(result, "  - train.setps: unknown key; did you mean 'steps'?\n")
    tree = tiny.recipe_tree(manifest="nowhere.json")
    other = tiny.write_recipe(place.parent / "other.yaml", tree)
    refused(cli("check", other), "nowhere.json: there is no such manifest.")


def test_check_refuses_overlapping_splits(cli, refused, place):
    path = place.parent / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["test"] = manifest["labeled"][:1]
    path.write_text(json.dumps(manifest))
    refused(cli("check", place), "case case_00 stands in labeled and in test; splits must not overlap")


def test_recipes_lists_what_comes_along(cli):
    result = cli("recipes")
    assert result.code == 0
    for path in shipped_recipes():
        assert f"recipes/{path.relative_to(shipped_folder('recipes')).as_posix()}  (" in result.out


def test_recipes_by_name_and_by_method(cli, refused):
    result = cli("recipes", "hippocampus_fba", "leoclr")
    assert result.code == 0
    assert "recipes/hippocampus_fbanet_8.yaml  (fba_net)" in result.out
    assert "recipes/pairs_centre.yaml  (leoclr)" in result.out
    assert "quickstart" not in result.out
    assert "needs  Medical Segmentation Decathlon Task04" in result.out
    refused(cli("recipes", "abacus"), "No recipe has abacus in its name; `medcontrast recipes` lists them all.")
