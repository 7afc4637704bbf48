"""Tests of grids: by hand (exact sentences), whole (every shipped grid)."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medcontrast.engine.benchmark.encoders import ProbeBenchmark
from medcontrast.engine.benchmark.segmentation import SegmentationBenchmark
from medcontrast.errors import RecipeError
from medcontrast.settings.grid import ProbeGridSettings, cells, find_grid, load_grid
from medcontrast.settings.shipped import GRIDS, shipped_folder

TREE = {
    "name": "tiny",
    "title": "Tiny",
    "manifest": "manifest.json",
    "target": "front",
    "labeled": [8, 4],
    "runs": 2,
    "baseline": "plain",
    "rows": {
        "plain": {"recipe": "a.yaml"},
        "full": {"recipe": "a.yaml", "labeled": ["all"], "runs": 1},
    },
}
SHIPPED = sorted((shipped_folder("recipes") / GRIDS).glob("*.yaml"))


def write(folder, **changes):
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**TREE, **changes}, sort_keys=False), encoding="utf-8")
    return path


def test_cells_come_by_count_then_run(tmp_path):
    names = [cell.name for cell in cells(load_grid(write(tmp_path)))]
    assert names == ["plain-8-0", "plain-8-1", "plain-4-0", "plain-4-1", "full-all-0"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"baseline": "other"}, "baseline 'other' is none of the rows plain, full"),
        ({"default": "other"}, "default 'other' is none of the rows plain, full"),
        ({"labeled": [0]}, "labeled holds numbers from 1 up and `all`, but got 0"),
        ({"labeled": []}, "labeled holds one value at least, each once, but is []"),
        ({"labeled": [8, 4, 8]}, "labeled holds one value at least, each once, but is [8, 4, 8]"),
        (
            {"rows": {"plain": {"recipe": "a.yaml", "labeled": ["all", "all"]}}},
            "rows.plain.labeled holds one value at least, each once, but is ['all', 'all']",
        ),
        (
            {"rows": {"plain": {"recipe": "a.yaml", "labeled": []}}},
            "rows.plain.labeled holds one value at least, each once, but is []",
        ),
        ({"set": {"train.steps": 9}}, "set: expected a list such as [train.steps=1000], but got {...}"),
        ({"labeled": 8}, "labeled: expected a list such as [first, second], but got 8"),
        ({"runs": 0}, "runs: input should be greater than or equal to 1, but got 0"),
        ({"titel": "x"}, "titel: unknown key; did you mean 'title'?"),
        ({"split": "labeled"}, "split: input should be 'validation' or 'test', but got 'labeled'"),
    ],
)
def test_faults(tmp_path, changes, sentence):
    with pytest.raises(RecipeError, match=r"1 fault in .*grid\.yaml") as caught:
        load_grid(write(tmp_path, **changes))
    assert str(caught.value).splitlines()[1] == f"  - {sentence}"


def test_a_date_is_no_setting_of_a_grid(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text().replace("title: Tiny", "title: 2020-01-01"))
    with pytest.raises(RecipeError, match=r"grid\.yaml: a recipe holds numbers, words, lists and yes/no alone \("):
        load_grid(path)


def test_a_grid_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="there is no such grid"):
        find_grid(tmp_path / "none.yaml")


def test_grids_are_shipped_and_found_from_anywhere(tmp_path, monkeypatch):
    assert SHIPPED
    monkeypatch.chdir(tmp_path)
    assert find_grid(Path("recipes/benchmarks") / SHIPPED[0].name).samefile(SHIPPED[0])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_cell_has_its_recipe_with_equal_steps_and_rows(path, tmp_path):
    grid = load_grid(path)
    assert grid.name == path.stem
    if isinstance(grid, ProbeGridSettings):
        encoders = ProbeBenchmark(path, tmp_path, tmp_path, grid)
        found = [encoders.recipe(cell) for cell in encoders.cells()]
        # manifests may differ in the counterfactuals that they add
        data = {recipe.data.model_copy(update={"manifest": ""}) for recipe in found}
        assert len(data) == 1
        assert len({(recipe.train.steps, recipe.train.rows, recipe.network) for recipe in found}) == 1
        return
    recipes = [SegmentationBenchmark(path, tmp_path, tmp_path, grid).recipe(cell) for cell in cells(grid)]
    assert len({(recipe.train.steps, recipe.train.labeled_rows, recipe.data.patch) for recipe in recipes}) == 1
    assert {recipe.seed for recipe in recipes} == {cell.run for cell in cells(grid)}
    assert (path.parent / grid.manifest).is_file()
