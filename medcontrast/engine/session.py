"""One training session: devices, a run folder, the loop, and what is said at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from lightning_fabric import Fabric
from rich.console import Console

from medcontrast.bfloat16 import rounds_bfloat16
from medcontrast.checkpoint import BEST, RESUME
from medcontrast.cpu import cpu_facts
from medcontrast.data.fit import require_files, worth_saying
from medcontrast.engine.build import make_fabric, resolve_precision
from medcontrast.engine.loop import Trainer
from medcontrast.engine.run import Run
from medcontrast.engine.run_files import held, where_the_earlier_lies
from medcontrast.engine.stopping import StopRequest
from medcontrast.errors import CheckpointError, InputError, ManifestError
from medcontrast.gpu import gpu_facts
from medcontrast.say import quoted, say
from medcontrast.settings import AnyRecipe, PretrainRecipe

_PATIENCE_S = 5.0
"""How long a process that failed lets those that it started fail by themselves."""


def train_run(
    folder: Path,
    *,
    resume: bool,
    recipe: AnyRecipe | None = None,
    overrides: Sequence[str] = (),
    max_time_s: float | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    console: Console | None = None,
) -> str | None:
    """Trains the run in `folder` from its beginning, or from its last checkpoint.

    Args:
        folder: Made or changed by the first process before it calls this; the others open it once all have met.
        resume: Whether to go on with its last checkpoint.
        recipe: The run's, where the folder may not be there yet: in a process that is not the first.
        overrides: KEY=VALUE over the recipe of a run that is resumed; written down once it goes on.
        max_time_s: Save and stop after so many seconds.
        accelerator: auto, cpu, cuda or mps.
        devices: On this machine.
        nodes: Machines.
        console: Where progress is shown.

    Returns:
        What asked to stop, such as "SIGTERM was received", be it so late that the run is finished; None for nothing.

    Raises:
        InputError: Rows cannot be shared evenly, the run is finished, or has begun where it is not to be resumed,
            another process trains it, or devices are not there.
        CheckpointError: There is no checkpoint to resume from.
        ManifestError: Files that a resume needs are not there.
    """
    console = console or Console()
    recipe = recipe or Run.open(folder, overrides).recipe
    chosen = resolve_precision(recipe, accelerator)
    _require_even_rows(recipe, devices * nodes)
    if resume and not (folder / RESUME).is_file():
        raise CheckpointError(
            f"{folder}: nothing to resume from yet (no {RESUME}); train it again with --overwrite."
            f"{where_the_earlier_lies(folder)}"
        )
    fabric = make_fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=chosen)
    fabric.launch()
    run = Run.open(folder, overrides)
    if resume:
        _require_files(run)
    with _ending_together(fabric), _held_by_first(folder, fabric, resume), StopRequest(max_time_s) as stop:
        trainer = Trainer(run, fabric, console)
        if resume:
            trainer.resume()
            if overrides and fabric.is_global_zero:
                run.keep_recipe()
        else:
            trainer.initialise()
            if fabric.is_global_zero:
                say(console, *worth_saying(run.recipe, run.manifest))
        if fabric.is_global_zero:
            if rounds_bfloat16(chosen, fabric.device):
                say(
                    console, "This CPU does not compute in bfloat16: float32 is rounded to it, at the speed of 32-true."
                )
            run.write_facts(_facts(trainer, fabric, chosen), resumed=resume)
        trainer.fit(stop)
        if fabric.is_global_zero:
            _say_goodbye(console, run, trainer, stop)
        return stop.reason


def _require_files(run: Run) -> None:
    try:
        require_files(run.recipe, run.manifest)
    except ManifestError as error:
        advice = f"or `medcontrast train --resume {quoted(run.folder)} --set data.root=FOLDER` for this run alone"
        raise ManifestError(f"{str(error).removesuffix('.')}, {advice}.") from None


@contextmanager
def _ending_together(fabric: Fabric) -> Iterator[None]:
    """Where this process fails, those that it started do not wait for it: for half an hour, each on its device."""
    try:
        yield
    except BaseException:
        others: Sequence[Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", None) or ()
        deadline = time.monotonic() + _PATIENCE_S
        for process in others:  # what fails in all of them alike may be said by all of them
            with suppress(TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            process.kill()
        raise


@contextmanager
def _held_by_first(folder: Path, fabric: Fabric, resume: bool) -> Iterator[None]:
    """The first process holds the run for all of them; where it cannot, all of them stop."""
    with ExitStack() as stack:
        refusal = None
        if fabric.is_global_zero:
            try:
                stack.enter_context(held(folder))
            except InputError as error:
                refusal = str(error)
            else:
                if not resume and (folder / RESUME).is_file():
                    refusal = f"{folder}: this run has a checkpoint already; resume it, or make it anew."
        refusal = fabric.broadcast(refusal)
        if refusal is not None:
            raise InputError(refusal)
        yield


def _require_even_rows(recipe: AnyRecipe, processes: int) -> None:
    train = recipe.train
    for name, rows in train.streams.items():
        if rows % (processes * train.accumulate):
            raise InputError(
                f"train.{name} {rows} cannot be shared evenly by {processes} process(es) with train.accumulate "
                f"{train.accumulate}; it must be a multiple of {processes * train.accumulate}."
            )
    uneven = recipe.uneven_parts(processes) if isinstance(recipe, PretrainRecipe) else None
    if uneven is not None:
        raise InputError(f"{uneven}.")


def _facts(trainer: Trainer, fabric: Fabric, precision: str) -> dict[str, Any]:
    return {
        "device": str(fabric.device),
        **cpu_facts(),
        **gpu_facts(fabric.device),
        "processes": fabric.world_size,
        "precision": precision,
        **({"bfloat16_rounded": True} if rounds_bfloat16(precision, fabric.device) else {}),
        "student_parameters": sum(parameter.numel() for parameter in trainer.method.student.parameters()),
        "trained_parameters": sum(parameter.numel() for parameter in trainer.parameters),
        "cases": trainer.job.sizes(),
        **({} if trainer.source is None else {"init_from": trainer.source}),
    }


def _say_goodbye(console: Console, run: Run, trainer: Trainer, stop: StopRequest) -> None:
    state, total = trainer.state, run.recipe.train.steps
    if state.step < total:
        sentence = f"Stopped at step {state.step} of {total} because {stop.reason}; saved."
        say(console, f"{sentence} Go on with: medcontrast train --resume {quoted(run.folder)}")
        return
    say(console, f"Finished {total} steps in {state.seconds:.0f} s; {run.folder} holds the run.")
    if state.best_dice is not None:
        say(
            console,
            f"Best validation Dice {state.best_dice:.4f} at step {state.best_step}, in {quoted(run.folder / BEST)}; "
            "the folder as --ckpt is the last step.",
        )
    say(console, f"Next: {trainer.job.next_command(run.folder)}")
