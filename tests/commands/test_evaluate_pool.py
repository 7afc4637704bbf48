"""Tests of `medcontrast evaluate --pool`: whole, by exact sentence and exit code."""

from __future__ import annotations

import csv
import json

import pytest


@pytest.fixture
def folds(cli, masks, tiny):
    """Two folds of one case each, scored as a run's own validation cases are; the second one's mask lacks label 1."""
    predictions, labels, folder = masks
    _, label = tiny.make_scan(1, (20, 18, 22), [1, 2])
    tiny.write_nifti(predictions / "case_1_seg.nii", label * (label != 1))
    for number in range(2):
        for source in (predictions, labels):
            part = folder / f"{source.name}_{number}"
            part.mkdir()
            for file in source.glob(f"case_{number}*"):
                (part / file.name).write_bytes(file.read_bytes())
        words = ("--predictions", folder / f"masks_{number}", "--labels", folder / f"labels_{number}")
        result = cli("evaluate", *words, "-o", folder / f"fold{number}" / "evaluation_validation_last")
        assert result.code == 0, result.err
    return folder


def pooled_words(folder):
    return "evaluate", "--pool", folder / "fold0", "--pool", folder / "fold1"


def test_folds_give_the_score_of_all_their_cases(cli, folds, masks):
    predictions, labels, _ = masks
    result = cli(*pooled_words(folds), "-o", folds / "joined")
    assert result.code == 0, result.err
    assert "label 1: 1 of 2 cases missed." in " ".join(result.out.split())
    assert cli("evaluate", "--predictions", predictions, "--labels", labels, "-o", folds / "whole").code == 0
    for name in ("cases.csv", "report.json"):
        assert (folds / "joined" / name).read_text() == (folds / "whole" / name).read_text()
    with (folds / "joined" / "cases.csv").open() as file:
        assert [float(row["dice"]) for row in csv.DictReader(file)] == [1.0, 1.0, 0.0, 1.0]
    facts = json.loads((folds / "joined" / "evaluation.json").read_text())
    assert [part["cases"] for part in facts["pooled"]] == [1, 1]
    assert facts["pooled"][1]["report"].endswith("fold1/evaluation_validation_last/report.json")
    assert facts["pooled"][1]["predictions"].endswith("masks_1") and facts["warnings"] == []
    assert "Warning" not in result.out


def test_it_compares_replaces_and_takes_reports_alone(cli, refused, folds):
    words, out = pooled_words(folds), folds / "joined"
    assert cli(*words, "-o", out).code == 0
    (out / "worst_cases.png").write_bytes(b"of another evaluation")
    refused(cli(*words, "-o", out), f"{out / 'cases.csv'}: exists already")
    again = cli(*words, "-o", out, "--overwrite", "--against", out / "report.json")
    assert again.code == 0 and "on the same 2 cases" in " ".join(again.out.split())
    assert sorted(path.name for path in out.iterdir()) == ["cases.csv", "evaluation.json", "report.json"]
    kept = json.loads((out / "evaluation.json").read_text())["against"]
    assert kept["differences"]["label 1"]["dice"]["mean"] == 0.0
    beside = folds / "fold1" / "evaluation_validation_last" / "evaluation.json"
    beside.unlink()
    assert cli("evaluate", "--pool", folds / "fold0", "--pool", beside.with_name("report.json")).code == 0
    beside.write_text("{")
    refused(cli(*words), f"{beside}: not valid JSON")


def change(folds, number, name="evaluation.json", **changes):
    path = folds / f"fold{number}" / "evaluation_validation_last" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def warnings(cli, *words):
    result = cli(*words)
    assert result.code == 0, result.err
    return [line.removeprefix("Warning: ") for line in result.out.splitlines() if line.startswith("Warning: ")]


