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
    assert facts["pooled"][1]["predictions"].endswith("masks_1")
    again = cli(*pooled_words(folds), "--against", folds / "whole" / "report.json")
    assert again.code == 0 and "on the same 2 cases" in " ".join(again.out.split())
    report = folds / "fold1" / "evaluation_validation_last" / "report.json"
    assert cli("evaluate", "--pool", folds / "fold0", "--pool", report).code == 0


def test_unlike_folds_are_told(cli, folds):
    for number, share in enumerate((0.5, 0.75)):
        path = folds / f"fold{number}" / "evaluation_validation_last" / "evaluation.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"inference": {"overlap": share}}))
    result = cli(*pooled_words(folds))
    assert result.code == 0, result.err
    warning = "Warning: the evaluations have 2 different settings of inference: this is no score of one way to predict."
    assert warning in " ".join(result.out.split())
    assert "different splits" not in result.out


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
        f"{folds / 'masks'}: holds no evaluation; score it first with `medcontrast evaluate --ckpt {folds / 'masks'}`.",
    )
    refused(cli("evaluate", "--pool", folds / "fold0", "--pool", folds / "none"), "none: cannot be read")
    copy = folds / "fold1" / "evaluation_test_last"
    copy.mkdir()
    (copy / "report.json").write_bytes((copy.parent / "evaluation_validation_last" / "report.json").read_bytes())
    refused(
        cli(*pooled_words(folds)),
        "fold1: holds 2 evaluations (evaluation_test_last, evaluation_validation_last); name the folder of one",
    )
