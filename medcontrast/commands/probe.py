"""`medcontrast probe`: what a pre-trained encoder is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcontrast.errors import InputError


def probe(
    checkpoint: Annotated[Path, typer.Option("--ckpt", help="Run folder or checkpoint of a pre-training run.")],
    manifest: Annotated[Path | None, typer.Option("--manifest", help="Other images than the run's own.")] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder that the manifest's paths start from now.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; default RUN/probe_SPLIT.")] = None,
    split: Annotated[str, typer.Option("--split", help="Scored: test or validation.")] = "test",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Subsets of labels and fine-tunings.")] = 3,
    fractions: Annotated[str, typer.Option("--fractions", help="Shares of the labels.")] = "0.01,0.05,0.1,0.25,1",
    finetune: Annotated[bool, typer.Option("--finetune/--no-finetune", help="Train the encoder too.")] = True,
    finetune_steps: Annotated[int, typer.Option("--finetune-steps", min=1, help="The same for every share.")] = 300,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Probe fresh weights too.")] = False,
    group_by: Annotated[
        list[str] | None, typer.Option("--group-by", help="Attribute to group by too, such as sex; repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier probe.")] = False,
) -> None:
    """Score a pre-trained encoder: neighbours, linear probe and fine-tuning with few and all labels."""
    shares = _shares(fractions)

    from medcontrast.engine.probe.run import ProbeRequest, probe_checkpoint

    probe_checkpoint(
        checkpoint,
        ProbeRequest(split, seeds, shares, finetune_steps if finetune else None, from_scratch, tuple(group_by or ())),
        manifest_path=manifest,
        root=root,
        output=output,
        device=device,
        overwrite=overwrite,
    )


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = sorted({float(part) for part in text.split(",")})
    except ValueError:
        shares = []
    if not shares or not all(0.0 < share <= 1.0 for share in shares):
        raise InputError(f"--fractions {text}: expected shares above 0 and at most 1, such as 0.01,0.1,1.")
    return tuple(shares)