def test_unlike_folds_are_told(cli, folds):
    last, best = ([{"file": f"runs/{name}.safetensors", "step": 9}] for name in ("last", "best"))
    for number, checkpoints in enumerate((last, last)):
        change(folds, number, inference={"overlap": 0.5}, split="validation", checkpoints=checkpoints)
    assert warnings(cli, *pooled_words(folds)) == []
    for number in range(2):
        change(folds, number, checkpoints=[{**best[0], "step": number}])
    assert warnings(cli, *pooled_words(folds)) == []  # the best of every fold is of a step of its own
    change(folds, 0, checkpoints=last)
    change(folds, 1, inference={"overlap": 0.75}, split="test")
    told = [
        "the evaluations are of different splits (test, validation).",
        "the evaluations are of unlike networks (last of step 9; best).",
        "the evaluations have 2 different settings of inference.",
    ]
    assert warnings(cli, *pooled_words(folds), "-o", folds / "joined") == told
    assert json.loads((folds / "joined" / "evaluation.json").read_text())["warnings"] == told


def test_what_an_evaluation_warned_of_is_told_again(cli, folds):
    change(folds, 1, warnings=["1 of 1 cases were what chose it."])
    (told,) = warnings(cli, *pooled_words(folds))
    assert told.endswith("fold1/evaluation_validation_last/report.json: 1 of 1 cases were what chose it.")


def test_a_patient_in_two_folds_is_told(cli, folds):
    change(folds, 0, "report.json", patients={"case_0": "someone"})
    assert warnings(cli, *pooled_words(folds)) == []
    change(folds, 1, "report.json", patients={"case_1": "someone"})
    (told,) = warnings(cli, *pooled_words(folds))
    assert told.startswith("1 patient has scans in several of the evaluations (someone the first), so that a network")


def test_a_pooled_evaluation_can_be_pooled_on(cli, folds, tiny):
    assert cli(*pooled_words(folds), "-o", folds / "joined").code == 0
    for number in range(2):
        change(folds, number, checkpoints=[{"file": "runs/last.safetensors", "step": number}])
    assert cli(*pooled_words(folds), "-o", folds / "joined", "--overwrite").code == 0
    third = folds / "fold2"
    third.mkdir()
    report = json.loads((folds / "fold1" / "evaluation_validation_last" / "report.json").read_text())
    report["cases"] = {"case_2": report["cases"]["case_1"]}
    (third / "report.json").write_text(json.dumps(report))
    assert warnings(cli, "evaluate", "--pool", folds / "joined", "--pool", third) == [
        f"{folds / 'joined' / 'report.json'}: the evaluations are of unlike networks (last of step 0; last of step 1).",
        "the evaluations are of unlike networks (last of step 0; last of step 1).",
    ]


def test_what_cannot_be_joined(cli, refused, folds):
    refused(cli("evaluate", "--pool", folds / "fold0"), "Joining takes at least two reports, but got 1.")
    refused(
        cli("evaluate", "--pool", folds / "fold0", "--pool", folds / "fold0"),
        "--pool: names one evaluation twice; name one of each fold.",
    )
    refused(
        cli(*pooled_words(folds), "--split", "test", "--voxels"),
        "--split, --voxels cannot go with --pool: folds are joined as they were scored.",
    )
    refused(
        cli("evaluate", "--pool", folds / "fold0", "--pool", folds / "masks"),
        f"{folds / 'masks'}: holds no evaluation; name its folder, its report.json or a run that has one (`medcontrast",
    )
    refused(cli("evaluate", "--pool", folds / "fold0", "--pool", folds / "none"), "none: cannot be read")
    copy = folds / "fold1" / "evaluation_test_last"
    copy.mkdir()
    (copy / "report.json").write_bytes((copy.parent / "evaluation_validation_last" / "report.json").read_bytes())
    refused(
        cli(*pooled_words(folds)),
        "fold1: holds 2 evaluations (evaluation_test_last, evaluation_validation_last); name the folder of one",
    )
