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


def test_check_says_what_leads_to_the_data(cli, tiny, place, tmp_path, monkeypatch):
    """Only what the folder was found by is worth correcting."""
    monkeypatch.delenv("MEDCONTRAST_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data" / "manifest.json"
    tree = json.loads(path.read_text())
    end = "to the folder that its paths start from."

    def note(root, *words):
        path.write_text(json.dumps({**tree, "root": root} if root else {**tree, "root": ""}))
        result = cli("check", place, *words)
        assert result.code == 0
        return result.out.splitlines()[-1]

    moved = tmp_path / "data" / "moved"
    assert note("moved") == f"Note: {moved} is not there; before training, correct the manifest's root moved {end}"
    monkeypatch.setenv("MEDCONTRAST_DATA", "/nowhere")
    assert note("") == f"Note: /nowhere is not there; before training, set MEDCONTRAST_DATA {end}"
    given = note("moved", "--set", "data.root=/gone")
    assert given == f"Note: /gone is not there; before training, correct the recipe's data.root /gone {end}"
    note("moved")
    result = cli("train", place, "-o", tmp_path / "run")
    assert result.code == 2 and f"; correct the manifest's root moved {end}" in result.err
    assert "The recipe needs nothing. The data folder is " in result.err


def test_check_says_that_windows_are_not_the_patches(cli, place):
    said = (
        "Warning: inference.window [32, 16, 16] is not data.patch [16, 16, 16], from which the network learns; wherever"
    )
    assert said in cli("check", place, "--set", "inference.window=[32, 16, 16]").out
    assert "Warning" not in cli("check", place, "--set", "inference.window=[16, 16, 16]").out


def test_check_says_that_the_tensors_to_start_from_are_not_there(cli, place):
    source = place.parent / "runs" / "encoder"
    words = ("check", place, "--set", f"train.init_from={source}")
    said = f"Note: train.init_from {source} is not there; before training, make it. The recipe needs nothing."
    result = cli(*words)
    assert result.code == 0 and result.out.splitlines()[-1] == said
    source.mkdir(parents=True)
    assert "Note" not in cli(*words).out


def test_check_of_a_manifest_says_so(cli, refused, tiny, place, tmp_path):
    path = place.parent / "data" / "manifest.json"
    sentence = (
        f"{path}: this is a manifest, not a recipe; `medcontrast recipe new --manifest {path} -o my.yaml` makes a "
        "recipe of it.\n"
    )
    result = cli("check", path)
    assert (result.code, result.err) == (2, sentence)
    images = tmp_path / "images.json"
    images.write_text('{"kind": "images"}')
    refused(cli("check", images), f"{images}: this is a manifest of images, not a recipe; name it under data.manifest")
    recipe = tmp_path / "recipe.json"
    recipe.write_text("{}")
    refused(cli("check", recipe), "method: missing")


def test_check_refuses_overlapping_splits(cli, refused, place):
    path = place.parent / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["test"] = manifest["labeled"][:1]
    path.write_text(json.dumps(manifest))
    refused(cli("check", place), "case case_00 stands in labeled and in test; splits must not overlap")


def test_which_class_is_healthy_is_said_before_and_in_training(cli, tiny, tmp_path):
    tiny.write_images(tmp_path / "data")
    tree = tiny.pretrain_tree(steps=1)
    tree["augment"]["views"] = {name: {} for name in ("query_high", "key_high", "query_low", "key_low")}
    tree["method"] = {"name": "multi_level", "embedding_channels": 8, "queue": 8}
    path = tiny.write_recipe(tmp_path / "levels.yaml", tree)
    said = "By their order in the manifest's classes, plain is healthy, and lesions are: striped."
    assert said in cli("check", path).out.splitlines()
    trained = cli("train", path, "-o", tmp_path / "run")
    assert trained.code == 0, trained.err
    assert said in trained.out.splitlines()


def test_sides_that_mirroring_exchanges_are_said_before_and_in_training(cli, place):
    path = place.parent / "data" / "manifest.json"
    tree = json.loads(path.read_text())
    tree["labels"] = {"0": "background", "1": "kidney_L", "2": "kidney_R"}
    path.write_text(json.dumps(tree))
    said = (
        "Warning: augment.spatial.flip_axes mirrors along axis 0, where kidney_L comes to look like kidney_R and keeps "
        "its label, so that the network cannot learn which is which; take 0 out."
    )
    mirrored, free = (("--set", f"augment.spatial.flip_axes=[{axes}]") for axes in ("0, 1", "1, 2"))
    assert cli("check", place, *mirrored).out.splitlines()[-1] == said
    assert "Warning" not in cli("check", place, *free).out
    trained = cli("train", place, "-o", place.parent / "run", *mirrored)
    assert trained.code == 0, trained.err
    assert said in trained.out.splitlines()
    tree["labels"] = {"0": "background", "1": "left atrium", "2": "wall"}  # one side alone is mirrored by choice
    path.write_text(json.dumps(tree))
    assert "Warning" not in cli("check", place, *mirrored).out


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


def test_ramps_that_outlast_training_are_said(cli, tiny, place):
    """As in a run that was made shorter: its unlabeled scans never count fully."""
    place = tiny.write_recipe(
        place.parent / "ramps.yaml", tiny.set_key(tiny.recipe_tree("fba_net"), "train.steps", 300)
    )
    keys = ("method.consistency.ramp_up_steps", "method.contrast.ramp_up_steps", "train.schedule.warm_up_steps")

    def said(*steps):
        words = [word for key, value in zip(keys, steps, strict=True) for word in ("--set", f"{key}={value}")]
        result = cli("check", place, *words)
        assert result.code == 0
        return [line for line in result.out.splitlines() if line.startswith("Warning")]

    assert said(300, 0, 300) == []
    assert said(301, 0, 400) == [
        f"Warning: {key} {value} is longer than train.steps 300, so that what it ramps up never has its full value."
        for key, value in ((keys[0], 301), (keys[2], 400))
    ]
