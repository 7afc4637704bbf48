"""`medcontrast recipes`: what comes along, with what each needs, costs and gives."""

from __future__ import annotations

from typing import Annotated

import typer


def recipes(
    words: Annotated[
        list[str] | None, typer.Argument(help="Only recipes whose file or method has one of these in its name.")
    ] = None,
) -> None:
    """List the recipes that come along."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from medcontrast.errors import InputError
    from medcontrast.settings import load_recipe
    from medcontrast.settings.shipped import shipped_folder, shipped_recipes

    console, shown = Console(), 0
    for path in shipped_recipes():
        recipe, name = load_recipe(path), path.relative_to(shipped_folder("recipes")).as_posix()
        if words and not any(word in name or word in recipe.method.name for word in words):
            continue
        lines = Table.grid(padding=(0, 2))
        for what, said in (("needs", recipe.about.needs), ("costs", recipe.about.cost), ("gives", recipe.about.gives)):
            lines.add_row(what, Text(said))
        console.print(f"recipes/{name}  ({recipe.method.name})", highlight=False, markup=False)
        console.print(Padding(lines, (0, 0, 1, 4)), highlight=False)
        shown += 1
    if not shown:
        raise InputError(f"No recipe has {' or '.join(words or [])} in its name; `medcontrast recipes` lists them all.")
