"""Tests of parts of a recipe that must fit each other: by hand (exact sentences)."""

from __future__ import annotations

import pytest
import yaml

from medcontrast.settings import recipe_from_tree, recipe_to_yaml


@pytest.mark.parametrize(
    ("own", "idle"),
    [
        ({"crop": {"kind": "lesion"}}, "crop"),
        ({"flip": 0.25}, "flip"),
        ({"flip_axis": 0, "rotation_degrees": 5.0}, "flip_axis, rotation_degrees"),
    ],
)
def test_a_view_that_shares_a_crop_has_none_of_its_own(tiny, own, idle, faults):
    whole = tiny.pretrain_tree()
    whole["augment"]["views"]["second"] = {"same_crop_as": "first", **own}
    assert faults(whole) == [
        f"augment: views.second takes crop, mirroring and turn from first; leave out {idle}, or give the values of "
        "views.first"
    ]


def test_a_view_that_shares_a_crop_may_repeat_it(tiny):
    whole = tiny.pretrain_tree()
    first = {"crop": {"area": [0.5, 0.9]}, "flip": 0.25, "flip_axis": 0, "rotation_degrees": 5.0}
    whole["augment"]["views"] = {"first": first, "second": {"same_crop_as": "first"}}
    resolved = yaml.safe_load(recipe_to_yaml(recipe_from_tree(whole, where="it")))
    assert resolved["augment"]["views"]["second"]["flip"] == 0.5
    whole["augment"]["views"]["second"] |= first
    for tree in (whole, resolved):
        assert not recipe_from_tree(tree, where="it").needs_lesion_boxes


@pytest.mark.parametrize(
    ("crop", "key"),
    [({"kind": "whole", "area": [0.5, 1.0]}, "area"), ({"kind": "centre", "ratio": [1.0, 1.0]}, "ratio")],
)
def test_a_crop_that_is_not_drawn_has_no_range(tiny, crop, key, faults):
    whole = tiny.pretrain_tree()
    whole["augment"]["views"]["first"] = {"crop": crop}
    (found,) = faults(whole)
    assert found.startswith(f"augment.views.first.crop: {key} {crop[key]} is a setting of kind: random, lesion")
    whole["augment"]["views"]["first"] = {"crop": {"kind": "centre", "area": [0.5, 1.0]}}
    recipe_from_tree(whole, where="it")


def test_the_queue_of_leoclr_takes_both_crops_where_they_are_keys(tiny, faults):
    whole = tiny.pretrain_tree()
    whole["augment"]["views"] = {name: {} for name in ("anchor", "first", "second")}
    whole["method"] = {"name": "leoclr", "enqueue": "both"}
    recipe_from_tree(whole, where="it")
    whole["method"]["roles"] = "crops_query"
    (found,) = faults(whole)
    assert found.startswith("method: enqueue both is a setting of roles: anchor_query and does nothing with roles: ")


@pytest.mark.parametrize(("rows", "accumulate", "least"), [(12, 1, 8), (4, 1, 8), (24, 2, 16), (20, 2, 16)])
def test_rows_that_split_norm_cannot_part_are_refused(tiny, faults, rows, accumulate, least):
    whole = tiny.pretrain_tree(rows=rows, accumulate=accumulate)
    whole["augment"]["views"] = {"query": {}, "key": {}}
    whole["method"] = {"name": "moco_v2"}
    recipe_from_tree(whole, where="it")
    whole["network"]["norm"] = "split_batch"
    assert faults(whole) == [
        f"train.rows {rows} must be a multiple of {least} with network.norm split_batch, which takes statistics of 8 "
        f"equal parts of what each of 1 process(es) passes at once (train.accumulate {accumulate})"
    ]


def test_views_that_go_through_together_are_parted_together(tiny, faults):
    whole = tiny.pretrain_tree(rows=12)
    whole["network"]["norm"] = "split_batch"
    recipe = recipe_from_tree(whole, where="it")
    assert recipe.uneven_parts() is recipe.uneven_parts(3) is None
    assert recipe.uneven_parts(2).startswith("train.rows 12 must be a multiple of 8 with network.norm split_batch, ")
    whole["train"]["rows"] = 6
    assert faults(whole)[0].startswith("train.rows 6 must be a multiple of 4 with network.norm split_batch, ")


