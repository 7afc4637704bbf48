"""`medcontrast recipes`: what comes along, with what each needs, costs and gives."""

from __future__ import annotations


def recipes() -> None:
    """List the recipes that come along."""
    from rich.console import Console
    from rich.table import Column, Table

    from medcontrast.settings import load_recipe
    from medcontrast.settings.shipped import shipped_folder, shipped_recipes

    table = Table(Column("recipe", no_wrap=True), "method", "needs", "costs", "gives", show_lines=True)
    for path in shipped_recipes():
        recipe = load_recipe(path)
        name = path.relative_to(shipped_folder("recipes")).as_posix()
        table.add_row(f"recipes/{name}", recipe.method.name, recipe.about.needs, recipe.about.cost, recipe.about.gives)
    Console().print(table)
