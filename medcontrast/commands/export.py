"""`medcontrast export`: a mask for 3D Slicer, with names, colours and codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    mask: Annotated[Path, typer.Argument(help="The mask: .nii, .nii.gz, .nrrd, .mha or .mhd.")],
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The scan; the mask has to lie on its grid.")
    ] = None,
    format: Annotated[str, typer.Option("--format", help="seg.nrrd, or nii.gz with a .ctbl beside it.")] = "seg.nrrd",
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Manifest or JSON record with the label table [default: beside the mask]."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write [default: beside the mask].")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write a mask as a 3D Slicer segmentation, with the name, colour and code of each structure."""
    from medcontrast.export import export_mask

    for path in export_mask(mask, reference, labels, output, format, overwrite=overwrite):
        typer.echo(f"Wrote {path}")
