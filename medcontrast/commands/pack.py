"""`medcontrast pack`: a trained model to hand on, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    run: Annotated[Path, typer.Argument(help="The run folder; its last checkpoint is taken.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write, such as models/NAME.")],
    notes: Annotated[
        Path | None, typer.Option("--notes", help="Markdown for the card: intended use, limits, what only you know.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Cases that the card's figures come from.")] = "validation",
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder that the manifest's paths start from now.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a packed model.")] = False,
) -> None:
    """Write a run's network as a small model to hand on: float16 weights and a card with figures measured on them."""
    from medcontrast.engine.pack import pack

    pack(run, output, notes=notes, split=split, root=root, device=device, overwrite=overwrite)
