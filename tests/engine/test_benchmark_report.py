"""Tests of the tables of a benchmark: by hand (known records)."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
from tiny_grid import TREE

from medcontrast.engine.benchmark.records import (
    METRICS,
    Record,
    Start,
    load_peer_records,
    load_records,
    require_one_start,
)
from medcontrast.engine.benchmark.report import write_report
from medcontrast.errors import InputError
from medcontrast.metrics.bootstrap import drawn_words
from medcontrast.settings.grid import GridSettings

INFERENCE = {"overlap": 0.5, "weighting": "gaussian", "flips": True, "largest_component": "none"}


def settings(**changes):
    return GridSettings.model_validate_json(json.dumps({**TREE, **changes}))


def make(row, run, dice, labeled=2, missed=0.0, targets=("front",), **inference):
    cases = [f"c{number}" for number in range(len(dice))]
    figures = {metric: [1.0] * len(dice) for metric in METRICS} | {"dice": dice, "missed": [missed] * len(dice)}
    facts = {
        "split": "validation",
        "labeled_cases": ["a"],
        "unlabeled": 1,
        "step": 2,
        "trained_parameters": 1_500_000,
        "train_seconds": 1800,
    }
    facts |= {"versions": {"torch": "9.9", "monai": "8.8"}, "device": "cpu", "precision": "32-true"}
    facts["network"] = "teacher" if row == "mean_teacher" else "student"
    recipe = {"network": {"name": "unet"}, "data": {"spacing_mm": None}, "inference": {**INFERENCE, **inference}}
    recipe |= {"train": {"steps": 2}, "method": {"name": "supervised" if row == "full" else row}}
    return Record(row, labeled, run, recipe, "", cases, dict.fromkeys(targets, figures), facts)


def table(text, title):
    """Row -> head of a column -> what stands there, of the table under a title."""
    below = text.partition(f"**{title}**\n\n")[2].partition("\n\n")[0]
    heads, _, *rows = [line.strip("| ").split(" | ") for line in below.splitlines()]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


def test_the_table_by_hand(tmp_path):
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6, 0.7]),
        "supervised-2-1": make("supervised", 1, [0.7, 0.8, 0.9], missed=1.0),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7, 0.8]),
        "full-all-0": make("full", 0, [0.8, 0.8, 0.8], labeled="all"),
    }
    text = write_report(settings(), records, tmp_path / "out")
    rows = table(text, "2 labeled")
    ours, other = rows["supervised"], rows["mean_teacher"]
    assert (ours["runs"], other["runs"]) == ("2", "1")
    assert ours["Dice front"] == "0.7000 (0.6000 to 0.8000)"
    assert (ours["SD over runs"], other["SD over runs"]) == ("0.1414", "-")
    assert (ours["missed"], other["missed"]) == ("3", "0")
    # means over all runs of each: 0.7 and 0.7 of 0.8; a row that lacks a run of another names its own
    assert (ours["of full supervision"], other["of full supervision"]) == ("87.5 %", "87.5 %, over run 0")
    assert table(text, "all cases labeled")["full"]["of full supervision"] == "100.0 %"
    # of run 0 alone, where only that has a partner
    assert other["against supervised"] == "+0.1000 (+0.1000 to +0.1000), p 0.250, over run 0"
    assert ours["against mean_teacher"] == "-0.1000 (-0.1000 to -0.1000), p 0.250, over run 0"
    assert list(ours)[-2:] == ["parameters", "hours"]
    assert (ours["parameters"], ours["hours"]) == ("1.50 M", "0.50")
    assert "SD over runs" not in table(text, "all cases labeled")["full"]  # where no row has one
    assert (
        "Conditions: steps 2; network unet; which predicts student (supervised, full), teacher (mean_teacher); "
        "spacing, mm as stored; overlap of windows 0.5; their weights gaussian; mirrored versions averaged yes;" in text
    )
    found = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["figure"] for row in found} >= {"dice", "hd95_pooled_mm", "asd_mm"}
    kept = {(row["row"], row["figure"]): row for row in found}
    assert kept["full", "dice"]["mean"] == "0.8"
    lead = kept["mean_teacher", "dice"]
    assert [lead[f"against_supervised{part}"] for part in ("", "_low", "_high", "_p")] == ["0.1", "0.1", "0.1", "0.25"]
    assert (lead["of_full"], lead["trained_parameters"], lead["train_seconds"]) == ("0.875", "1500000", "1800")
    # only what the table compares has a difference, and nothing has one to itself
    assert kept["mean_teacher", "asd_mm"]["against_supervised"] == lead["against_mean_teacher"] == ""


def test_full_supervision_is_supervised_training_whatever_else_has_all_labels(tmp_path):
    records = {
        "mean_teacher-all-0": make("mean_teacher", 0, [0.9, 0.9], labeled="all"),
        "supervised-2-0": make("supervised", 0, [0.4, 0.4]),
    }
    rows = {name: {"recipe": "a.yaml", "labeled": [2, "all"]} for name in ("mean_teacher", "supervised")}
    text = write_report(settings(rows=rows), records, tmp_path)
    assert "of full supervision" not in text
    records["full-all-0"] = make("full", 0, [0.8, 0.8], labeled="all")
    rows["full"] = {"recipe": "a.yaml", "labeled": ["all"]}
    text = write_report(settings(rows=rows), records, tmp_path)
    assert table(text, "2 labeled")["supervised"]["of full supervision"] == "50.0 %"
    assert table(text, "all cases labeled")["mean_teacher"]["of full supervision"] == "112.5 %"


def test_steps_in_which_rows_differ_are_said(tmp_path):
    records = {f"{row}-2-0": make(row, 0, [0.5, 0.6]) for row in ("supervised", "mean_teacher")}
    records["mean_teacher-2-0"].facts["step"] = 5
    assert "Conditions: steps 2 (supervised), 5 (mean_teacher);" in write_report(settings(), records, tmp_path)


def test_processors_are_said_where_records_know_them(tmp_path):
    records = {f"{row}-2-0": make(row, 0, [0.5, 0.6]) for row in ("supervised", "mean_teacher")}
    assert "processor" not in write_report(settings(), records, tmp_path)
    records["mean_teacher-2-0"].facts.update(cpu="A CPU", threads=2)
    assert (
        "device cpu; processor not recorded (supervised), A CPU (mean_teacher); threads not recorded (supervised), "
        "2 (mean_teacher);" in write_report(settings(), records, tmp_path)
    )


def test_what_evaluations_warned_of_stands_below(tmp_path):
    records = {f"supervised-2-{run}": make("supervised", run, [0.5, 0.6]) for run in (0, 1)}
    records["mean_teacher-2-0"] = make("mean_teacher", 0, [0.5, 0.6])
    records["supervised-2-1"].facts["warnings"] = ["scan a is odd."]
    assert write_report(settings(), records, tmp_path).endswith("machine. Warning of supervised-2: scan a is odd.")


def test_a_grid_without_a_record_says_what_has_not_been_run(tmp_path):
    (tmp_path / "page.md").write_text("<!-- benchmark tiny -->\n\nold\n\n<!-- end -->\n", encoding="utf-8")
    text = write_report(settings(), {}, tmp_path / "out", tmp_path / "page.md")
    assert text == "Not run yet: supervised and mean_teacher with 2 labels; full with all labels."
    assert f"\n\n{text}\n\n" in (tmp_path / "page.md").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["table.md"]


def test_scans_of_a_patient_are_drawn_together(tmp_path):
    # two patients of three scans each, one of whom gains 0.3 and the other 0.1
    records = {
        "supervised-2-0": make("supervised", 0, [0.5] * 6),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.8, 0.6] * 3),
    }
    patients = {f"c{number}": "one" if number % 2 else "two" for number in range(6)}
    text = write_report(settings(), records, tmp_path, patients=patients)
    row = table(text, "2 labeled")["mean_teacher"]
    assert row["Dice front"] == "0.7000 (0.6000 to 0.8000)"
    assert row["against supervised"] == "+0.2000 (+0.1000 to +0.3000), p 0.500"
    drawn = drawn_words(6, [patients[f"c{number}"] for number in range(6)])
    assert drawn.startswith("the 2 patients of 6 cases, scans of one together (2, so few that ")
    assert f"intervals over {drawn} (10,000 resamples)" in text
    assert "signed-rank test over patients, Holm" in text
    found = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert next(each for each in found if (each["row"], each["figure"]) == ("mean_teacher", "dice"))["low"] == "0.6"
    # a record may hold its cases in another order
    turned = dataclasses.replace(
        make("mean_teacher", 0, [0.6, 0.6, 0.8, 0.8, 0.8, 0.6]), cases=["c1", "c5", "c2", "c4", "c0", "c3"]
    )
    text = write_report(settings(), {**records, "mean_teacher-2-0": turned}, tmp_path, patients=patients)
    assert table(text, "2 labeled")["mean_teacher"] == row
    alone = write_report(settings(), records, tmp_path)
    assert table(alone, "2 labeled")["mean_teacher"]["Dice front"] != row["Dice front"]
    assert alone == write_report(settings(), records, tmp_path, patients={"c0": "one", "c1": "two"})


def test_rows_without_a_run_stand_in_a_sentence_below_the_tables(tmp_path):
    rows = {name: {"recipe": "a.yaml"} for name in ("supervised", "bcp", "ua_mt", "cps")}
    rows["bcp"]["labeled"] = rows["supervised"]["labeled"] = [2, 1]
    rows["full"] = {"recipe": "a.yaml", "labeled": ["all"]}
    grid = settings(rows=rows, default=None)
    text = write_report(grid, {"supervised-2-1": make("supervised", 1, [0.5, 0.6])}, tmp_path / "out")
    sentence = "Not run yet: bcp, ua_mt and cps with 2 labels; supervised and bcp with 1 label; full with all labels."
    assert f"\n\n{sentence}\n\n" in text
    assert list(table(text, "2 labeled")) == ["supervised"] and "1 of 2" in text
    assert text.count("| row |") == 1  # no table without rows
    assert "against supervised" not in text  # nothing is compared yet
    rows = {"supervised": {"recipe": "a.yaml", "runs": 1}}
    records = {"supervised-2-0": make("supervised", 0, [0.5, 0.6])}
    assert "Not run yet" not in write_report(settings(rows=rows, default=None), records, tmp_path / "out")


def test_the_note_says_which_runs_a_comparison_is_over(tmp_path):
    records = {f"{row}-2-{run}": make(row, run, [0.5, 0.6]) for row in ("supervised", "mean_teacher") for run in (0, 1)}
    rows = {name: {"recipe": "a.yaml", "runs": 3} for name in ("supervised", "mean_teacher")}
    uneven = "Rows with different runs have means of different runs: compare them by the columns 'against'"
    text = write_report(settings(rows=rows), records, tmp_path)
    assert "Differences are over the runs that both rows have; a cell names them where one of the two has more." in text
    assert uneven not in text and ", over run" not in text
    records["supervised-2-2"] = make("supervised", 2, [0.9, 0.9])
    text = write_report(settings(rows=rows), records, tmp_path)
    assert uneven in text
    cell = table(text, "2 labeled")["mean_teacher"]["against supervised"]
    assert cell == "+0.0000 (+0.0000 to +0.0000), p 1.000, over runs 0 and 1; by run +0.0000, +0.0000"
    del records["supervised-2-0"], records["supervised-2-1"]  # no common run
    text = write_report(settings(rows=rows), records, tmp_path)
    assert uneven in text and not any("against" in head for head in table(text, "2 labeled")["supervised"])


def test_one_labeled_subset_of_all_runs_is_said(tmp_path):
    records = {f"supervised-2-{run}": make("supervised", run, [0.5, 0.6]) for run in (0, 1)}
    said = "labeled subset k. With 2 labels that is one subset: runs differ in their seeds alone. Differences"
    assert said in write_report(settings(), records, tmp_path)
    records["supervised-2-1"].facts["labeled_cases"] = ["b"]
    assert "one subset" not in write_report(settings(), records, tmp_path)
    del records["supervised-2-1"]
    assert "one subset" not in write_report(settings(), records, tmp_path)


def test_the_note_names_what_was_rounded_to_bfloat16(tmp_path):
    records = {f"supervised-2-{run}": make("supervised", run, [0.5, 0.6]) for run in (0, 1)}
    said = "Computed in float32 and rounded to bfloat16"
    assert said not in write_report(settings(), records, tmp_path)
    records["supervised-2-1"].facts["bfloat16_rounded"] = True
    assert f"{said}, as docs/protocol.md says: supervised-2-1. Hours" in write_report(settings(), records, tmp_path)


def test_a_miss_counts_once_and_conditions_in_which_rows_differ_are_said(tmp_path):
    """The region `whole` is missed where its only part is; that is one structure."""
    targets = ("front", "whole")
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6], missed=1.0, targets=targets),
        "mean_teacher-2-0": make("mean_teacher", 0, [0.6, 0.7], targets=targets, largest_component="each"),
    }
    text = write_report(settings(), records, tmp_path / "out", structures=["front"])
    assert table(text, "2 labeled")["supervised"]["missed"] == "2"
    assert "largest component kept none (supervised), each (mean_teacher);" in text
    assert "which predicts student (supervised), teacher (mean_teacher); spacing, mm as stored;" in text


def test_a_row_in_which_counts_differ_is_said_with_its_counts(tmp_path):
    rows = {
        "mean_teacher": {"recipe": "mean_teacher.yaml"},
        "supervised": {"recipe": "supervised.yaml", "labeled": [2, 4]},
        "full": {"recipe": "supervised.yaml", "labeled": ["all"]},
    }
    records = {
        "supervised-2-0": make("supervised", 0, [0.5, 0.6], flips=True),
        "supervised-4-0": make("supervised", 0, [0.6, 0.7], labeled=4, flips=False),
        "full-all-0": make("full", 0, [0.8, 0.8], labeled="all", flips=False),
    }
    text = write_report(settings(rows=rows), records, tmp_path / "out")
    assert "averaged yes (supervised with 2 labels), no (supervised with 4 labels, full);" in text


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
    alone = write_report(settings(), records, out)
    save_peer(out, "other_mt", 1, [0.7, 0.8, 0.9])
    save_peer(out, "other_mt", 0, [0.4, 0.5, 0.6])
    save_peer(out, "supervised", 0, [1.0, 1.0, 1.0], labeled="all")
    text = write_report(settings(), records, out, peers=load_peer_records(out))
    rows = table(text, "2 labeled")
    assert rows["other_mt (peer)"]["runs"] == "2"
    assert rows["other_mt (peer)"]["Dice front"] == "0.6500 (0.5500 to 0.7500)"
    assert rows["other_mt (peer)"]["against supervised"].startswith("-0.1000")  # paired over run 0 alone
    assert rows["other_mt (peer)"]["against supervised"].endswith(", over run 0")
    assert table(text, "all cases labeled")["supervised (peer)"]["Dice front"].startswith("1.0000")
    before = table(alone, "2 labeled")["supervised"]
    assert all(rows["supervised"][head] == before[head] for head in ("runs", "Dice front", "missed", "hours"))
    assert "of full supervision" not in rows["supervised"]  # a peer is not the grid's full supervision
    assert text.count("other_mt (peer): Other 2.0, 9 steps; as released.") == 1
    assert "Peers are" in text and "Peers are" not in alone
    found = list(csv.DictReader((out / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["row"] for row in found} == {"supervised", "mean_teacher", "other_mt (peer)", "supervised (peer)"}


def test_a_peer_on_other_cases_is_refused(tmp_path):
    out, own = tmp_path / "out", {"supervised-2-0": make("supervised", 0, [0.5, 0.6])}
    save_peer(out, "other", 0, [0.7])
    with pytest.raises(InputError, match="peers/other-2-0 and supervised-2-0 hold other cases"):
        write_report(settings(), own, out, peers=load_peer_records(out))


def test_a_record_without_its_peer_is_refused(tmp_path):
    make("supervised", 0, [0.5]).save(tmp_path / "out/peers/supervised-2-0.json")
    with pytest.raises(InputError, match=r"peers/supervised-2-0\.json: names no peer and its version"):
        load_peer_records(tmp_path / "out")


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


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        *(
            (("facts", name), None, f"(no facts.{name})")
            for name in ("device", "versions", "labeled_cases", "unlabeled", "trained_parameters", "train_seconds")
        ),
        *((("recipe", name), None, f"(no recipe.{name})") for name in ("train", "network", "data", "inference")),
        (("scores", "front", "assd_mm"), None, "(front: assd_mm is not one number a case)"),
        (("scores", "front", "dice"), [0.5], "(front: dice is not one number a case)"),
        (("scores", "front", "dice"), [0.5, "a"], "(front: dice is not one number a case)"),
        (("scores", "front", "dice"), [0.5, float("nan")], "(front: dice is not one number a case)"),
        (("facts",), ["a"], "(no facts.split)"),
        (("scores",), ["a"], "("),
    ],
)
def test_a_record_of_which_no_table_can_be_made(tmp_path, keys, value, words):
    make("supervised", 0, [0.5, 0.6]).save(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    branch = content
    for key in keys[:-1]:
        branch = branch[key]
    if value is None:
        del branch[keys[-1]]
    else:
        branch[keys[-1]] = value
    (tmp_path / "r.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"r\.json: not a benchmark record .*; delete it to run its cell again\."
    ) as found:
        Record.load(tmp_path / "r.json")
    assert words in str(found.value)


def test_a_record_is_of_the_cell_that_its_file_is_called_by(tmp_path):
    """Else a run could stand in a row twice, or in another row."""
    made = make("supervised", 2, [0.5])
    made.save(tmp_path / "supervised-2-0.json")
    sentence = r"supervised-2-0\.json: this record is of supervised-2-2; give the file that name, or delete it\.$"
    with pytest.raises(InputError, match=sentence):
        load_records(tmp_path, ["supervised-2-0"])
    peer = dataclasses.replace(made, facts={**made.facts, "peer": {"name": "Other", "version": "1"}})
    peer.save(tmp_path / "peers" / "copy.json")
    with pytest.raises(InputError, match=r"peers/copy\.json: this record is of supervised-2-2"):
        load_peer_records(tmp_path)


def test_rows_start_from_one_checkpoint():
    alike = {"a": Start("start", "1" * 64), "b": Start("start", "1" * 64)}
    require_one_start({**alike, "other": Start("elsewhere", "2" * 64)})
    sentence = (
        r"^start was trained anew: c starts from other weights of it \(SHA-256 22222222\.\.\.\) than a \(11111111"
    )
    with pytest.raises(InputError, match=sentence):
        require_one_start({**alike, "c": Start("start", "2" * 64)})


def test_records_are_small_and_read_line_by_line(tmp_path):
    record = make("supervised", 0, [0.5] * 40)
    record.save(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert Record.load(tmp_path / "r.json") == record
    assert json.loads(text)["scores"]["front"]["dice"] == [0.5] * 40
    assert sum(line.startswith('   "') for line in text.splitlines()) == len(METRICS)
