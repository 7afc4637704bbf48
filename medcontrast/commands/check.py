"""`medcontrast check`: every fault of a recipe at once, without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medcontrast.data.images.manifest import ImageManifest
    from medcontrast.data.manifest import Manifest


def check(
    recipe: Annotated[Path, typer.Argument(help="The recipe file.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, as for train; repeatable.")] = None,
) -> None:
    """Check a recipe and the manifest it names; opens no scan."""
    from medcontrast.data.fit import recipe_manifest, require_fit, require_no_manifest, worth_saying
    from medcontrast.data.manifest import root_advice
    from medcontrast.settings import load_recipe
    from medcontrast.settings.shipped import find_recipe

    path = find_recipe(recipe)
    require_no_manifest(path)
    loaded = load_recipe(path, settings or ())
    manifest = recipe_manifest(loaded, path)
    require_fit(loaded, manifest, where=str(path))
    typer.echo(
        f"{path}: no faults. Method {loaded.method.name}, network {loaded.network.name}, {loaded.train.steps} steps."
    )
    typer.echo(f"{manifest.path}: {_contents(manifest)} Data folder: {manifest.root}")
    for sentence in worth_saying(loaded, manifest):
        typer.echo(sentence)
    if not manifest.root.is_dir():
        advice = root_advice(manifest.raw, loaded.data.root)
        typer.echo(f"Note: {manifest.root} is not there; before training, {advice}.")
    source = loaded.train.init_from
    if source is not None and not (path.parent / source).exists():
        typer.echo(
            f"Note: train.init_from {path.parent / source} is not there; before training, make it. The recipe needs "
            f"{loaded.about.needs}."
        )


def _contents(manifest: Manifest | ImageManifest) -> str:
    from medcontrast.data.images.manifest import ImageManifest

    if isinstance(manifest, ImageManifest):  # counting its images would open files
        sizes = ", ".join(f"{len(manifest.sources[name])} source(s) of {name} images" for name in manifest.splits())
        return f"{sizes}; {len(manifest.classes)} classes."
    sizes = ", ".join(f"{len(cases)} {name}" for name, cases in manifest.splits())
    return f"{sizes}; {manifest.labels.classes} classes."
