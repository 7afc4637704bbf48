"""Tests of the tables of a grid of encoders: by hand, from known records."""

from __future__ import annotations

import csv

import numpy as np
from probe_records import record, settings, table

from medcontrast.engine.benchmark.encoder_report import EncoderLine, write_probe_report


def test_the_table_by_hand(tmp_path):
    records = {
        "a-0": record("a", 0, "11110000"),
        "a-1": record("a", 1, "11110011"),
        "b-0": record("b", 0, "11101110"),
        "b-1": record("b", 1, "11111110"),
    }
    text = write_probe_report(settings(drop="quality"), records, tmp_path)
    rows = table(text)
    heads = ["row", "runs", "accuracy", "SD over runs", "quality high", "quality low", "lost"]
    assert list(rows["a"]) == [*heads, "against a", "lost, against a", "parameters", "hours"]
    assert rows["a"]["runs"] == "2"
    assert rows["a"]["accuracy"].startswith("0.6250 (")
    assert rows["a"]["SD over runs"] == f"{np.std([0.5, 0.75], ddof=1):.4f}"
    assert [rows[row]["quality high"] for row in "ab"] == ["1.0000", "0.8750"]
    assert [rows[row]["quality low"] for row in "ab"] == ["0.2500", "0.7500"]
    assert rows["a"]["lost"].startswith("0.7500 (")
    assert rows["b"]["against a"].startswith("+0.1875 (")
    assert rows["b"]["lost, against a"].startswith("-0.6250 (")
    assert list(rows) == ["a", "b"] and "\n\nNot run yet: c.\n\n" in text
    assert "8 test images of toy in 4 units, 2 classes." in text
    assert "Encoders are frozen after 5 steps of 4 rows, 2 views of each." in text


def test_intervals_and_tests_are_over_units(tmp_path):
    # both images of units 0 and 1 are right: four draws of a coin, none of which is right once in 16; of eight images,
    # one at most would be in 9 of 256
    text = write_probe_report(settings(), {"a-0": record("a", 0, "11001100")}, tmp_path)
    assert table(text)["a"]["accuracy"] == "0.5000 (0.0000 to 1.0000)"
    # of the four answers to each unit 1, 2, 3 and 4 are right, against none: the smallest p of four units is 2 / 2^4
    records = {f"a-{run}": record("a", run, "00000000") for run in (0, 1)}
    records |= {"b-0": record("b", 0, "11110111"), "b-1": record("b", 1, "00110001")}
    rows = table(write_probe_report(settings(), records, tmp_path))
    assert rows["b"]["accuracy"].startswith("0.6250 (")
    assert rows["b"]["SD over runs"] == f"{np.std([7 / 8, 3 / 8], ddof=1):.4f}"
    assert rows["b"]["against a"].startswith("+0.6250 (") and rows["b"]["against a"].endswith(
        ", p 0.125; by run +0.8750, +0.3750"
    )


def test_scores_are_averaged_within_a_unit_over_the_images_of_the_group():
    known = {"images": 4, "units": "0x3 1", "groups": {"domain": {"A": "1101", "B": "0010"}}}
    line = EncoderLine("a", 1, (record("a", 0, "1011", **known),))
    assert line.right("linear 1")[0].tolist() == [2 / 3, 1.0]
    assert line.in_group("linear 1", "domain", "A")[0].tolist() == [0.5, 1.0]
    assert line.in_group("linear 1", "domain", "B")[0].tolist() == [1.0]


def test_a_group_is_compared_as_all_images_are(tmp_path):
    # four digits under two scanners each
    known = {"units": "0x2 1x2 2x2 3x2", "groups": {"domain": {"haze": "01010101", "plain": "10101010"}}}
    records = {"a-0": record("a", 0, "11111000", **known), "b-0": record("b", 0, "11011111", **known)}
    records["c-0"] = record("c", 0, "10101010", **known)
    grid = settings(groups={"domain": ["haze"]}, default="b")
    rows = table(write_probe_report(grid, records, tmp_path))
    assert list(rows["a"])[3:9] == [
        "domain haze",
        "domain plain",
        "against a",
        "against b",
        "domain haze, against a",
        "domain haze, against b",
    ]
    assert [rows[row]["domain haze"] for row in "abc"] == [
        "0.5000 (0.0000 to 1.0000)",
        "1.0000 (1.0000 to 1.0000)",
        "0.0000 (0.0000 to 0.0000)",
    ]
    assert [rows[row]["domain plain"] for row in "abc"] == ["0.7500", "0.7500", "1.0000"]
    assert rows["a"]["domain haze, against a"] == rows["b"]["domain haze, against b"] == "-"
    assert rows["b"]["domain haze, against a"].startswith("+0.5000 (+0.0000 to +1.0000), p ")
    assert rows["c"]["domain haze, against b"].startswith("-1.0000 (-1.0000 to -1.0000), p ")
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    found = {(line["row"], line["group"]): line for line in lines}
    assert [found["b", "domain haze"][f"against_a{part}"] for part in ("", "_low", "_high")] == ["0.5", "0", "1"]
    p = float(found["b", "domain haze"]["against_a_p"])
    assert rows["b"]["domain haze, against a"].endswith(f", p {p:.3f}")
    assert found["b", "domain haze"]["accuracy"] == found["b", "domain haze"]["low"] == "1"
    assert found["b", "domain plain"]["against_a"] == found["a", ""]["against_a"] == ""
    assert float(found["b", ""]["against_a"]) == 0.25


def test_the_csv_holds_what_is_lost(tmp_path):
    records = {"a-0": record("a", 0, "11110000"), "b-0": record("b", 0, "11101110")}
    write_probe_report(settings(drop="quality"), records, tmp_path)
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    found = {line["row"]: line for line in lines if line["group"] == "lost"}
    assert [found[row]["accuracy"] for row in "ab"] == ["1", "0"]
    assert (found["a"]["against_a"], found["b"]["against_a"]) == ("", "-1")


def test_unequal_training_and_the_note_stand_below_the_table(tmp_path):
    four = {"train": {"rows": 4}, "augment": {"views": {name: {} for name in ("q", "k", "q_low", "k_low")}}}
    facts = {**record("b", 0, "11110000").facts, "step": 3}
    records = {"a-0": record("a", 0, "11110000"), "b-0": record("b", 0, "11110000", recipe=four, facts=facts)}
    text = write_probe_report(settings(note="What b was told."), records, tmp_path)
    assert (
        "Encoders are frozen after unequal training, in steps x rows a step x views of a row: a 5 x 4 x 2; b 3 x 4 x 4."
        in text
    )
    assert text.endswith("\n\nWhat b was told.")
    assert (tmp_path / "table.md").read_text(encoding="utf-8").endswith("\n\nWhat b was told.\n")


def test_warnings_of_probes_stand_below_the_table(tmp_path):
    def warned(row, run, *warnings):
        return record(row, run, "11110000", facts={**record(row, run, "").facts, "warnings": list(warnings)})

    twice, lonely = "2 of 8 scored images are copies.", "domain C occurs once."
    records = {"a-0": warned("a", 0, twice), "a-1": warned("a", 1, twice, lonely), "b-0": warned("b", 0, twice)}
    text = write_probe_report(settings(), records, tmp_path)
    assert text.endswith(f" Warning: {twice} Warning of a: {lonely}")
    records["c-0"] = record("c", 0, "11110000")  # of before
    assert f"Warning of a, b: {twice}" in write_probe_report(settings(), records, tmp_path)
