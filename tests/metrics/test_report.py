"""Reports over cases: by hand, round trips of the files, and exact sentences."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from target_scores import score

from medcontrast.errors import InputError, OutputError
from medcontrast.metrics import EMPTY_RULE, Report, bootstrap_intervals, score_case
from medcontrast.metrics.bootstrap import few_words


def report(*dices: float, **settings: int) -> Report:
    return Report({f"case{number}": [score(dice)] for number, dice in enumerate(dices)}, **settings)


def test_summary_by_hand() -> None:
    summary = report(0.7, 0.8, 0.9).summary["left atrium"]
    assert (summary.cases, summary.missed, summary.invented) == (3, 0, 0)
    assert summary.metrics["dice"].mean == pytest.approx(0.8)
    assert summary.metrics["dice"].sd == pytest.approx(0.1)
    assert summary.metrics["hd95_pooled_mm"].mean == pytest.approx(2.0)
    assert "hd95_pooled_voxel" not in summary.metrics
    (expected,) = bootstrap_intervals(np.array([[0.7], [0.8], [0.9]]))
    assert summary.metrics["dice"].low == pytest.approx(expected.low)


def test_misses_are_counted_and_said() -> None:
    cases = {
        "a": [score(0.9)],
        "b": [score(0.0, missed=True)],
        "c": [score(0.0, invented=True)],
        "d": [score(0.0, missed=True)],
    }
    lines = Report(cases).lines()
    assert "left atrium: 2 of 4 cases missed." in lines
    assert "left atrium: invented in 1 of 4 cases." in lines
    assert not any("missed." in line or "invented in" in line for line in report(0.8, 0.9).lines())
    assert Report(cases).summary["left atrium"].metrics["dice"].mean == pytest.approx(0.225)


def test_lines_say_definition_unit_tolerance_and_empty_rule() -> None:
    lines = report(0.7, 0.8, 0.9).lines()
    assert lines[0] == "left atrium (3 cases)"
    assert lines[1] == "  Dice                       0.8000  [0.7000, 0.9000], SD 0.1000"
    text = "\n".join(lines)
    assert (
        "HD95 pooled (mm): 95th percentile of the surface distances of both directions pooled (medpy's hd95)." in text
    )
    assert "HD95 max directed (mm): larger of the two directions' 95th percentiles (MONAI's)." in text
    assert "Tolerance of the surface Dice: 2 mm." in lines
    assert EMPTY_RULE in lines
    assert lines[-1] == (
        "Intervals: 95 % percentile bootstrap over cases (3, so few that 95 % intervals of normally distributed scores "
        "hold the mean 75 % of the time), 10000 resamples, seed 0. SD over cases."
    )
    ten = report(*(0.7,) * 10).lines()[-1]
    assert ten == "Intervals: 95 % percentile bootstrap over cases, 10000 resamples, seed 0. SD over cases."


def test_a_single_case_prints_no_interval() -> None:
    assert report(0.7).lines()[1] == "  Dice                       0.7000"


def test_table_shows_every_target_and_the_misses() -> None:
    cases = {case: [score(0.8), score(0.0, target="aorta", missed=True)] for case in "ab"}
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(Report(cases).table())
    text = console.export_text()
    for part in ("left atrium", "aorta", "HD95 pooled mm", "[0.8000, 0.8000]", "aorta: 2 of 2 cases missed."):
        assert part in text
    assert not any("cases missed" in line for line in Report(cases).notes())  # the table has said it


def test_names_are_no_markup() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(Report({"a": [score(0.0, target="lobe [right]", missed=True)]}).table())
    text = console.export_text()
    assert "┃ lobe [right] ┃" in text and "lobe [right]: 1 of 1 cases missed." in text


def test_csv_has_a_row_for_each_case_and_target(tmp_path: Path) -> None:
    cases = {case: [score(0.8), score(0.1 + 0.2, target="aorta, wall")] for case in ("b", "a")}
    Report(cases).save_csv(tmp_path / "new" / "scores.csv")
    with (tmp_path / "new" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["target"]) for row in rows] == [
        ("b", "left atrium"),
        ("b", "aorta, wall"),
        ("a", "left atrium"),
        ("a", "aorta, wall"),
    ]
    assert float(rows[1]["dice"]) == 0.1 + 0.2
    assert rows[0]["tolerance_mm"] == "2.0"
    assert rows[0]["missed"] == "False"
    assert "asd_voxel" not in rows[0]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["scores.csv"]


@pytest.mark.parametrize("patients", [{}, {"Fall 0 ä": "p", "Fall 2 ä": "p"}])
@pytest.mark.parametrize("voxels", [False, True])
def test_json_round_trip(tmp_path: Path, voxels: bool, patients: dict[str, str]) -> None:
    random = np.random.default_rng(0)
    cases = {}
    for number in range(4):
        prediction, reference = random.integers(0, 3, (2, 6, 5, 4))
        cases[f"Fall {number} ä"] = score_case(
            prediction,
            reference,
            targets={"a": (1,), "b": (1, 2)},
            spacing_mm=(1, 1, 2),
            tolerance_mm=2.0,
            voxels=voxels,
        )
    written = Report(cases, patients, resamples=500, seed=3, level=0.9)
    written.save(tmp_path / "report.json")
    read = Report.load(tmp_path / "report.json")
    assert read == written
    assert read.summary == written.summary
    assert read.lines() == written.lines()
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["bootstrap"] == {"resamples": 500, "seed": 3, "level": 0.9}
    assert content["summary"]["a"]["cases"] == 4
    assert EMPTY_RULE in content["rules"]
    drawn = f"the 3 patients of 4 cases, scans of one together{few_words(3)}" if patients else f"cases{few_words(4)}"
    assert f"Intervals: 90 % percentile bootstrap over {drawn}, 500 resamples, seed 3. SD over cases." in read.notes()


def test_a_patient_with_one_scan_changes_nothing() -> None:
    plain = report(0.7, 0.8, 0.4)
    known = dataclasses.replace(plain, patients={"case0": "case1", "case2": "p"})  # a name is no patient's
    assert known.units is None and known.summary == plain.summary and known.notes() == plain.notes()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    report(0.7, 0.8).save(target)
    before = target.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"report\.json: cannot be written \(No space left on device\)"):
        report(0.1, 0.2).save(target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_file_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    target, held = tmp_path / "report.json", tmp_path / "held.json"
    report(0.7, 0.8).save(target)
    before = target.read_bytes()
    held.hardlink_to(target)
    report(0.1, 0.2).save(target)
    assert held.read_bytes() == before != target.read_bytes()


def test_an_unusable_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"scores\.csv: cannot be written"):
        report(0.5).save_csv(tmp_path / "file" / "scores.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged, no JSON"),
        ("[1]", "is no report .* name the report.json"),
        ('{"format": "other"}', "is no report .* name the report.json"),
        ('{"format": "medcontrast report 1"}', "damaged report, KeyError"),
        ('{"format": "medcontrast report 1", "cases": {"a": [{"dice": 1}]}, "bootstrap": {}}', "damaged report"),
        ('{"format": "medcontrast report 1", "cases": 3, "bootstrap": {}}', "damaged report"),
    ],
)
def test_reading_something_else(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        Report.load(path)
    with pytest.raises(
        InputError, match=r"absent\.json: cannot be read \(No such file or directory\); name the report"
    ):
        Report.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [("dice", "0.9"), ("missed", 1), ("asd_mm", True), ("dice", False), ("asd_mm", math.nan), ("target", 3)],
)
def test_damaged_fields_are_refused(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "report.json"
    report(0.7, 0.8).save(path)
    content = json.loads(path.read_text())
    content["cases"]["case1"][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"damaged report, TypeError: {field} holds {value!r}"):
        Report.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resamples", "x"),
        ("resamples", 0),
        ("resamples", True),
        ("seed", -1),
        ("seed", 0.5),
        ("level", 1),
        ("level", None),
    ],
)
def test_damaged_settings_of_the_bootstrap_are_refused(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "report.json"
    report(0.7, 0.8).save(path)
    content = json.loads(path.read_text())
    content["bootstrap"][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"damaged report, TypeError: {field} of the bootstrap holds {value!r}"):
        Report.load(path)


def test_cases_must_match() -> None:
    with pytest.raises(InputError, match="at least one case"):
        Report({})
    with pytest.raises(InputError, match=r"Case 'b' was scored on targets 'aorta'.* but case 'a' on .*'left atrium'"):
        Report({"a": [score(0.5)], "b": [score(0.5, target="aorta")]})
    with pytest.raises(InputError, match="same targets, tolerance and units"):
        Report({"a": [score(0.5)], "b": [score(0.5, tolerance_mm=1.0)]})


def test_level_of_the_intervals_is_the_report_s() -> None:
    # means of two draws from {0, 1} are 0, 1/2, 1 with chances 1/4, 1/2, 1/4
    wide, narrow = (report(0.0, 1.0, level=level).summary["left atrium"].metrics["dice"] for level in (0.95, 0.4))
    assert (wide.low, wide.high, narrow.low, narrow.high) == (0.0, 1.0, 0.5, 0.5)
