"""Tests of reading recipes: by hand (exact sentences), property."""

from __future__ import annotations

import pydantic
import pytest
import yaml

from medcontrast.errors import RecipeError
from medcontrast.settings import load_recipe, recipe_from_tree, recipe_to_yaml
from medcontrast.settings.shipped import find_recipe, shipped_recipes
from medcontrast.volume.grid import SPACING_LIMITS_MM

METHODS = ("supervised", "mean_teacher", "ua_mt", "cps", "mc_net", "bcp", "fba_net", "fba_legacy")
PRETRAINING = ("simclr", "moco_v2", "moco_v3", "dino", "leoclr", "multi_level", "hvae", "hvae_finetune")
METHOD_NAMES = ", ".join(f"'{name}'" for name in (*METHODS, *PRETRAINING))


@pytest.fixture
def changed(tiny):
    def change(method="fba_net", **values):
        tree = tiny.recipe_tree(method)
        for key, value in values.items():
            tree = tiny.set_key(tree, key.replace("__", "."), value)
        return tree

    return change


@pytest.mark.parametrize("method", METHODS)
def test_the_resolved_form_writes_every_default_and_loads_equal(tiny, tmp_path, method):
    recipe = tiny.make_recipe(method)
    path = tmp_path / "resolved.yaml"
    path.write_text(recipe_to_yaml(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert tree["train"]["save_every"] == 200
    assert tree["train"]["init_from"] is None
    assert tree["inference"]["largest_component"] == "none"
    assert tree["augment"]["strong"]["blur_sigma"] == 0.0


def test_a_recipe_does_not_change(tiny):
    recipe = tiny.make_recipe()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        recipe.seed = 4


def test_every_fault_at_once(changed, faults):
    tree = changed(
        train__setps=5,
        train__clip_norm="1e-3",
        method__contrast__wieght=0.1,
        train__labeled_rows=2.5,
        network__norm="layer",
    )
    del tree["about"]["cost"]
    tree["zzz"] = {}
    assert faults(tree) == [
        "about.cost: missing",
        "network.norm: input should be 'instance', 'batch', 'group' or 'none', but got 'layer'",
        "method.contrast.wieght: unknown key; did you mean 'weight'?",
        "train.clip_norm: '1e-3' is read as a word, not a number; write 0.001",
        "train.labeled_rows: input should be a valid integer, but got 2.5",
        "train.setps: unknown key; did you mean 'steps'?",
        "zzz: unknown key; known here: about, seed, data, augment, network, method, train, inference, evaluation",
    ]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("train.steps", 0, "train.steps: input should be greater than or equal to 1, but got 0"),
        ("train.steps", "5", "train.steps: input should be a valid integer, but got '5'"),
        ("train.steps", True, "train.steps: input should be a valid integer, but got True"),
        ("train.optimizer.lr", "2e-3", "train.optimizer.lr: '2e-3' is read as a word, not a number; write 0.002"),
        ("train.optimizer.lr", "1E-05", "train.optimizer.lr: '1E-05' is read as a word, not a number; write 0.00001"),
        ("train.optimizer.lr", -1, "train.optimizer.lr: input should be greater than 0, but got -1"),
        ("method.ema_decay", 1.1, "method.ema_decay: input should be less than or equal to 1, but got 1.1"),
        ("method.emma_decay", 0.9, "method.emma_decay: unknown key; did you mean 'ema_decay'?"),
        ("augment.weak.gama", 0.1, "augment.weak.gama: unknown key; did you mean 'gamma'?"),
        (
            "method.name",
            "fba",
            f"method.name: expected one of {METHOD_NAMES}, but got 'fba'",
        ),
        ("method.name", {"a": 1}, f"method.name: expected one of {METHOD_NAMES}, but got {{'a': 1}}"),
        ("data.patch", [16, 16], "data.patch.2: missing"),
        (
            "data.patch",
            [16, 16, 30],
            "data.patch [16, 16, 30] must be multiples of [4, 4, 4] for network dynunet; the nearest is [16, 16, 32]",
        ),
        ("data.spacing_mm", [1.0, 0.0, 1.0], "data.spacing_mm.1: input should be greater than 0.001, but got 0.0"),
        (
            "data.intensity",
            {"low": 1.0},
            "data.intensity: low, high, mean and std go with kind: clip, but kind is zscore",
        ),
        (
            "data.intensity",
            {"kind": "clip", "low": 5.0, "high": 1.0},
            "data.intensity: kind: clip needs low < high, but got low 5.0 and high 1.0",
        ),
        ("augment.spatial.flip_axes", [0, 0], "augment.spatial: flip_axes names an axis twice: [0, 0]"),
        ("augment.spatial.rotate90_axes", [0], None),
        (
            "network.filters",
            8,
            "network: dynunet takes a list of at least 3 widths for filters, such as [16, 32, 64, 128]",
        ),
        (
            "network.filters",
            [4, 8],
            "network: dynunet takes a list of at least 3 widths for filters, such as [16, 32, 64, 128]",
        ),
        (
            "network",
            {"name": "unet", "filters": [4, 8], "decoders": 3},
            "network: decoders: 3 is a form of vnet and dynunet, not of unet",
        ),
        ("network.strides", [[2, 2, 1]], "network: strides needs 2 triples of 1 and 2, one between each two levels"),
        (
            "network",
            {"name": "vnet", "filters": [8, 16]},
            "network: vnet takes one number for filters, the first level's width, such as 16",
        ),
        (
            "network",
            {"name": "segresnet", "filters": 8, "strides": []},
            "network: strides are a setting of unet and dynunet, not of segresnet",
        ),
        (
            "network",
            {"name": "vnet", "filters": 8},
            "data.patch [16, 16, 16] leaves one voxel at the deepest level of network vnet, which instance "
            "normalisation cannot work on; make one side 32 or take another norm",
        ),
        (
            "train.unlabeled_rows",
            0,
            "method fba_net learns from unlabeled scans; set train.unlabeled_rows to 1 or more",
        ),
        (
            "train.accumulate",
            3,
            "train.accumulate 3 does not divide train.labeled_rows 2; train.accumulate 3 does not divide "
            "train.unlabeled_rows 2",
        ),
        (
            "method",
            {"name": "supervised"},
            "method supervised learns from labels alone; set train.unlabeled_rows 0, not 2",
        ),
        (
            "inference.window",
            [16, 24, 18],
            "inference.window [16, 24, 18] must be multiples of [4, 4, 4] for network dynunet",
        ),
        (
            "method.segmentation",
            {"dice_weight": 0.0, "cross_entropy_weight": 0},
            "method.segmentation: dice_weight and cross_entropy_weight are both 0, so that labels teach nothing",
        ),
        ("seed", -1, "seed: input should be greater than or equal to 0, but got -1"),
        (
            "train.optimizer",
            {"name": "adamw", "nesterov": True},
            "train.optimizer: nesterov true is a setting of name: sgd and does nothing with name: adamw; leave "
            "nesterov out, or set it to its default, false",
        ),
        (
            "train.schedule",
            {"name": "cosine", "every": 100, "power": 2.0, "factor": 0.1},
            "train.schedule: power 2.0 is a setting of name: poly and does nothing with name: cosine; leave power out, "
            "or set it to its default, 0.9; every 100 is a setting of name: step and does nothing with name: cosine; "
            "leave every out, or set it to its default, 2500",
        ),
        (
            "method.consistency",
            {"perturbation": "noise", "paste_fraction": 0.5},
            "method.consistency: paste_fraction 0.5 is a setting of perturbation: copy_paste and does nothing with "
            "perturbation: noise; leave paste_fraction out, or set it to its default, 0.667",
        ),
        (
            "method.consistency",
            {"target": "hard", "temperature": 0.1},
            "method.consistency: temperature 0.1 is a setting of target: soft and does nothing with target: hard; "
            "leave temperature out, or set it to its default, 0.5",
        ),
    ],
)
def test_one_fault(tiny, key, value, sentence, faults):
    tree = tiny.set_key(tiny.recipe_tree("fba_net"), key, value)
    if sentence is None:
        tree["data"]["patch"] = [16, 16, 32]
        sentence = "augment.spatial.rotate90_axes names axis 0, but data.patch [16, 16, 32] is not square across it"
    found = faults(tree)
    assert len(found) == 1
    assert found[0].split("; method.contrast.")[0] == sentence


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"method.pretrain_steps": 6},
            "method.pretrain_steps 6 must be less than train.steps 6: after them unlabeled scans are learned from",
        ),
        (
            {"train.labeled_rows": 1, "train.unlabeled_rows": 1},
            "method bcp pastes between labeled rows in its method.pretrain_steps and needs 2 of them in a micro-batch, "
            "but train.labeled_rows 1 and train.accumulate 1 leave one",
        ),
        ({"train.labeled_rows": 1, "train.unlabeled_rows": 1, "method.pretrain_steps": 0}, None),
        (
            {"train.unlabeled_rows": 3},
            "method bcp pastes into as many unlabeled rows as there are labeled ones, but train.unlabeled_rows 3 are "
            "more than train.labeled_rows 2; the others would teach nothing",
        ),
    ],
)
def test_bcp_that_would_not_paste_is_refused(tiny, faults, values, sentence):
    tree = tiny.recipe_tree("bcp", steps=6)
    for key, value in values.items():
        tree = tiny.set_key(tree, key, value)
    assert (faults(tree) if sentence else recipe_from_tree(tree, where="it").method.name) == (
        [sentence] if sentence else "bcp"
    )


