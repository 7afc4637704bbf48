"""`medcontrast counterfactuals`: what images would be under another scanner, or another value of any parent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medcontrast.errors import InputError


def counterfactuals(
    checkpoint: Annotated[Path, typer.Option("--ckpt", help="Run folder or checkpoint of a generator.")],
    manifest: Annotated[Path, typer.Option("--manifest", help="Manifest of images with the generator's parents.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")],
    domains: Annotated[
        list[str] | None,
        typer.Option("--domain", help="uniform (every other domain; default without --set) or a name; repeatable."),
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="PARENT=VALUE for another parent, PARENT=uniform for every category; repeatable."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="Also score the generator on this split: validation or test.")
    ] = None,
    predictor_steps: Annotated[
        int, typer.Option("--predictor-steps", min=1, help="Of the predictor that --metrics trains.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of that predictor.")] = 0,
    root: Annotated[Path | None, typer.Option("--root", help="Folder the manifest's paths start from.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write counterfactuals of training images and a manifest that pairs each with its image."""
    wanted_values = _values(values or ())
    chosen = domains or ([] if wanted_values else ["uniform"])

    from medcontrast.commands.progress import counting
    from medcontrast.data.images.manifest import load_image_manifest, require_apart
    from medcontrast.engine.generator.counterfactuals import write_counterfactuals
    from medcontrast.engine.generator.generator import actions, extrapolations, load_generator
    from medcontrast.engine.generator.metrics import SCORES, score_generator, train_predictor, write_scores
    from medcontrast.files import require_free
    from medcontrast.inference.device import resolve_device

    generator = load_generator(checkpoint, resolve_device(device))
    total = len(generator.network.state_dict())
    typer.echo(f"Loaded {generator.loaded} of {total} tensors of hvae from {generator.file}, step {generator.step}.")
    loaded = load_image_manifest(manifest, root)
    require_apart(loaded)
    wanted = actions(generator, chosen, wanted_values)
    for sentence in extrapolations(generator, wanted):
        typer.echo(f"Warning: {sentence}", err=True)
    if metrics is not None:
        if metrics not in ("validation", "test"):
            raise InputError(f"--metrics {metrics}: a generator is scored on validation or test.")
        generator.numbers(loaded.originals(metrics), loaded.classes, where=f"{loaded.path}: {metrics}")
        require_free(output / SCORES, overwrite=overwrite)
    with counting("generating") as tell:
        written = write_counterfactuals(generator, loaded, output, wanted, overwrite=overwrite, tell=tell)
    counts = ", ".join(f"{count} {name}" for name, count in written.by_domain.items())
    typer.echo(f"{written.manifest}: {written.images} training images, counterfactuals: {counts}.")
    if metrics is not None:
        predictor = train_predictor(generator, loaded, steps=predictor_steps, seed=seed, tell=typer.echo)
        with counting("scoring") as tell:
            found = score_generator(generator, predictor, loaded, metrics, wanted, tell=tell)
        write_scores(output, found, generator, loaded, metrics, predictor={"steps": predictor_steps, "seed": seed})
        _print_scores(found, metrics)
        typer.echo(f"Written to {output / SCORES}")


def _print_scores(found: dict[str, Any], split: str) -> None:
    typer.echo(f"{split}: {found['images']} images, {found['counterfactuals']} counterfactuals.")
    for kind in ("effectiveness", "preservation"):
        for name, effect in found[kind].items():
            figure = next(iter(effect))
            real = found["on_images"][name][figure]
            typer.echo(f"{kind}, {name}: {figure} {effect[figure]:.4f} (real images {real:.4f})")
    for name in ("composition", "reversibility", "reconstruction"):
        typer.echo(f"{name}: mean absolute difference {found[name]:.5f} of 1")


def _values(texts: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value or name in found:
            raise InputError(f"--set {text}: expected PARENT=VALUE, each parent once, such as --set thickness=3.")
        found[name] = value
    return found
