"""`medcontrast train`: a recipe in, a run folder out."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcontrast.errors import InputError

if TYPE_CHECKING:  # the command line starts without what this imports
    from medcontrast.settings import AnyRecipe


def train(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe file; not with --resume.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Run folder; default runs/RECIPE.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with this run folder.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the recipe; repeatable.")] = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", help="Save and stop after this long: 9m, 1h30m.")
    ] = None,
    accelerator: Annotated[str, typer.Option("--accelerator", help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option("--devices", min=1, help="Devices (on CPUs: processes).")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines; start the command on each.")] = 1,
    precision: Annotated[str | None, typer.Option("--precision", help="The same as --set train.precision=.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run folder.")] = False,
) -> None:
    """Train from a recipe, or resume a run."""
    from medcontrast.engine.stopping import parse_duration

    seconds = parse_duration(max_time) if max_time is not None else None
    # into the recipe, where a resume, and a prediction on a GPU, find it
    changes = [*(settings or []), *([] if precision is None else [f"train.precision={precision}"])]
    with ExitStack() as stack:
        folder, resolved = _prepare(recipe, output, resume, changes, overwrite, stack)

        from medcontrast.engine.run_files import put_back
        from medcontrast.engine.session import train_run

        try:
            train_run(
                folder,
                resume=resume is not None,
                recipe=resolved,
                overrides=changes if resume is not None else (),
                max_time_s=seconds,
                accelerator=accelerator,
                devices=devices,
                nodes=nodes,
            )
        except BaseException:
            if overwrite and _first_process():
                put_back(folder)
            raise


def _prepare(
    recipe: Path | None,
    output: Path | None,
    resume: Path | None,
    settings: list[str],
    overwrite: bool,
    stack: ExitStack,
) -> tuple[Path, AnyRecipe]:
    """The run folder, which the first process makes and holds, and its recipe, which every process reads itself."""
    from medcontrast.data.fit import require_no_manifest
    from medcontrast.engine.run import Run
    from medcontrast.settings import load_recipe
    from medcontrast.settings.shipped import find_recipe

    if resume is not None:
        if recipe is not None or output is not None or overwrite:
            raise InputError("--resume RUN goes without a recipe, -o and --overwrite: the run folder has all of it.")
        return resume, Run.open(resume, settings).recipe
    if recipe is None:
        raise InputError("Name a recipe (`medcontrast recipes` lists them), or --resume RUN.")
    path = find_recipe(recipe)
    folder = output if output is not None else Path("runs") / path.stem
    require_no_manifest(path)
    loaded = load_recipe(path, settings)
    if _first_process():
        stack.enter_context(Run.begun(folder, loaded, path, overwrite=overwrite))
    return folder, loaded


def _first_process() -> bool:
    # several processes start this command: by Fabric, torchrun or srun, which number them in the environment
    names = ["RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"]
    if "RANK" not in os.environ:  # srun may start a torchrun a machine, whose numbers then count
        names.append("SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)
