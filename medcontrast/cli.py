"""The command line: one line a command, nothing heavy imported."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

import medcontrast
from medcontrast.commands import (
    benchmark,
    check,
    counterfactuals,
    data,
    evaluate,
    export,
    infer,
    pack,
    probe,
    recipe,
    recipes,
    train,
)
from medcontrast.errors import MedcontrastError, lacks_memory

NO_MEMORY = (
    "There is not enough memory. In training try --set train.accumulate=2, fewer rows, a smaller data.patch or "
    "--set train.precision=bf16-mixed; in prediction inference.window_batch: 1 in the recipe, or --device cpu."
)

app = typer.Typer(
    name="medcontrast",
    help="Semi-supervised 3D medical segmentation: a recipe in, an honest score and a mask for 3D Slicer out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medcontrast {medcontrast.__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Semi-supervised 3D medical segmentation."""


app.command("recipes")(recipes.recipes)
app.command("check")(check.check)
app.add_typer(data.app, name="data")
app.add_typer(recipe.app, name="recipe")
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("probe")(probe.probe)
app.command("counterfactuals")(counterfactuals.counterfactuals)
app.command("benchmark")(benchmark.benchmark)
app.command("infer")(infer.infer)
app.command("export")(export.export)
app.command("pack")(pack.pack)


def main() -> None:
    """Runs a command; errors of ours become one message and exit code 1 or 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the console cannot show ends no batch
    try:
        app()
    except MedcontrastError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except Exception as error:
        if not lacks_memory(error):
            raise
        sys.stderr.write(f"{NO_MEMORY}\n")
        sys.exit(MedcontrastError.exit_code)
