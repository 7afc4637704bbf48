"""Which setting tells two recipes apart, and a tree of settings by dotted keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from medcontrast.errors import RecipeError
from medcontrast.settings.load import recipe_from_tree

_ABSENT = object()


class Difference(NamedTuple):
    """One setting with two values, each as it may be shown.

    Attributes:
        key: With dots, such as "train.optimizer.lr".
        old: In the older recipe; "nothing" where it is not there.
        new: In the newer one.
    """

    key: str
    old: str
    new: str


def first_difference(
    old: dict[str, Any], new: dict[str, Any], *, free: Callable[[str], bool] = lambda key: False
) -> Difference | None:
    """The first setting, by name, in which two recipes differ; what `about` says never counts.

    Settings that came into being after the older tree was written stand at their defaults in it, as far as the recipe
    still loads: a default is what was there before.

    Args:
        old: A plain tree, perhaps by an earlier version.
        new: A resolved recipe as a plain tree, every default written out.
        free: Which keys, with dots, may differ.
    """
    return tree_difference(_with_defaults(old), new, free=lambda key: key == "about" or free(key))


def _with_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    try:
        return recipe_from_tree(tree, where="an earlier recipe").model_dump(mode="json")
    except RecipeError:  # a setting of it is gone since, which is then a difference
        return tree


def tree_difference(
    old: dict[str, Any], new: dict[str, Any], *, free: Callable[[str], bool], prefix: str = ""
) -> Difference | None:
    """The first place, by name, in which two plain trees differ.

    Args:
        old: A tree of dicts.
        new: Another.
        free: Which keys, with dots, may differ.
        prefix: Of all keys, as far as they are shown and asked for in `free`.
    """
    for key in sorted(old.keys() | new.keys()):
        name, one, other = prefix + key, old.get(key, _ABSENT), new.get(key, _ABSENT)
        if free(name) or one == other:
            continue
        if not (isinstance(one, dict) and isinstance(other, dict)):
            return Difference(name, _shown(one), _shown(other))
        found = tree_difference(one, other, free=free, prefix=f"{name}.")
        if found is not None:
            return found
    return None


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT or value is None else str(value)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of dicts as one dict with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