def test_a_cell_of_one_voxel_is_refused(tiny, faults):
    (fault,) = faults(tiny.set_key(tiny.recipe_tree("fba_net"), "method.contrast.region", 1))
    assert "must be 0, or 2 or more: a cell of one voxel cannot hold a foreground and a background" in fault


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.optimizer", {"name": "sgd", "momentum": 0.5, "nesterov": True}),
        ("train.schedule", {"name": "poly", "power": 2.0}),
        ("train.schedule", {"name": "step", "every": 100, "factor": 0.5}),
        ("method.consistency", {"perturbation": "copy_paste", "paste_fraction": 0.5, "paste_probability": 1.0}),
        ("method.consistency", {"target": "soft", "temperature": 0.1}),
    ],
)
def test_what_counts_under_the_chosen_form_passes(tiny, key, value):
    whole = tiny.set_key(tiny.recipe_tree("fba_net"), key, value)
    resolved = yaml.safe_load(recipe_to_yaml(recipe_from_tree(whole, where="it")))
    assert recipe_from_tree(resolved, where="it") == recipe_from_tree(whole, where="it")


def test_another_form_by_set_says_what_to_do_with_the_values_of_the_first(tiny, tmp_path):
    path = tmp_path / "recipe.yaml"
    schedule = {"name": "poly", "power": 2.0}
    path.write_text(yaml.safe_dump(tiny.set_key(tiny.recipe_tree(), "train.schedule", schedule)), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"power 2\.0 is a .*; leave power out, or set it to its default, 0\.9$"):
        load_recipe(path, ["train.schedule.name=cosine"])
    found = load_recipe(path, ["train.schedule.name=cosine", "train.schedule.power=0.9"])
    assert found.train.schedule == load_recipe(path, ["train.schedule={name: cosine}"]).train.schedule


