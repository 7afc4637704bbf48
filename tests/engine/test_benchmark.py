"""Tests of the benchmark: whole (a tiny grid, stopped and resumed)."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from medcontrast import checkpoint
from medcontrast.engine.benchmark import benchmark
from medcontrast.engine.benchmark.records import Record
from medcontrast.engine.loop import Trainer
from medcontrast.engine.stopping import StopRequest
from medcontrast.errors import NonFiniteLossError


@pytest.fixture
def grid(tiny, tmp_path, monkeypatch):
    """A grid of two methods and full supervision on tiny scans; the current folder is its own."""
    monkeypatch.chdir(tmp_path)
    tiny.write_data(tmp_path / "data", labeled=2, unlabeled=3, validation=2)
    for method in ("supervised", "mean_teacher"):
        tiny.write_recipe(tmp_path / f"{method}.yaml", tiny.recipe_tree(method))
    tree = {
        "name": "tiny",
        "title": "Tiny grid",
        "manifest": "data/manifest.json",
        "target": "front",
        "labeled": [2],
        "runs": 2,
        "set": ["train.steps=2"],
        "baseline": "supervised",
        "default": "mean_teacher",
        "rows": {
            "supervised": {"recipe": "supervised.yaml"},
            "mean_teacher": {"recipe": "mean_teacher.yaml", "runs": 1},
            "full": {"recipe": "supervised.yaml", "labeled": ["all"], "runs": 1},
        },
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


NAMES = ["full-all-0", "mean_teacher-2-0", "supervised-2-0", "supervised-2-1"]


def recorded():
    return sorted(path.stem for path in Path("benchmarks/results/tiny").glob("*.json"))


def test_a_grid_runs_to_its_tables_and_again_from_records_alone(cli, grid):
    found = cli("benchmark", grid)
    assert found.code == 0, found.err
    assert recorded() == NAMES
    results = Path("benchmarks/results/tiny")
    table = (results / "table.md").read_text(encoding="utf-8")
    assert (results / "picture.png").read_bytes()[:4] == b"\x89PNG"
    first = Record.load(results / "supervised-2-0.json")
    assert first.facts["labeled_cases"] == ["case_00", "case_01"]
    assert first.facts["step"] == 2
    assert first.cases == ["case_05", "case_06"]
    assert Record.load(results / "full-all-0.json").facts["unlabeled"] == 0
    assert Record.load(results / "supervised-2-1.json").recipe["seed"] == 1
    for path in Path("runs").rglob("*.pt"):
        path.unlink()
    again = cli("benchmark", grid, "--report")
    assert again.code == 0
    assert (results / "table.md").read_text(encoding="utf-8") == table


def test_a_peer_is_held_to_the_same_labels_and_cases(cli, grid):
    """Its record names the labeled cases of the run and the cases that it was scored on."""
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    results = Path("benchmarks/results/tiny")
    own = Record.load(results / "supervised-2-0.json")
    facts = {**own.facts, "peer": {"name": "Other", "version": "2.0"}}

    def report(**changes):
        peer = dataclasses.replace(own, row="other", facts={**facts, **changes})
        peer.save(results / "peers" / "other-2-0.json")
        return cli("benchmark", grid, "--report")

    assert report().code == 0 and "| other (peer) | 1 |" in (results / "table.md").read_text(encoding="utf-8")
    strange = report(labeled_cases=["case_00", "case_02"])
    assert strange.code == 2 and "peers/other-2-0.json: this record has other labeled cases" in strange.err
    split = report(split="test")
    assert split.code == 2 and "peers/other-2-0.json" in split.err and "split" in split.err


def test_a_grid_in_parts_shows_gaps_and_ends_in_the_same_records(cli, grid):
    assert cli("benchmark", grid, "--results", "straight", "--work", "w1").code == 0
    assert cli("benchmark", grid, "--only", "supervised-2-0", "--only", "full").code == 0
    assert recorded() == ["full-all-0", "supervised-2-0"]
    table = Path("benchmarks/results/tiny/table.md").read_text(encoding="utf-8")
    assert "| supervised | 1 of 2 |" in table
    assert "\n\nNot run yet: mean_teacher with 2 labels.\n\n" in table
    assert cli("benchmark", grid).code == 0
    assert recorded() == NAMES
    for name in NAMES:
        ours, theirs = (
            Record.load(Path(folder) / f"{name}.json") for folder in ("benchmarks/results/tiny", "straight")
        )
        assert (ours.scores, ours.recipe_hash) == (theirs.scores, theirs.recipe_hash)


def without_times(path):
    """A record, and how many parts its training was made in."""
    record = Record.load(path)
    facts = {key: value for key, value in record.facts.items() if key not in ("train_seconds", "written", "earlier")}
    return dataclasses.replace(record, facts=facts), 1 + len(record.facts.get("earlier", ()))


def test_a_cell_stopped_in_mid_training_goes_on_to_the_same_record(cli, grid, monkeypatch):
    assert cli("benchmark", grid, "--only", "supervised-2-0", "--results", "straight", "--work", "w1").code == 0
    last = Path("runs/benchmarks/tiny/supervised-2-0/last.pt")
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "due", lambda stop: True)
        stopped = cli("benchmark", grid, "--only", "supervised")
    assert "supervised-2-0: training" in stopped.out
    assert "2 cells are not finished; the same command goes on with them." in stopped.out
    assert checkpoint.load_resume(last)["progress"]["step"] == 1
    assert recorded() == [] and not Path("runs/benchmarks/tiny/supervised-2-1").exists()
    again = cli("benchmark", grid, "--only", "supervised-2-0")
    assert again.code == 0 and "supervised-2-0: resuming" in again.out
    (ours, parts), (theirs, one) = (
        without_times(Path(folder) / "supervised-2-0.json") for folder in ("benchmarks/results/tiny", "straight")
    )
    assert ours == theirs and (parts, one) == (2, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_cells_last_save_keeps_its_record_and_ends_the_grid(cli, grid, monkeypatch, number):
    save = Trainer.save

    def interrupted(trainer):
        save(trainer)
        if trainer.state.step == trainer.run.recipe.train.steps:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Trainer, "save", interrupted)
    found = cli("benchmark", grid)
    assert found.code == 0
    assert recorded() == ["supervised-2-0"]
    assert f"The grid ends here because {number.name} was received." in found.out
    assert "3 cells are not finished; the same command goes on with them." in found.out


def test_a_time_limit_in_a_cells_last_step_keeps_its_record_and_ends_the_grid(cli, grid, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    save = Trainer.save

    def late(trainer):
        save(trainer)
        if trainer.state.step == trainer.run.recipe.train.steps:
            monkeypatch.setattr(time, "monotonic", lambda: 61.0)

    monkeypatch.setattr(Trainer, "save", late)
    found = cli("benchmark", grid, "--max-time", "60s")
    assert found.code == 0
    assert recorded() == ["supervised-2-0"]
    assert "3 cells are not finished; the same command goes on with them." in found.out


def test_a_cell_whose_loss_is_not_finite_keeps_no_other_from_its_turn(cli, grid, monkeypatch):
    train, broken = benchmark.train_run, "supervised-2-0"

    def some(folder, **options):
        if folder.name == broken:
            raise NonFiniteLossError("Loss is NaN at step 1.")
        return train(folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "train_run", some)
        found = cli("benchmark", grid)
    assert (found.code, found.err) == (1, f"Failed: {broken}: Loss is NaN at step 1.\n")
    assert recorded() == [name for name in NAMES if name != broken]
    assert f"{broken}: Loss is NaN at step 1." in found.out and "1 cells are not finished" in found.out
    assert "| supervised | 1 of 2 |" in found.out
    assert cli("benchmark", grid).code == 0 and recorded() == NAMES


def test_no_time_left_leaves_every_cell_for_later(cli, grid):
    found = cli("benchmark", grid, "--max-time", "0.001s", "--only", "supervised-2-0")
    assert found.code == 2
    assert "there is no record yet" in found.err
    assert "1 cells are not finished" in found.out


def test_a_cell_of_another_process_is_left_alone(cli, grid):
    work = Path("runs/benchmarks/tiny")
    work.mkdir(parents=True)
    with FileLock(work / "supervised-2-0.lock"):
        found = cli("benchmark", grid, "--only", "supervised-2-0", "--only", "supervised-2-1")
    assert "supervised-2-0: another process works on it." in found.out
    assert recorded() == ["supervised-2-1"]


def test_a_folder_of_runs_that_cannot_be_made_is_a_sentence(cli, grid):
    Path("file").touch()
    found = cli("benchmark", grid, "--work", "file/runs")
    assert (found.code, found.err) == (2, "file/runs: cannot be written (Not a directory).\n")


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


def edit_grid(grid, **keys):
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    grid.write_text(yaml.safe_dump({**content, **keys}, sort_keys=False), encoding="utf-8")


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


def edit_manifest(change):
    path = Path("data/manifest.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


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


def test_cases_without_a_name_have_that_of_their_file(cli, grid):
    def leave_out(content):
        for entry in (*content["labeled"], *content["unlabeled"], *content["validation"]):
            del entry["case"]

    edit_manifest(leave_out)
    found = cli("benchmark", grid, "--only", "supervised-2-0")
    assert found.code == 0, found.err
    facts = Record.load(Path("benchmarks/results/tiny/supervised-2-0.json")).facts
    assert facts["labeled_cases"] == ["case_00_0", "case_01_0"]


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


def test_an_unknown_row_is_named(cli, grid):
    found = cli("benchmark", grid, "--only", "other")
    assert found.code == 2
    assert "--only other: neither a row nor a cell" in found.err
