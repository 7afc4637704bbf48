"""`medcontrast evaluate`: an honest score of a checkpoint, or of anybody's masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from medcontrast.errors import InputError


def evaluate(
    checkpoints: Annotated[
        list[Path] | None, typer.Option("--ckpt", help="Run folder or checkpoint; several are averaged.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="labeled, unlabeled, validation or test, with label files; default: validation."),
    ] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="Other cases than the run's own.")] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder that the manifest's paths start from now.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option("--predictions", help="Folder of masks, by anybody.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="Folder of label files beside --predictions.")] = None,
    pool: Annotated[
        list[Path] | None,
        typer.Option("--pool", help="Evaluated run (or report.json) of one fold; repeat it, and get one score of all."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for tables, and with --ckpt a picture of the worst cases."),
    ] = None,
    tolerance_mm: Annotated[float | None, typer.Option("--tolerance-mm", help="Of the surface Dice.")] = None,
    voxels: Annotated[bool, typer.Option("--voxels", help="Distances in voxels too.")] = False,
    flips: Annotated[bool | None, typer.Option("--flips/--no-flips", help="Average mirrored versions.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="report.json of another system on the same cases, to compare with.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing evaluation.")] = False,
) -> None:
    """Score a checkpoint on a split, or masks against label files; or join the scores of folds."""
    if [bool(checkpoints), predictions is not None, bool(pool)].count(True) != 1:
        raise InputError(
            "Say what to score, and one thing alone: --ckpt RUN (with --split), or --predictions FOLDER with --labels "
            "FOLDER (or with --manifest and --split), or --pool RUN for every evaluated fold."
        )
    if tolerance_mm is not None and tolerance_mm <= 0:
        raise InputError(f"--tolerance-mm {tolerance_mm}: must be positive.")
    predicting = {"--flips": flips, "--device": device}
    listed = {"--split": split, "--root": root}
    if pool:
        measuring = {"--manifest": manifest, "--tolerance-mm": tolerance_mm, "--voxels": voxels or None}
        _refuse(
            predicting | listed | measuring | {"--labels": labels},
            "cannot go with --pool: folds are joined as they were scored",
        )
        from medcontrast.engine.pooling import pool_evaluations

        pool_evaluations(pool, output=output, against=against, overwrite=overwrite)
        return
    if predictions is not None and labels is None and (manifest is None or split is None):
        raise InputError(
            "--predictions goes with --labels, the folder of label files to score against, or with --manifest and "
            "--split, whose label files those are."
        )
    if checkpoints and labels is not None:
        raise InputError(
            "--labels goes with --predictions; a checkpoint is scored on the labels of its manifest "
            "(--manifest, --split)."
        )
    if predictions is not None:
        _refuse(predicting, "goes with --ckpt; masks of --predictions are scored as they are")
        if labels is not None:
            _refuse(listed, "goes with --ckpt, or with --predictions and no --labels: the label files are those named")

    from medcontrast.data.manifest import load_manifest
    from medcontrast.engine import scoring

    cases = load_manifest(manifest, root) if manifest is not None else None
    if predictions is not None:
        scoring.score_folders(
            predictions,
            labels or split or "",
            manifest=cases,
            output=output,
            tolerance_mm=tolerance_mm,
            voxels=voxels,
            against=against,
            overwrite=overwrite,
        )
        return
    scoring.score_checkpoints(
        checkpoints or [],
        split=split or "validation",
        manifest=cases,
        root=root,
        output=output,
        tolerance_mm=tolerance_mm,
        voxels=voxels,
        flips=flips,
        device=device,
        against=against,
        overwrite=overwrite,
    )


def _refuse(options: Mapping[str, object], why: str) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise InputError(f"{', '.join(given)} {why}.")
