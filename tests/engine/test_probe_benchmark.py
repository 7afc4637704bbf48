"""Tests of grids of encoders: whole (a tiny grid, stopped and resumed), by hand (tables of known records)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from medcontrast.engine.probe_benchmark_report import write_probe_report
from medcontrast.engine.probe_records import ProbeRecord
from medcontrast.errors import InputError
from medcontrast.settings.grid import ProbeGridSettings, load_grid

NAMES = ["moco-0", "moco-1", "simclr-0"]


@pytest.fixture
def grid(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_images(tmp_path / "data")
    tree = tiny.pretrain_tree()
    tiny.write_recipe(tmp_path / "simclr.yaml", tree)
    tree["augment"]["views"] = {"query": {}, "key": {}}
    tree["method"] = {"name": "moco_v2", "embedding_channels": 8, "queue": 16}
    tiny.write_recipe(tmp_path / "moco.yaml", tree)
    content = {
        "kind": "probe",
        "name": "tiny",
        "title": "Tiny encoders",
        "fractions": [1.0, 0.5],
        "runs": 2,
        "set": ["train.steps=2"],
        "baseline": "moco",
        "rows": {"moco": {"recipe": "moco.yaml"}, "simclr": {"recipe": "simclr.yaml", "runs": 1}},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def test_a_grid_runs_to_its_tables_and_again_from_records_alone(cli, grid):
    found = cli("benchmark", grid)
    assert found.code == 0, found.err
    results = Path("benchmarks/results/tiny")
    assert sorted(path.stem for path in results.glob("*.json")) == NAMES
    table = (results / "table.md").read_text(encoding="utf-8")
    assert table.count("| moco | 2 |") == 4
    assert "**linear probe, 100 % of the labels**" in table
    assert "**nearest neighbours, 50 % of the labels**" in table
    assert (results / "picture.png").read_bytes()[:4] == b"\x89PNG"
    record = json.loads((results / "moco-1.json").read_text(encoding="utf-8"))
    assert (record["recipe"]["seed"], record["images"], record["facts"]["step"]) == (1, 12, 2)
    assert set(record["hits"]) == {"linear 1", "linear 0.5", "knn 1", "knn 0.5"}
    again = cli("benchmark", grid, "--report", "--work", "nowhere")
    assert again.code == 0
    assert (results / "table.md").read_text(encoding="utf-8") == table


def test_a_stopped_grid_goes_on_and_ends_the_same(cli, grid):
    assert cli("benchmark", grid, "--only", "moco-0", "--results", "whole", "--work", "w1").code == 0
    stopped = cli("benchmark", grid, "--only", "moco-0", "--results", "parts", "--work", "w2", "--max-time", "1s")
    assert stopped.code in (0, 2)
    assert cli("benchmark", grid, "--only", "moco-0", "--results", "parts", "--work", "w2").code == 0
    whole, parts = (ProbeRecord.load(Path(name) / "moco-0.json") for name in ("whole", "parts"))
    assert whole.hits == parts.hits


def test_a_changed_recipe_refuses_the_old_record(cli, grid):
    assert cli("benchmark", grid, "--only", "moco-0").code == 0
    text = grid.read_text(encoding="utf-8").replace("train.steps=2", "train.steps=3")
    grid.write_text(text, encoding="utf-8")
    found = cli("benchmark", grid, "--report")
    assert found.code == 2
    assert "this record was made with train.steps 2, but the grid now asks for 3." in found.err


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("kind", "prob", "kind: input should be 'probe', but got 'prob'"),
        ("baseline", "mocco", "baseline 'mocco' is none of the rows moco, simclr"),
        ("fractions", [], "fractions holds one value at least, each once, but is []"),
        (
            "rows",
            {"moco": {"recipe": "volumes.yaml"}},
            "method supervised segments volumes; this needs a recipe of one",
        ),
    ],
)
def test_what_a_faulty_grid_gets(cli, tiny, grid, key, value, sentence):
    tiny.write_recipe(grid.parent / "volumes.yaml", tiny.recipe_tree())
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    content[key] = value
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = cli("benchmark", grid)
    assert found.code == 2
    assert sentence in found.err


def record(row, run, hits, **extra):
    """8 images: 4 of high quality, then the same 4 of low quality."""
    quality = {"high": "11110000", "low": "00001111"}
    facts = {
        "split": "test",
        "manifest": "toy",
        "classes": 2,
        "step": 5,
        "student_parameters": 1e6,
        "train_seconds": 36,
    }
    plain = {"recipe": {}, "recipe_hash": "", "images": 8, "images_hash": "x", "groups": {"quality": quality}}
    return ProbeRecord(row=row, run=run, **{**plain, "hits": {"linear 1": hits}, "facts": facts, **extra})


def settings(**extra):
    plain = {"kind": "probe", "name": "toy", "title": "Toy", "classifiers": ["linear"], "runs": 2, "baseline": "a"}
    rows = {"a": {"recipe": "a.yaml"}, "b": {"recipe": "b.yaml"}, "c": {"recipe": "c.yaml"}}
    return ProbeGridSettings.model_validate_json(json.dumps({**plain, "rows": rows, **extra}))


def test_the_table_by_hand(tmp_path):
    records = {
        "a-0": record("a", 0, "11110000"),
        "a-1": record("a", 1, "11110011"),
        "b-0": record("b", 0, "11101110"),
        "b-1": record("b", 1, "11111110"),
    }
    text = write_probe_report(settings(drop="quality"), records, tmp_path)
    rows = {
        cells[1]: cells
        for line in text.splitlines()
        if line.startswith("| ")
        for cells in [line.split(" | ")]
        for cells in [[cell.strip("| ") for cell in ["", *cells]]]
    }
    assert rows["row"][1:8] == ["row", "runs", "accuracy", "SD over runs", "quality high", "quality low", "lost"]
    assert rows["a"][2] == "2"
    assert rows["a"][3].startswith("0.6250 (")
    assert rows["a"][4:7] == [f"{np.std([0.5, 0.75], ddof=1):.4f}", "1.0000", "0.2500"]
    assert rows["a"][7].startswith("0.7500 (")
    assert rows["b"][5:7] == ["0.8750", "0.7500"]
    assert rows["b"][8].startswith("+0.1875 (")
    assert rows["b"][9].startswith("-0.6250 (")
    assert rows["c"][2:] == ["0 of 2", *["-"] * 9]


def test_records_of_other_images_are_not_compared(tmp_path):
    records = {"a-0": record("a", 0, "11110000"), "b-0": record("b", 0, "11110000", images_hash="y")}
    with pytest.raises(InputError, match=r"^Records b-0 and a-0 hold other images, so they cannot be compared\.$"):
        write_probe_report(settings(), records, tmp_path)
    uneven = {"high": "11100000", "low": "00011111"}
    records = {"a-0": record("a", 0, "11110000", groups={"quality": uneven})}
    with pytest.raises(InputError, match=r"^drop quality: needs two groups with the same images, but got"):
        write_probe_report(settings(drop="quality"), records, tmp_path)
    with pytest.raises(InputError, match=r"^Record a-0 has no 'knn 1', which the grid asks for"):
        write_probe_report(settings(classifiers=["knn"]), {"a-0": record("a", 0, "11110000")}, tmp_path)


@pytest.mark.parametrize(("hits", "change"), [("11110000", {"images": 7}), ("1111000x", {})])
def test_a_damaged_record_is_named(tmp_path, hits, change):
    record("a", 0, hits, **change).save(tmp_path / "a-0.json")
    with pytest.raises(InputError, match=r"a-0\.json: not a probe record .*; delete it to run its cell again\.$"):
        ProbeRecord.load(tmp_path / "a-0.json")


def test_shipped_grids_of_encoders_load_and_name_recipes_that_are_there():
    folder = Path(__file__).parents[2] / "recipes/benchmarks"
    grids = [load_grid(path) for path in sorted(folder.glob("*.yaml"))]
    chosen = [grid for grid in grids if isinstance(grid, ProbeGridSettings)]
    assert len(chosen) >= 2
    for grid in chosen:
        assert all((folder / row.recipe).is_file() for row in grid.rows.values())