def test_a_method_without_a_name_or_without_keys_says_what_to_choose(tiny, faults):
    tree = tiny.recipe_tree("fba_net")
    assert faults({**tree, "method": {"ema_decay": 0.9}}) == [
        f"method.name: expected one of {METHOD_NAMES}, but there is none"
    ]
    for value in ("fba_net", None, ["fba_net"]):
        wanted = f"method: expected a mapping with a name out of {METHOD_NAMES}, but got {value!r}"
        assert faults({**tree, "method": value}) == [wanted]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused(tiny, value):
    tree = tiny.set_key(tiny.recipe_tree(), "train.optimizer.lr", value)
    with pytest.raises(RecipeError, match=r"^recipe\.yaml: NaN and infinity are not settings; give a finite number\.$"):
        recipe_from_tree(tree, where="recipe.yaml")


def test_shipped_recipes_are_found_by_every_name(tmp_path, monkeypatch):
    first = shipped_recipes()[0]
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    for name in (f"recipes/{first.name}", first.name, first.stem, str(first)):
        assert find_recipe(Path(name)) == first
    (tmp_path / first.name).write_text("mine", encoding="utf-8")
    assert find_recipe(Path(first.name)) == Path(first.name)
    with pytest.raises(RecipeError, match=r"^nothing\.yaml: there is no such recipe\. `medcontrast recipes` lists"):
        find_recipe(Path("nothing.yaml"))


@pytest.mark.parametrize(("rows", "accumulate", "refused"), [(1, 1, True), (2, 1, False), (2, 2, True), (4, 2, False)])
def test_boxes_of_unlabeled_rows_need_two_of_them(tiny, faults, rows, accumulate, refused):
    tree = tiny.recipe_tree("fba_net", unlabeled_rows=rows, labeled_rows=2, accumulate=accumulate)
    tree = tiny.set_key(tree, "method.consistency.paste_from", "unlabeled")
    sentence = (
        "method.consistency.paste_from unlabeled exchanges boxes of unlabeled rows and needs 2 of them in a "
        f"micro-batch, but train.unlabeled_rows {rows} and train.accumulate {accumulate} leave one"
    )
    if refused:
        assert faults(tree) == [sentence]
    else:
        assert recipe_from_tree(tree, where="it").method.consistency.paste_from == "unlabeled"


def test_a_recipe_takes_the_spacings_that_a_scan_may_have(tiny, faults):
    for value in SPACING_LIMITS_MM:
        (fault,) = faults(tiny.set_key(tiny.recipe_tree(), "data.spacing_mm", [1.0, 1.0, value]))
        assert fault.startswith("data.spacing_mm.2: input should be ")
