"""Tests of the documentation: every function, file and setting that it names is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from medcontrast import losses
from medcontrast.settings import load_recipe
from medcontrast.settings.grid import cells, load_grid
from medcontrast.settings.shipped import shipped_recipes

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "medcontrast"
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
ROOMS = {path.stem for path in PACKAGE.iterdir()}
METHODS = [importlib.import_module(f"medcontrast.methods.{path.stem}") for path in (PACKAGE / "methods").glob("*.py")]


def keys_of(tree, prefix=""):
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


@pytest.fixture(scope="module")
def settings():
    """Every key of every shipped recipe."""
    return {key for path in shipped_recipes() for key in keys_of(load_recipe(path).model_dump())}


def found(name):
    """Whether a dotted name leads to a module, to something in one, or to something of a method's class."""
    first, _, rest = name.partition(".")
    if first[:1].isupper():
        return any(hasattr(getattr(module, first, None), rest) for module in METHODS)
    parts = f"medcontrast.{name}".split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_is_there(page, settings):
    named = set(re.findall(r"`([A-Za-z_][\w./]*)`", page.read_text(encoding="utf-8")))
    files = {name for name in named if name.endswith(".py")}
    places = {name: (PACKAGE / name, ROOT / name) for name in files}
    assert [name for name, each in places.items() if not any(place.is_file() for place in each)] == []
    known = settings | {key.removeprefix("method.") for key in settings}
    tops = {key.split(".")[0] for key in known}
    dotted = {name for name in named - files if "." in name and "/" not in name}
    looked_at = {name for name in dotted if name.split(".")[0] in ROOMS | tops or name[:1].isupper()}
    assert sorted(name for name in looked_at - known if not found(name)) == []


def test_a_name_that_is_nowhere_is_noticed():
    assert found("networks.ema.update_teacher") and found("methods.fba_net.FBANet.losses")
    assert not found("networks.ema.update_student") and not found("engine.nowhere.thing")


def test_the_example_of_the_library_runs_as_it_stands(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"), re.S)
    names = {}
    exec(compile(example, "library.md", "exec"), names)
    assert len(re.findall(r"step \d: supervised \d\.\d{3}, consistency 0\.\d{4}", capsys.readouterr().out)) == 3
    student, teacher = (list(names[name].parameters()) for name in ("student", "teacher"))
    assert all(parameter.grad is not None for parameter in student)
    assert not any(parameter.requires_grad for parameter in teacher)
    assert any(not torch.equal(one, other) for one, other in zip(student, teacher, strict=True))


def test_the_example_of_a_grid_is_one(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "mine.yaml").write_text(example, encoding="utf-8")
    grid = load_grid(tmp_path / "mine.yaml")
    names = {"supervised.yaml": "hippocampus_supervised_8.yaml", "fba_net.yaml": "hippocampus_fbanet_8.yaml"}
    for row in grid.rows.values():
        recipe = load_recipe(ROOT / "recipes" / names[row.recipe], [*grid.set, *row.set])
        assert recipe.train.steps == 1000
    assert [cell.name for cell in cells(grid)][-1] == "full-all-0" and len(cells(grid)) == 8


def test_the_library_page_names_every_loss():
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    assert [name for name in losses.__all__ if name.islower() and f"`losses.{name}`" not in page] == []
