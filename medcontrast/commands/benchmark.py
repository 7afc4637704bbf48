"""`medcontrast benchmark`: a grid of methods x labeled counts x runs, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def benchmark(
    grid: Annotated[Path, typer.Argument(help="The grid file, such as recipes/benchmarks/hippocampus.yaml.")],
    results: Annotated[
        Path | None, typer.Option("--results", help="Folder of the records; default benchmarks/results/GRID.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option("--work", help="Folder of the runs; default runs/benchmarks/GRID.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run this row or cell (ROW-LABELED-RUN) alone; repeatable.")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Run nothing; make the tables from the records.")] = False,
    into: Annotated[
        Path | None, typer.Option("--into", help="A Markdown file whose marked part the table replaces.")
    ] = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", help="Save and stop after this long: 9m, 1h30m.")
    ] = None,
) -> None:
    """Run what is missing of a grid, and write its tables; start it several times to share the work."""
    from rich.console import Console

    from medcontrast.engine.benchmark.encoders import ProbeBenchmark
    from medcontrast.engine.benchmark.segmentation import SegmentationBenchmark
    from medcontrast.engine.benchmark.tables import around_table
    from medcontrast.engine.stopping import parse_duration
    from medcontrast.errors import InputError, MedcontrastError
    from medcontrast.settings.grid import GridSettings, find_grid, load_grid

    path = find_grid(grid)
    settings = load_grid(path)
    kept = results or Path("benchmarks/results") / settings.name
    runs = work or Path("runs/benchmarks") / settings.name
    chosen: SegmentationBenchmark | ProbeBenchmark = (
        SegmentationBenchmark(path, kept, runs, settings)
        if isinstance(settings, GridSettings)
        else ProbeBenchmark(path, kept, runs, settings)
    )
    every = chosen.cells()
    known = {name for cell in every for name in (cell.row, cell.name)}
    for name in only or ():
        if name not in known:
            raise InputError(
                f"--only {name}: neither a row nor a cell of {path}; its rows: {', '.join(settings.rows)}; its cells: "
                f"{every[0].name} to {every[-1].name}."
            )
    if into is not None:
        around_table(into, settings.name)  # found out now, not after hours of training
    failed: dict[str, str] = {}
    if not report:
        unfinished, failed = chosen.run(
            Console(), max_time_s=parse_duration(max_time) if max_time else None, only=only or ()
        )
        if unfinished:
            one = len(unfinished) == 1
            cells = "1 cell is" if one else f"{len(unfinished)} cells are"
            typer.echo(f"{cells} not finished; the same command goes on with {'it' if one else 'them'}.")
    typer.echo(chosen.report(into))
    if failed:
        raise MedcontrastError("Failed: " + " ".join(f"{name}: {why}" for name, why in failed.items()))
