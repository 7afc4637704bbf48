"""`medcontrast check`: every fault of a recipe at once, without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    recipe: Annotated[Path, typer.Argument(help="The recipe file.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, as for train; repeatable.")] = None,
) -> None:
    """Check a recipe and the manifest it names; opens no scan."""
    from medcontrast.data.fit import recipe_manifest, require_fit
    from medcontrast.settings import load_recipe
    from medcontrast.settings.shipped import find_recipe

    path = find_recipe(recipe)
    loaded = load_recipe(path, settings or ())
    manifest = recipe_manifest(loaded, path)
    require_fit(loaded, manifest, where=str(path))
    sizes = ", ".join(f"{len(cases)} {name}" for name, cases in manifest.splits())
    typer.echo(
        f"{path}: no faults. Method {loaded.method.name}, network {loaded.network.name}, {loaded.train.steps} steps."
    )
    typer.echo(f"{manifest.path}: {sizes}; {manifest.labels.classes} classes. Data folder: {manifest.root}")
    if not manifest.root.is_dir():
        typer.echo(f"Note: {manifest.root} is not there; set MEDCONTRAST_DATA or data.root before training.")
