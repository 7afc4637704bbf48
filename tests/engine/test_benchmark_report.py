"""Tests of the tables of a benchmark: by hand (known records)."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest

from medcontrast.engine.benchmark_report import write_report
from medcontrast.engine.records import METRICS, Record
from medcontrast.errors import InputError
from medcontrast.settings.grid import GridSettings

INFERENCE = {"overlap": 0.5, "weighting": "gaussian", "flips": True, "largest_component": "none"}


def settings():
    tree = {
        "name": "tiny",
        "title": "Tiny grid",
        "manifest": "data/manifest.json",
        "target": "front",
        "labeled": [2],
        "runs": 2,
        "baseline": "supervised",
        "default": "mean_teacher",
        "rows": {
            "supervised": {"recipe": "supervised.yaml"},
            "mean_teacher": {"recipe": "mean_teacher.yaml", "runs": 1},
            "full": {"recipe": "supervised.yaml", "labeled": ["all"], "runs": 1},
        },
    }
    return GridSettings.model_validate_json(json.dumps(tree))


def make(row, run, dice, labeled=2, missed=0.0, targets=("front",), **inference):
    cases = [f"c{number}" for number in range(len(dice))]
    figures = {metric: [1.0] * len(dice) for metric in METRICS} | {"dice": dice, "missed": [missed] * len(dice)}
    facts = {"split": "validation", "step": 2, "trained_parameters": 1_500_000, "train_seconds": 1800}
    facts |= {"versions": {"torch": "9.9"}, "device": "cpu", "precision": "32-true"}
    recipe = {"network": {"name": "unet"}, "inference": {**INFERENCE, **inference}}
    return Record(row, labeled, run, recipe, "", cases, dict.fromkeys(targets, figures), facts)


def test_the_table_by_hand(tmp_path):
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6, 0.7]),
        "supervised-2-1": make("supervised", 1, [0.7, 0.8, 0.9], missed=1.0),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7, 0.8]),
        "full-all-0": make("full", 0, [0.8, 0.8, 0.8], labeled="all"),
    }
    text = write_report(settings(), records, tmp_path / "out")
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


def test_a_miss_counts_once_and_conditions_in_which_rows_differ_are_said(tmp_path):
    """The region `whole` is missed where its only part is; that is one structure."""
    targets = ("front", "whole")
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6], missed=1.0, targets=targets),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7], targets=targets, largest_component="each"),
    }
    text = write_report(settings(), records, tmp_path / "out", structures=["front"])
    row = next(line.split(" | ") for line in text.splitlines() if line.startswith("| supervised"))
    heads = next(line.split(" | ") for line in text.splitlines() if line.startswith("| row"))
    assert row[heads.index("missed")] == "2"
    assert "largest component kept none (supervised), each (mean_teacher);" in text


def test_records_of_other_cases_are_not_compared(tmp_path):
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6]),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7, 0.8]),
    }
    with pytest.raises(InputError, match="mean_teacher-2-0 and supervised-2-0 hold other cases"):
        write_report(settings(), records, tmp_path / "out")


def save_peer(folder, row, run, dice, labeled=2, **facts):
    record = make(row, run, dice, labeled)
    facts = {**record.facts, "peer": {"name": "Other", "version": "2.0"}, "notes": ["as released"], "step": 9, **facts}
    dataclasses.replace(record, facts=facts).save(folder / "peers" / f"{row}-{labeled}-{run}.json")


def test_peers_stand_beside_the_rows_and_change_none_of_them(tmp_path):
    out = tmp_path / "out"
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6, 0.7]),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7, 0.8]),
    }
    alone = write_report(settings(), records, out).splitlines()
    save_peer(out, "other_mt", 1, [0.7, 0.8, 0.9])
    save_peer(out, "other_mt", 0, [0.4, 0.5, 0.6])
    save_peer(out, "supervised", 0, [1.0, 1.0, 1.0], labeled="all")
    lines = write_report(settings(), records, out).splitlines()
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


def test_a_peer_on_other_cases_is_refused(tmp_path):
    save_peer(tmp_path / "out", "other", 0, [0.7])
    with pytest.raises(InputError, match="peers/other-2-0 and supervised-2-0 hold other cases"):
        write_report(settings(), {"supervised-2-0": make("supervised", 0, [0.5, 0.6])}, tmp_path / "out")


def test_a_record_without_its_peer_is_refused(tmp_path):
    make("supervised", 0, [0.5]).save(tmp_path / "out/peers/supervised-2-0.json")
    with pytest.raises(InputError, match=r"peers/supervised-2-0\.json: names no peer and its version"):
        write_report(settings(), {"supervised-2-0": make("supervised", 0, [0.5])}, tmp_path / "out")


def test_the_table_replaces_the_marked_part_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmark tiny -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    records = {"supervised-2-0": make("supervised", 0, [0.5, 0.6])}
    for _ in range(2):
        text = write_report(settings(), records, tmp_path / "out", page)
    content = page.read_text(encoding="utf-8")
    assert content == f"before\n<!-- benchmark tiny -->\n\n{text}\n\n<!-- end -->\nafter\n"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(InputError, match=r"has no place for the table; put the lines <!-- benchmark tiny -->"):
        write_report(settings(), records, tmp_path / "out", page)


def test_records_are_small_and_read_line_by_line(tmp_path):
    record = make("supervised", 0, [0.5] * 40)
    record.save(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert Record.load(tmp_path / "r.json") == record
    assert json.loads(text)["scores"]["front"]["dice"] == [0.5] * 40
    assert sum(line.startswith('   "') for line in text.splitlines()) == len(METRICS)
