"""What is wrong with a recipe, as its reader says it."""

from __future__ import annotations

import pytest

from medcontrast.errors import RecipeError
from medcontrast.settings import recipe_from_tree


def faults_of(tree):
    """One sentence for every fault of a recipe that has some."""
    with pytest.raises(RecipeError, match=r"^\d+ faults? in recipe\.yaml:\n") as caught:
        recipe_from_tree(tree, where="recipe.yaml")
    lines = str(caught.value).splitlines()
    count = "1 fault" if len(lines) == 2 else f"{len(lines) - 1} faults"
    assert lines[0] == f"{count} in recipe.yaml:"
    assert all(line.startswith("  - ") for line in lines[1:])
    return [line[4:] for line in lines[1:]]


@pytest.fixture(scope="session")
def faults():
    """The function above."""
    return faults_of
