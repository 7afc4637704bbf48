"""Tests of the benchmark: whole (a tiny grid, stopped and resumed)."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock
from tiny_grid import NAMES, edit_grid, edit_manifest, recorded

from medcontrast import checkpoint
from medcontrast.engine.benchmark import benchmark, segmentation
from medcontrast.engine.benchmark.records import Record
from medcontrast.engine.loop import Trainer
from medcontrast.engine.stopping import StopRequest
from medcontrast.errors import NonFiniteLossError, NonFiniteOutputError
from medcontrast.settings import load_recipe


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
    labels = report(targets={"front": [2], "back": [1]})
    assert labels.code == 2 and "peers/other-2-0.json: this record was scored by other labels" in labels.err
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
    assert f"{broken}: Loss is NaN at step 1." in found.out and "1 cell is not finished" in found.out
    assert "| supervised | 1 of 2 |" in found.out
    assert cli("benchmark", grid).code == 0 and recorded() == NAMES


def test_a_cell_whose_output_is_not_finite_keeps_no_other_from_its_turn(cli, grid, monkeypatch):
    score, broken = segmentation.score_checkpoints, "supervised-2-0"

    def some(checkpoints, **options):
        if checkpoints[0].name == broken:
            raise NonFiniteOutputError("case_05: its output is NaN.")
        return score(checkpoints, **options)

    monkeypatch.setattr(segmentation, "score_checkpoints", some)
    found = cli("benchmark", grid)
    assert (found.code, found.err) == (1, f"Failed: {broken}: case_05: its output is NaN.\n")
    assert recorded() == [name for name in NAMES if name != broken]


def test_a_record_keeps_the_recipe_that_was_trained(cli, grid, tiny, monkeypatch):
    """Its file may be edited while a cell trains."""
    train = benchmark.train_run

    def edited(folder, **options):
        tree = tiny.set_key(tiny.recipe_tree("supervised"), "train.optimizer.lr", 0.5)
        tiny.write_recipe(grid.parent / "supervised.yaml", tree)
        return train(folder, **options)

    trained = load_recipe(grid.parent / "supervised.yaml").train.optimizer.lr
    monkeypatch.setattr(benchmark, "train_run", edited)
    found = cli("benchmark", grid, "--only", "supervised-2-0")
    record = Record.load(Path("benchmarks/results/tiny/supervised-2-0.json"))
    assert record.recipe["train"]["optimizer"]["lr"] == trained != 0.5
    assert found.code == 2 and "this record was made with train.optimizer.lr" in found.err


def test_a_record_keeps_what_its_evaluation_warned_of_without_folders(cli, grid, monkeypatch):
    score = segmentation.score_checkpoints

    def warned(checkpoints, **options):
        report = score(checkpoints, **options)
        path = options["output"] / "evaluation.json"
        facts = json.loads(path.read_text(encoding="utf-8"))
        told = [f"{Path('data').absolute()}/images/case_05.nii: is odd.", f"cases chose {checkpoints[0]}."]
        path.write_text(json.dumps({**facts, "warnings": [*facts["warnings"], *told]}), encoding="utf-8")
        return report

    monkeypatch.setattr(segmentation, "score_checkpoints", warned)
    found = cli("benchmark", grid, "--only", "supervised-2-0")
    record = Record.load(Path("benchmarks/results/tiny/supervised-2-0.json"))
    assert record.facts["warnings"] == ["images/case_05.nii: is odd.", "cases chose its run."]
    assert "Warning: images/case_05.nii: is odd. Warning: cases chose its run." in found.out


def test_where_all_fail_the_reasons_are_what_is_said(cli, grid, monkeypatch):
    def none(folder, **_):
        raise NonFiniteLossError("Loss is NaN at step 1.")

    monkeypatch.setattr(benchmark, "train_run", none)
    found = cli("benchmark", grid, "--only", "supervised-2-0")
    assert (found.code, found.err) == (1, "Failed: supervised-2-0: Loss is NaN at step 1.\n")


def test_no_time_left_leaves_every_cell_for_later(cli, grid):
    found = cli("benchmark", grid, "--max-time", "0.001s", "--only", "supervised-2-0")
    assert found.code == 0
    assert "1 cell is not finished" in found.out and "\nNot run yet: " in found.out
    assert sorted(path.name for path in Path("benchmarks/results/tiny").iterdir()) == ["table.md"]


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


def test_faults_are_found_before_anything_is_trained(cli, grid):
    def refused(*words):
        found = cli("benchmark", grid, *words)
        assert found.code == 2 and not Path("runs").exists()
        return found.err

    page = grid.with_name("page.md")
    page.write_bytes(b"\xff\xfe")
    assert f"{page}: cannot be read (" in refused("--into", page)
    page.write_text("no place")
    assert f"{page}: has no place for the table" in refused("--into", page)
    original = grid.read_text(encoding="utf-8")
    for change, sentence in (
        ({"target": "back of it"}, "target 'back of it' is none of those of"),
        ({"split": "test"}, "the split 'test' is empty"),
        ({"labeled": [2, 400]}, "400 labeled cases are asked for"),
    ):
        edit_grid(grid, **change)
        assert sentence in refused()
        grid.write_text(original, encoding="utf-8")


def test_a_kill_between_the_two_files_of_the_last_save_is_made_up_for(cli, grid):
    """Hours and steps of the record are those of the run."""
    assert cli("benchmark", grid, "--results", "straight", "--work", "w", "--only", "supervised-2-0").code == 0
    edit_grid(grid, set=["train.steps=2", "train.save_every=1"])
    folder = Path("runs/benchmarks/tiny/supervised-2-0")
    save = checkpoint.save_resume

    class Killed(BaseException):
        pass

    def killed(path, state):
        if state["progress"]["step"] == 2:
            raise Killed
        save(path, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_resume", killed)
        with pytest.raises(Killed):
            cli("benchmark", grid, "--only", "supervised-2-0")
    assert checkpoint.read_header(folder / "last.safetensors")["step"] == 2
    found = cli("benchmark", grid, "--only", "supervised-2-0")
    assert found.code == 0 and "supervised-2-0: resuming" in found.out
    records = [Record.load(Path(place) / "supervised-2-0.json") for place in ("straight", "benchmarks/results/tiny")]
    assert records[0].scores == records[1].scores and records[1].facts["step"] == 2


def test_cases_without_a_name_have_that_of_their_file(cli, grid):
    def leave_out(content):
        for entry in (*content["labeled"], *content["unlabeled"], *content["validation"]):
            del entry["case"]

    edit_manifest(leave_out)
    found = cli("benchmark", grid, "--only", "supervised-2-0")
    assert found.code == 0, found.err
    facts = Record.load(Path("benchmarks/results/tiny/supervised-2-0.json")).facts
    assert facts["labeled_cases"] == ["case_00_0", "case_01_0"]


def test_patients_of_the_manifest_are_what_intervals_are_over(cli, grid):
    def of_one(content):
        for entry in content["validation"]:
            entry["patient"] = "someone"

    edit_manifest(of_one)
    assert cli("benchmark", grid, "--only", "supervised-2-0").code == 0
    table = Path("benchmarks/results/tiny/table.md").read_text(encoding="utf-8")
    assert "intervals over the one patient of 2 cases, which gives none" in table


def test_runs_with_one_labeled_subset_are_said(cli, grid):
    def without_labels(content):
        for entry in content["unlabeled"]:
            del entry["label"]

    sentence = (
        "has no more than 2 cases with a label file to train on, so that the 2 runs with 2 labels have one labeled"
    )
    below = "With 2 labels that is one subset: runs differ in their seeds alone."
    cells = ("--only", "supervised-2-0", "--only", "supervised-2-1")
    found = cli("benchmark", grid, *cells, "--max-time", "0.001s")
    assert sentence not in found.out
    edit_manifest(without_labels)
    found = cli("benchmark", grid, *cells)
    assert sentence in found.out, found.err
    assert below in Path("benchmarks/results/tiny/table.md").read_text(encoding="utf-8")


def test_a_manifest_without_cases_to_score_says_how_to_make_some(cli, grid):
    edit_manifest(lambda content: content.update(validation=[]))
    found = cli("benchmark", grid)
    assert found.code == 2
    assert "a grid scores validation or test cases: make some with `medcontrast data split`." in found.err


def test_an_unknown_row_is_named(cli, grid):
    found = cli("benchmark", grid, "--only", "supervised-3-0")
    assert found.code == 2
    assert "--only supervised-3-0: neither a row nor a cell of " in found.err
    assert "its cells: supervised-2-0 to full-all-0." in found.err
