"""Tests of what tells two recipes apart: by hand."""

from __future__ import annotations

import pytest

from medcontrast.settings import load_recipe
from medcontrast.settings.compare import first_difference
from medcontrast.settings.shipped import shipped_folder


def tree(name, *overrides):
    return load_recipe(shipped_folder("recipes") / f"{name}.yaml", overrides).model_dump(mode="json")


@pytest.fixture
def old():
    return tree("pneumonia28_multi_level")


def test_a_recipe_is_itself_whatever_is_said_about_it(old):
    new = tree("pneumonia28_multi_level")
    new["about"] = {**new["about"], "cost": "other words"}
    assert first_difference(old, new) is None


def test_a_part_that_comes_or_goes_is_a_difference(old):
    """Between nothing and a mapping, both ways; comparing only the keys that both have would see neither."""
    mined = tree("pneumonia28_multi_level", "method.mine_negatives={ramp_up_steps: 200}")
    there, back = first_difference(old, mined), first_difference(mined, old)
    assert there.key == back.key == "method.mine_negatives"
    assert there.old == back.new == "nothing" and "200" in there.new


def test_the_two_baselines_of_a_grid_differ_in_the_degradation_of_a_view():
    found = first_difference(
        tree("pneumonia28_moco"), tree("pneumonia28_moco_degraded"), free=lambda key: key == "seed"
    )
    assert found.key == "augment.views.query.degrade" and found.old == "nothing"


def test_settings_younger_than_a_recipe_stand_at_their_defaults(old):
    del old["method"]["queries"], old["augment"]["views"]["query_low"]["flip_axis"]
    assert first_difference(old, tree("pneumonia28_multi_level")) is None
    found = first_difference(old, tree("pneumonia28_multi_level", "method.queries=lesion"))
    assert found == ("method.queries", "all", "lesion")


def test_a_setting_that_is_gone_is_a_difference(old):
    old["method"]["centred"] = True
    assert first_difference(old, tree("pneumonia28_multi_level")) == ("method.centred", "True", "nothing")


def test_free_settings_do_not_count(old):
    new = tree("pneumonia28_multi_level", "train.save_every=7", "seed=3")
    assert first_difference(old, new, free=lambda key: key == "train.save_every") == ("seed", "0", "3")
    assert first_difference(old, new, free={"train.save_every", "seed"}.__contains__) is None
