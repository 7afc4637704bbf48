"""Recipes and their parts; free of torch, so that `check` and `recipes` answer at once."""

from medcontrast.settings.load import load_recipe, recipe_from_tree, recipe_to_yaml
from medcontrast.settings.recipe import Recipe

__all__ = ["Recipe", "load_recipe", "recipe_from_tree", "recipe_to_yaml"]
