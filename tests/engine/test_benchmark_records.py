"""Tests of what the records and runs of a grid are held to: whole (a tiny grid whose files were changed)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_grid import edit_grid, edit_manifest, recorded

from medcontrast.engine.benchmark.records import Record


def test_a_record_of_another_recipe_is_refused(cli, grid):
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    grid.write_text(grid.read_text(encoding="utf-8").replace("train.steps=2", "train.steps=3"), encoding="utf-8")
    found = cli("benchmark", grid, "--report")
    assert found.code == 2
    assert "this record was made with train.steps 2, but the grid now asks for 3" in found.err


def test_a_grid_that_names_a_precision_refuses_records_of_another(cli, grid):
    edit_grid(grid, set=["train.steps=2", "train.precision=32-true"])
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    for items, code in (([], 0), (["train.precision=auto"], 0), (["train.precision=bf16-mixed"], 2)):
        edit_grid(grid, set=["train.steps=2", *items])
        found = cli("benchmark", grid, "--report")
        assert found.code == code
    assert "this record was made with train.precision 32-true, but the grid now asks for bf16-mixed" in found.err


def test_what_the_device_chose_counts_as_the_precision_of_a_record(cli, grid):
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    chosen = json.loads(Path("benchmarks/results/tiny/supervised-2-0.json").read_text(encoding="utf-8"))["facts"]
    edit_grid(grid, set=["train.steps=2", f"train.precision={chosen['precision']}"])
    assert cli("benchmark", grid, "--report").code == 0


def test_a_run_of_another_recipe_is_not_recorded_as_this_one(cli, grid):
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    record = Path("benchmarks/results/tiny/supervised-2-0.json")
    record.unlink()
    for items, key, old, new in (
        (["train.steps=3"], "train.steps", 2, 3),
        (["train.steps=2", "train.optimizer.lr=0.5"], "train.optimizer.lr", 0.002, 0.5),
    ):
        edit_grid(grid, set=items)
        found = cli("benchmark", grid, "--only", "supervised-2-0")
        assert found.code == 2 and not record.exists()
        sentence = (
            f"this run was made with {key} {old}, but the grid now asks for {new}. Delete the folder to run its cell"
        )
        assert sentence in found.err.replace("\n", " ")
    edit_grid(grid, set=["train.steps=2"])
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0 and record.exists()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("scored", lambda content: content["validation"].pop()),
        ("labeled", lambda content: content["labeled"].__setitem__(0, content["unlabeled"].pop())),
    ],
)
def test_a_record_of_other_cases_than_the_manifest_now_names_is_refused(cli, grid, kind, change):
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    edit_manifest(lambda content: content["unlabeled"].reverse())
    assert cli("benchmark", grid, "--report").code == 0  # the same labeled and scored cases
    edit_manifest(change)
    found = cli("benchmark", grid, "--report")
    assert found.code == 2
    assert f"this record has other {kind} cases than" in found.err.replace("\n", " ")


def test_a_record_of_another_number_of_unlabeled_cases_is_refused(cli, grid):
    assert cli("benchmark", grid, "--only", "supervised-2-0", "--only", "mean_teacher").code == 0
    edit_manifest(lambda content: content["unlabeled"].pop())
    found = cli("benchmark", grid, "--report")
    assert found.code == 2
    assert "mean_teacher-2-0.json: this record was made with 3 unlabeled cases, but" in found.err
    assert "data/manifest.json now has 2. Delete it to run its cell again" in found.err
    Path("benchmarks/results/tiny/mean_teacher-2-0.json").unlink()
    assert cli("benchmark", grid, "--report").code == 0  # the supervised row learns from none


def test_a_record_of_other_unlabeled_cases_of_that_number_is_refused(cli, grid):
    assert cli("benchmark", grid, "--only", "supervised-2-0", "--only", "mean_teacher").code == 0

    def exchanged(content):
        content["unlabeled"][0]["case"] = "another"

    edit_manifest(exchanged)
    found = cli("benchmark", grid, "--report")
    assert found.code == 2
    assert "mean_teacher-2-0.json: this record has other unlabeled cases than" in found.err
    Path("benchmarks/results/tiny/mean_teacher-2-0.json").unlink()
    assert cli("benchmark", grid, "--report").code == 0  # the supervised row learns from none


def renamed(content):
    content["labels"]["1"] = "head"


def exchanged_names(content):
    content["labels"]["1"], content["labels"]["2"] = content["labels"]["2"], content["labels"]["1"]


def another_region(content):
    content["regions"] = {"whole": [1]}


@pytest.mark.parametrize("command", ["--report", "--only=supervised-2-1"])
@pytest.mark.parametrize("change", [renamed, exchanged_names, another_region])
def test_a_record_of_other_labels_or_regions_is_refused(cli, grid, change, command):
    edit_manifest(lambda content: content.update(regions={"whole": [1, 2]}))
    edit_grid(grid, target="whole")
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    edit_manifest(change)
    found = cli("benchmark", grid, command)
    assert found.code == 2 and recorded() == ["supervised-2-0"]
    assert "supervised-2-0.json: this record was scored by other labels or regions than" in found.err


def test_a_stale_record_is_told_of_before_another_cell_is_trained(cli, grid):
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    edit_grid(grid, set=["train.steps=3"])
    found = cli("benchmark", grid, "--only", "full")
    assert found.code == 2 and recorded() == ["supervised-2-0"]
    assert "this record was made with train.steps 2, but the grid now asks for 3" in found.err.replace("\n", " ")


def test_a_cell_of_a_start_that_was_trained_anew_is_refused(cli, grid, tiny):
    """Rows that are compared start from the same weights."""
    tiny.train(tiny.make_run(grid.parent, tiny.recipe_tree(steps=1), name="start"))
    weights = grid.parent / "start" / "last.safetensors"
    edit_grid(grid, set=["train.steps=2", "train.init_from=start"])
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    other = tiny.make_run(grid.parent, tiny.recipe_tree(steps=2), name="other")
    tiny.train(other)
    weights.write_bytes((other.folder / "last.safetensors").read_bytes())
    found = cli("benchmark", grid, "--only", "supervised-2-1")
    assert found.code == 2 and recorded() == ["supervised-2-0"]
    assert "start was trained anew: supervised-2-1 starts from other weights of it" in found.err.replace("\n", " ")


def test_paths_of_a_grid_start_from_its_file(cli, grid, tiny, tmp_path, monkeypatch):
    """The same records hold in every clone, from whatever folder the command is started."""
    tiny.train(tiny.make_run(grid.parent, tiny.recipe_tree(steps=1), name="start"))
    edit_grid(grid, set=["train.steps=2", "train.init_from=start"])
    (grid.parent / "recipes").mkdir()
    tree = tiny.set_key(tiny.recipe_tree("supervised"), "data.manifest", "../data/manifest.json")
    tiny.write_recipe(grid.parent / "recipes" / "supervised.yaml", tree)
    rows = {"supervised": {"recipe": "recipes/supervised.yaml"}}
    edit_grid(grid, rows=rows, baseline="supervised", default="supervised", runs=1)
    found = cli("benchmark", grid)
    assert found.code == 0, found.err
    record = Record.load(Path("benchmarks/results/tiny/supervised-2-0.json"))
    assert record.recipe["train"]["init_from"] == "../start"
    results = Path("benchmarks/results/tiny").absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = cli("benchmark", grid, "--report", "--results", results)
    assert again.code == 0, again.err


def test_a_run_that_has_begun_is_judged_by_the_weights_it_began_with(cli, grid, tiny):
    """What lies in the place of its start by now does not matter to it."""
    tiny.train(tiny.make_run(grid.parent, tiny.recipe_tree(steps=1), name="start"))
    edit_grid(grid, set=["train.steps=2", "train.init_from=start"])
    assert cli("benchmark", grid, "--only", "supervised").code == 0
    Path("benchmarks/results/tiny/supervised-2-1.json").unlink()
    other = tiny.make_run(grid.parent, tiny.recipe_tree(steps=2), name="other")
    tiny.train(other)
    weights = grid.parent / "start" / "last.safetensors"
    weights.write_bytes((other.folder / "last.safetensors").read_bytes())
    again = cli("benchmark", grid, "--only", "supervised-2-1")
    assert again.code == 0 and recorded() == ["supervised-2-0", "supervised-2-1"], again.err


def test_one_word_in_two_folders_is_two_starts(cli, grid, tiny):
    recipes = {}
    for name, steps in (("supervised", 1), ("mean_teacher", 2)):
        tiny.train(tiny.make_run(grid.parent, tiny.recipe_tree(steps=steps), name=f"{name}_start"))
        folder = grid.parent / name
        folder.mkdir()
        (grid.parent / f"{name}_start").rename(folder / "start")
        tiny.write_recipe(folder / "r.yaml", tiny.set_key(tiny.recipe_tree(name), "train.init_from", "start"))
        recipes[name] = {"recipe": f"{name}/r.yaml", "runs": 1}
    edit_grid(grid, rows=recipes)
    found = cli("benchmark", grid)
    assert found.code == 0 and recorded() == ["mean_teacher-2-0", "supervised-2-0"], found.err


def test_a_record_of_another_split_is_refused(cli, grid):
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    edit_manifest(lambda content: content.update(test=content["validation"], validation=[]))
    edit_grid(grid, split="test")
    found = cli("benchmark", grid, "--report")
    assert found.code == 2
    assert "this record is of split validation, but the grid now asks for test" in found.err.replace("\n", " ")


def test_a_run_of_other_cases_is_not_gone_on_with(cli, grid):
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    Path("benchmarks/results/tiny/supervised-2-0.json").unlink()
    edit_manifest(lambda content: content["validation"].pop())
    found = cli("benchmark", grid, "--only", "supervised-2-0")
    assert found.code == 2
    assert "this run was made with validation" in found.err.replace("\n", " ")


def test_a_damaged_record_is_named(cli, grid):
    results = Path("benchmarks/results/tiny")
    results.mkdir(parents=True)
    (results / "supervised-2-0.json").write_text("{}", encoding="utf-8")
    found = cli("benchmark", grid, "--report")
    assert found.code == 2
    assert "supervised-2-0.json: not a benchmark record" in found.err
