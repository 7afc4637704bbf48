"""Recipes and their parts; free of torch, so that `check` and `recipes` answer at once."""

from medcontrast.settings.load import (
    AnyRecipe,
    load_recipe,
    load_segmentation_recipe,
    pretrains,
    recipe_from_tree,
    recipe_to_yaml,
    require_pretraining,
    require_segmentation,
)
from medcontrast.settings.pretrain_recipe import PretrainRecipe
from medcontrast.settings.recipe import Recipe

__all__ = [
    "AnyRecipe",
    "PretrainRecipe",
    "Recipe",
    "load_recipe",
    "load_segmentation_recipe",
    "pretrains",
    "recipe_from_tree",
    "recipe_to_yaml",
    "require_pretraining",
    "require_segmentation",
]
