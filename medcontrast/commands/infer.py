"""`medcontrast infer`: masks on the scans' own grids, each with a record beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medcontrast.errors import InputError, MedcontrastError, lacks_memory
from medcontrast.say import say
from medcontrast.volume_names import KNOWN_SUFFIXES

if TYPE_CHECKING:  # --help answers without torch
    from rich.console import Console

    from medcontrast.inference.inputs import Scan
    from medcontrast.inference.outputs import Outputs
    from medcontrast.inference.predict import Predictor

_EXPORT_ENDINGS = {"seg.nrrd": "seg.nrrd", "nii.gz": "ctbl"}


def infer(
    inputs: Annotated[list[Path] | None, typer.Argument(help="Volumes, folders of volumes, or DICOM folders.")] = None,
    checkpoints: Annotated[
        list[Path] | None, typer.Option("--ckpt", help="Run folder or checkpoint; several are averaged.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for masks and records.")] = Path("predictions"),
    manifest: Annotated[Path | None, typer.Option("--manifest", help="Predict cases of a manifest instead.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="With --manifest: which cases; test if not said.")
    ] = None,
    flips: Annotated[bool | None, typer.Option("--flips/--no-flips", help="Average mirrored versions.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write NAME_prob.nii.gz too.")] = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Write NAME_entropy.nii.gz too.")] = False,
    export: Annotated[
        str | None, typer.Option("--export", help="seg.nrrd (3D Slicer), or nii.gz: a color table beside the mask.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
) -> None:
    """Segment scans with a trained checkpoint."""
    if bool(inputs) == (manifest is not None):
        raise InputError("Say what to segment: files or folders, or --manifest FILE with --split.")
    if split is not None and manifest is None:
        raise InputError("--split goes with --manifest: the cases of one of its splits are segmented.")
    if not checkpoints:
        raise InputError("Say with what: --ckpt RUN, a run folder or a checkpoint.")
    if output.name.endswith(KNOWN_SUFFIXES) and not output.is_dir():
        raise InputError(
            f"-o {output}: names a folder for masks and records, not a file; masks are called NAME_seg.nii.gz."
        )
    if export is not None and export not in _EXPORT_ENDINGS:
        raise InputError(f"--export {export}: expected {' or '.join(_EXPORT_ENDINGS)}.")

    from rich.console import Console

    from medcontrast.checkpoint import unfinished
    from medcontrast.inference.outputs import plan_outputs, require_outputs
    from medcontrast.inference.predict import Predictor

    overrides: dict[str, Any] = {} if flips is None else {"flips": flips}
    predictor = Predictor.load(checkpoints, device, overrides)
    console = Console()
    for member in predictor.members:
        if sentence := unfinished(member.path, member.header):
            typer.echo(f"Warning: {sentence}", err=True)
    scans = _scans(console, inputs or [], manifest, split or "test", predictor.channels)
    endings = [] if export is None else [_EXPORT_ENDINGS[export]]
    outputs = plan_outputs(scans, output, probabilities=probabilities, entropy=uncertainty, export_endings=endings)
    require_outputs(outputs, scans, overwrite=overwrite)
    _say_names(console, scans, outputs)
    failed = _predict_all(console, predictor, list(zip(scans, outputs, strict=True)), export, overwrite)
    if failed:
        # 2 says that the input is wrong: not where memory ran out, or a network's output is not finite
        kind = InputError if all(isinstance(error, InputError) for error in failed.values()) else MedcontrastError
        raise kind(f"{len(failed)} of {len(scans)} scans could not be segmented: {', '.join(failed)}.")


def _scans(
    console: Console, inputs: list[Path], manifest: Path | None, split: str, channels: Sequence[str]
) -> list[Scan]:
    from medcontrast.inference.inputs import find_scans, require_same_channels, scans_of_split

    if manifest is None:
        return find_scans(inputs, channels, lambda sentence: say(console, sentence))
    from medcontrast.data.manifest import load_manifest

    listed = load_manifest(manifest)
    require_same_channels(listed.channels, channels, manifest)
    return scans_of_split(listed, split)


def _say_names(console: Console, scans: Sequence[Scan], outputs: Sequence[Outputs]) -> None:
    from medcontrast.volume import output_stem

    for scan, planned in zip(scans, outputs, strict=True):
        if len(scan.images) == 1 and scan.name != output_stem(scan.images[0]):
            say(console, f"{scan.shown[0]} will be {planned.mask.name}.")


def _predict_all(
    console: Console,
    predictor: Predictor,
    work: Sequence[tuple[Scan, Outputs]],
    export: str | None,
    overwrite: bool,
) -> dict[str, Exception]:
    """Predicts scan after scan; a bad one is reported and the others go on. Gives the bad ones, and why, by name."""
    failed: dict[str, Exception] = {}
    with _progress(console, len(work)) as advance:
        for number, (scan, outputs) in enumerate(work, start=1):
            began = time.monotonic()
            try:
                volumes = _predict_one(predictor, scan, outputs, export, overwrite)
            except (MedcontrastError, MemoryError, OSError, RuntimeError) as error:
                failed[scan.name] = error
                reason = _reason(error).removeprefix(f"{scan.shown[0]}: ")
                typer.echo(f"[{number}/{len(work)}] {scan.shown[0]}: failed: {reason}", err=True)
            else:
                found = ", ".join(f"{name} {_size(entry)}" for name, entry in volumes.items())
                say(console, f"[{number}/{len(work)}] {outputs.mask}  {found}  {time.monotonic() - began:.1f} s")
            advance()
    return failed


def _size(volume: dict[str, float]) -> str:
    ml = volume["volume_ml"]
    figure = f"{ml:.3g}" if ml < 100 else f"{ml:.0f}"  # never 1.5e+03
    return f"{figure} ml" if volume["voxels"] else "not found"


def _predict_one(
    predictor: Predictor, scan: Scan, outputs: Outputs, export: str | None, overwrite: bool
) -> dict[str, dict[str, float]]:
    from medcontrast.export import export_mask, require_exportable
    from medcontrast.inference.outputs import write_prediction

    if export is not None:
        require_exportable(scan.images[0], export)
    prediction = predictor.predict_scan(
        scan.images,
        names=scan.shown,
        probabilities=outputs.probabilities is not None,
        entropy=outputs.entropy is not None,
    )
    for warning in prediction.grid.warnings:
        typer.echo(f"Warning: {warning}", err=True)
    write_prediction(prediction, outputs, overwrite=overwrite)
    if export is not None:
        export_mask(outputs.mask, format=export, overwrite=overwrite, tell=lambda warning: None)  # said already
    volumes: dict[str, dict[str, float]] = prediction.record["volumes"]
    return volumes


def _reason(error: Exception) -> str:
    if isinstance(error, MedcontrastError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'A file'}: {error.strerror or error}."
    if lacks_memory(error):
        return "There is not enough memory for it; try --device cpu, or a machine with more."
    raise error


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[], None]]:
    if not console.is_terminal or total == 1:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("scans"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("scans", total=total)
        yield lambda: bar.advance(task)
