"""Tests of the benchmark: whole (a tiny grid, stopped and resumed), by hand (tables of known records)."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from medcontrast.engine.benchmark_report import write_report
from medcontrast.engine.records import METRICS, Record
from medcontrast.errors import InputError
from medcontrast.settings.grid import load_grid


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


def test_a_stopped_grid_shows_gaps_and_goes_on_to_the_same_records(cli, grid, tmp_path):
    assert cli("benchmark", grid, "--results", "straight", "--work", "w1").code == 0
    stopped = cli("benchmark", grid, "--only", "supervised-2-0", "--only", "full")
    assert "2 cells are not finished" not in stopped.out
    assert recorded() == ["full-all-0", "supervised-2-0"]
    table = Path("benchmarks/results/tiny/table.md").read_text(encoding="utf-8")
    assert "| supervised | 1 of 2 |" in table
    assert "| mean_teacher | 0 of 1 | - |" in table
    assert cli("benchmark", grid).code == 0
    assert recorded() == NAMES
    for name in NAMES:
        ours, theirs = (
            Record.load(Path(folder) / f"{name}.json") for folder in ("benchmarks/results/tiny", "straight")
        )
        assert (ours.scores, ours.recipe_hash) == (theirs.scores, theirs.recipe_hash)


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


INFERENCE = {"overlap": 0.5, "weighting": "gaussian", "flips": True, "largest_component": "none"}


def make(row, run, dice, labeled=2, missed=0.0, targets=("front",), **inference):
    cases = [f"c{number}" for number in range(len(dice))]
    figures = {metric: [1.0] * len(dice) for metric in METRICS} | {"dice": dice, "missed": [missed] * len(dice)}
    facts = {"split": "validation", "step": 2, "trained_parameters": 1_500_000, "train_seconds": 1800}
    facts |= {"versions": {"torch": "9.9"}, "device": "cpu", "precision": "32-true"}
    recipe = {"network": {"name": "unet"}, "inference": {**INFERENCE, **inference}}
    return Record(row, labeled, run, recipe, "", cases, dict.fromkeys(targets, figures), facts)


def test_the_table_by_hand(grid, tmp_path):
    settings = load_grid(grid)
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6, 0.7]),
        "supervised-2-1": make("supervised", 1, [0.7, 0.8, 0.9], missed=1.0),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7, 0.8]),
        "full-all-0": make("full", 0, [0.8, 0.8, 0.8], labeled="all"),
    }
    text = write_report(settings, records, tmp_path / "out")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| supervised", "| mean_teacher"))]
    assert [row[1] for row in rows] == ["2", "1"]
    assert rows[0][2].startswith("0.7000 (0.6000 to 0.8000)")
    assert [row[3] for row in rows] == ["0.1414", "-"]
    assert [row[4] for row in rows] == ["87.5 %", "87.5 %"]
    assert [row[8] for row in rows] == ["3", "0"]
    assert rows[1][9].startswith("+0.1000 (+0.1000 to +0.1000), p 0.250")  # paired over run 0 alone
    assert rows[0][10].startswith("-0.1000")
    assert [row[11] for row in rows] == ["1.50 M", "1.50 M"]
    assert (
        "Conditions: network unet; overlap of windows 0.5; their weights gaussian; mirrored versions averaged yes;"
        in text
    )
    table = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["figure"] for row in table} >= {"dice", "hd95_pooled_mm"}
    assert next(row for row in table if row["row"] == "full" and row["figure"] == "dice")["mean"] == "0.8"


def test_a_miss_counts_once_and_conditions_in_which_rows_differ_are_said(grid, tmp_path):
    """The region `whole` is missed where its only part is; that is one structure."""
    settings = load_grid(grid)
    targets = ("front", "whole")
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6], missed=1.0, targets=targets),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7], targets=targets, largest_component="each"),
    }
    text = write_report(settings, records, tmp_path / "out", structures=["front"])
    row = next(line.split(" | ") for line in text.splitlines() if line.startswith("| supervised"))
    heads = next(line.split(" | ") for line in text.splitlines() if line.startswith("| row"))
    assert row[heads.index("missed")] == "2"
    assert "largest component kept none (supervised), each (mean_teacher);" in text


def test_records_of_other_cases_are_not_compared(grid, tmp_path):
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6]),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7, 0.8]),
    }
    with pytest.raises(InputError, match="mean_teacher-2-0 and supervised-2-0 hold other cases"):
        write_report(load_grid(grid), records, tmp_path / "out")


def save_peer(folder, row, run, dice, labeled=2, **facts):
    record = make(row, run, dice, labeled)
    facts = {**record.facts, "peer": {"name": "Other", "version": "2.0"}, "notes": ["as released"], "step": 9, **facts}
    dataclasses.replace(record, facts=facts).save(folder / "peers" / f"{row}-{labeled}-{run}.json")


def test_peers_stand_beside_the_rows_and_change_none_of_them(grid, tmp_path):
    settings, out = load_grid(grid), tmp_path / "out"
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6, 0.7]),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7, 0.8]),
    }
    alone = write_report(settings, records, out).splitlines()
    save_peer(out, "other_mt", 1, [0.7, 0.8, 0.9])
    save_peer(out, "other_mt", 0, [0.4, 0.5, 0.6])
    save_peer(out, "supervised", 0, [1.0, 1.0, 1.0], labeled="all")
    lines = write_report(settings, records, out).splitlines()
    rows = {line.split(" | ")[0]: line.split(" | ") for line in lines if line.startswith("| ")}
    assert rows["| other_mt (peer)"][1] == "2"
    assert rows["| other_mt (peer)"][2].startswith("0.6500 (0.5500 to 0.7500)")
    assert rows["| other_mt (peer)"][9].startswith("-0.1000")  # paired over run 0 alone
    assert rows["| supervised (peer)"][2].startswith("1.0000")
    assert [line.split(" | ")[:9] for line in alone if line.startswith("| ")][1][:4] == rows["| supervised"][:4]
    assert rows["| supervised"][4] == "-"  # a peer is not the grid's full supervision
    note = "other_mt (peer): Other 2.0, 9 steps; as released."
    assert sum(line.count(note) for line in lines) == 1
    assert not any("Peers are" in line for line in alone)
    table = list(csv.DictReader((out / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["row"] for row in table} == {"supervised", "mean_teacher", "other_mt (peer)", "supervised (peer)"}


def test_a_peer_on_other_cases_is_refused(grid, tmp_path):
    save_peer(tmp_path / "out", "other", 0, [0.7])
    with pytest.raises(InputError, match="peers/other-2-0 and supervised-2-0 hold other cases"):
        write_report(load_grid(grid), {"supervised-2-0": make("supervised", 0, [0.5, 0.6])}, tmp_path / "out")


def test_a_record_without_its_peer_is_refused(grid, tmp_path):
    make("supervised", 0, [0.5]).save(tmp_path / "out/peers/supervised-2-0.json")
    with pytest.raises(InputError, match=r"peers/supervised-2-0\.json: names no peer and its version"):
        write_report(load_grid(grid), {"supervised-2-0": make("supervised", 0, [0.5])}, tmp_path / "out")


def test_the_table_replaces_the_marked_part_of_a_page(grid, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmark tiny -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    records = {"supervised-2-0": make("supervised", 0, [0.5, 0.6])}
    for _ in range(2):
        text = write_report(load_grid(grid), records, tmp_path / "out", page)
    content = page.read_text(encoding="utf-8")
    assert content == f"before\n<!-- benchmark tiny -->\n\n{text}\n\n<!-- end -->\nafter\n"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(InputError, match=r"has no place for the table; put the lines <!-- benchmark tiny -->"):
        write_report(load_grid(grid), records, tmp_path / "out", page)


def test_records_are_small_and_read_line_by_line(tmp_path):
    record = make("supervised", 0, [0.5] * 40)
    record.save(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert Record.load(tmp_path / "r.json") == record
    assert json.loads(text)["scores"]["front"]["dice"] == [0.5] * 40
    assert sum(line.startswith('   "') for line in text.splitlines()) == len(METRICS)
