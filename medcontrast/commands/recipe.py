"""`medcontrast recipe`: a first recipe for one's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcontrast.say import quoted

app = typer.Typer(help="Start a recipe from one's own data.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Start a recipe from one's own data."""


@app.command("new")
def new(
    manifest: Annotated[Path, typer.Option("--manifest", help="The manifest to train on.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Recipe to write.")],
    like: Annotated[
        Path | None, typer.Option("--like", help="Take network, method, training and views from this recipe.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Look at the training scans and write a complete recipe, each value with its reason."""
    from medcontrast.commands.progress import counting
    from medcontrast.data.images.manifest import is_image_manifest
    from medcontrast.data.manifest import load_manifest
    from medcontrast.data.propose import propose_recipe
    from medcontrast.data.recipe_page import relative_path, write_recipe
    from medcontrast.data.survey import survey
    from medcontrast.errors import ManifestError
    from medcontrast.files import require_free
    from medcontrast.settings import load_segmentation_recipe
    from medcontrast.settings.shipped import find_recipe

    require_free(output, overwrite=overwrite)
    if is_image_manifest(manifest):
        raise ManifestError(
            f"{manifest}: lists images, and a recipe is proposed for scans alone. Copy one that pre-trains "
            "(`medcontrast recipes` lists them), and set its data.manifest, data.size and data.channels."
        )
    template = load_segmentation_recipe(find_recipe(like)) if like is not None else None
    loaded = load_manifest(manifest)
    with counting("reading") as tell:
        scans = survey(loaded, tell=tell)
    proposal = propose_recipe(
        loaded,
        scans,
        manifest_path=relative_path(manifest, output),
        command=f"medcontrast train {quoted(output)} -o {quoted(Path('runs', output.stem))}",
        like=template,
    )
    write_recipe(output, proposal.recipe, proposal.reasons, looked_at=len(scans))
    recipe = proposal.recipe
    typer.echo(f"{output}: {recipe.method.name}, {recipe.network.name}, patch {'x'.join(map(str, recipe.data.patch))}.")
    dropped = proposal.reasons.get("augment.spatial.flip_axes") if like is not None else None
    if dropped is not None:
        typer.echo(f"Note: augment.spatial.flip_axes is {list(recipe.augment.spatial.flip_axes)}: {dropped}.")
    typer.echo(f"Read it, then: {recipe.about.command}")
