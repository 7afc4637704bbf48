"""The recipes that come along: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from medcontrast.errors import RecipeError

_PACKAGE = Path(__file__).parent.parent
GRIDS = "benchmarks"
"""Folder of the grids, inside that of the recipes."""


def shipped_folder(name: str) -> Path:
    """Folder of `recipes` or `data_manifests`."""
    inside = _PACKAGE / "shipped" / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def find_recipe(path: Path) -> Path:
    """The file itself, else the shipped recipe of that name (`recipes/x.yaml`, `x.yaml` or `x`).

    Raises:
        RecipeError: Neither exists.
    """
    if path.exists():
        return path
    relative = Path(*path.parts[1:]) if path.parts[:1] == ("recipes",) else path
    if not path.is_absolute():
        for candidate in (relative, relative.with_name(relative.name + ".yaml")):
            if (shipped_folder("recipes") / candidate).is_file():
                return shipped_folder("recipes") / candidate
    raise RecipeError(f"{path}: there is no such recipe. `medcontrast recipes` lists those that come along.")


def shipped_recipes() -> list[Path]:
    """Every shipped recipe, found recursively, in order of name; the grids of benchmarks/ are no recipes."""
    folder = shipped_folder("recipes")
    return sorted(path for path in folder.rglob("*.yaml") if path.relative_to(folder).parts[0] != GRIDS)