def test_moco_v3_has_two_rows_in_every_pass(tiny, faults):
    whole = tiny.pretrain_tree(rows=4)
    whole["augment"]["views"] = {"first": {}, "second": {}}
    whole["method"] = {"name": "moco_v3"}
    recipe = recipe_from_tree(whole, where="it")
    assert recipe.uneven_parts() is recipe.uneven_parts(2) is None
    said = "leave each of 4 process(es) fewer than 2"
    assert recipe.uneven_parts(4).endswith(f"train.rows 4 and train.accumulate 1 {said}")
    whole["train"]["accumulate"] = 4
    assert faults(whole) == [
        "method moco_v3 normalises its heads over the rows of a micro-batch; train.rows 4 and train.accumulate 4 leave "
        "each of 1 process(es) fewer than 2"
    ]


def test_multi_level_has_a_queue(tiny, faults):
    whole = tiny.pretrain_tree()
    whole["augment"]["views"] = {name: {} for name in ("query_high", "key_high", "query_low", "key_low")}
    whole["method"] = {"name": "multi_level", "queue": 0}
    (found,) = faults(whole)
    assert found.startswith("method.queue: ")  # without one there are no negatives
    whole["method"]["queue"] = 1
    recipe_from_tree(whole, where="it")


def test_a_window_needs_two_voxels_at_the_deepest_level_too(tiny, faults):
    tree = tiny.recipe_tree()
    tree["network"] = {"name": "vnet", "filters": 2, "norm": "instance"}
    tree["data"]["patch"] = [32, 32, 32]
    tree["inference"] = {"window": [16, 16, 16]}
    (found,) = faults(tree)
    assert found.startswith("inference.window [16, 16, 16] leaves one voxel at the deepest level of network vnet, ")
    tree["network"]["norm"] = "batch"
    recipe_from_tree(tree, where="it")


def test_legacy_must_fit_patch_and_network(tiny, faults):
    tree = tiny.recipe_tree("fba_legacy")
    tree["method"]["patch"] = [32, 16, 16]
    tree["network"]["decoders"] = 1
    assert faults(tree) == [
        "method.patch [32, 16, 16] must be data.patch [16, 16, 16]; method fba_legacy needs network "
        "vnet with decoders: 3"
    ]


@pytest.mark.parametrize("name", ["supervised", "cps", "mc_net", "fba_legacy"])
def test_a_teachers_view_without_a_teacher_is_refused(tiny, faults, name):
    tree = tiny.set_key(tiny.recipe_tree(name), "augment.weak", {"probability": 0.5, "gamma": 0.2})
    assert faults(tree) == [
        f"augment.weak is what a teacher sees, and method {name} has none: networks learn from augment.strong; leave "
        "augment.weak out, or set its probability to 0"
    ]
    for idle in ({"probability": 0.0, "gamma": 0.2}, {"probability": 0.5}):
        recipe_from_tree(tiny.set_key(tree, "augment.weak", idle), where="it")


@pytest.mark.parametrize("name", ["mean_teacher", "ua_mt", "bcp", "fba_net"])
def test_a_teacher_has_a_view_of_its_own(tiny, name):
    tree = tiny.set_key(tiny.recipe_tree(name), "augment.weak", {"probability": 0.5, "noise_std": 0.2})
    assert recipe_from_tree(tree, where="it").augment.weak.changes_anything


def test_mirrored_versions_need_an_axis(tiny, faults):
    tree = tiny.set_key(tiny.recipe_tree("fba_net"), "augment.spatial.flip_axes", [])
    assert faults(tiny.set_key(tree, "inference.flips", True)) == [
        "inference.flips averages versions mirrored along augment.spatial.flip_axes, which names no axis; set it to "
        "false"
    ]
    recipe_from_tree(tiny.set_key(tree, "inference.flips", False), where="it")


def test_decoders_belong_to_the_methods_that_have_several(tiny, faults):
    alone = tiny.set_key(tiny.recipe_tree("mc_net"), "network.decoders", 1)
    assert faults(alone) == ["method mc_net needs network vnet or dynunet with decoders: 2 or 3"]
    several = tiny.set_key(tiny.recipe_tree("mean_teacher"), "network.decoders", 2)
    assert faults(several) == [
        "network.decoders 2 is for methods mc_net, fba_net and fba_legacy; mean_teacher uses one"
    ]
    idle = tiny.set_key(tiny.recipe_tree("fba_net"), "method.consistency.mutual_weight", 0.5)
    assert faults(idle) == ["method.consistency.mutual_weight does nothing with network.decoders: 1; leave it out"]
    recipe_from_tree(tiny.set_key(idle, "network.decoders", 2), where="it")
