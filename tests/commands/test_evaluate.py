"""Tests of `medcontrast evaluate`: whole, by exact sentence and exit code."""

from __future__ import annotations

import json

import numpy as np
import pytest


def test_evaluate_a_checkpoint(cli, refused, trained, tmp_path):
    result = cli("evaluate", "--ckpt", trained.folder, "-o", tmp_path / "scores", "--device", "cpu", "--voxels")
    assert result.code == 0, result.err
    assert "Warning" not in result.out
    folder = tmp_path / "scores"
    assert sorted(path.name for path in folder.iterdir()) == [
        "cases.csv",
        "evaluation.json",
        "report.json",
        "worst_cases.png",
    ]
    rows = (folder / "cases.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2
    assert "hd95_pooled_voxel" in rows[0]
    facts = json.loads((folder / "evaluation.json").read_text())
    assert (facts["split"], facts["manifest"]) == ("validation", "tiny")
    assert facts["checkpoints"][0]["step"] == 6
    assert facts["checkpoints"][0]["network"] == "teacher"
    refused(
        cli("evaluate", "--ckpt", trained.folder, "-o", folder, "--device", "cpu"),
        f"{folder / 'cases.csv'}: exists already; add --overwrite, or choose another folder with -o.",
    )
    words = ("--split", "labeled", "-o", folder, "--overwrite", "--device", "cpu")
    again = cli("evaluate", "--ckpt", trained.folder, *words)
    assert again.code == 0, again.err
    warning = f"Warning: 2 of 2 cases of tiny were labeled training cases of {trained.folder}; this is not a score on"
    assert f"{warning} new cases." in again.out.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Say what to score: --ckpt RUN (with --split), or --predictions FOLDER with --labels FOLDER."),
        (["--ckpt", "RUN", "--predictions", "x"], "Say what to score: "),
        (["--predictions", "x"], "--predictions goes with --labels: the folder of label files to score against."),
        (["--ckpt", "RUN", "--tolerance-mm", "0"], "--tolerance-mm 0.0: must be positive."),
        (
            ["--ckpt", "RUN", "--split", "training"],
            "there is no split 'training'; choose one of labeled, unlabeled, validation, test.",
        ),
        (["--ckpt", "nowhere"], "nowhere"),
        (["--ckpt", "RUN", "--manifest", "none.json"], "none.json: there is no such manifest."),
        (["--ckpt", "RUN", "--device", "abacus"], "abacus"),
    ],
)
def test_evaluate_with_wrong_words(cli, refused, trained, words, sentence):
    refused(cli("evaluate", *(trained.folder if word == "RUN" else word for word in words)), sentence)


@pytest.fixture
def masks(tiny, tmp_path):
    """Two label files and equal predictions."""
    for number in range(2):
        _, label = tiny.make_scan(number, (20, 18, 22), [1, 2])
        tiny.write_nifti(tmp_path / "labels" / f"case_{number}.nii", label)
        tiny.write_nifti(tmp_path / "masks" / f"case_{number}_seg.nii", label)
    return tmp_path / "masks", tmp_path / "labels", tmp_path


def test_evaluate_masks(cli, tiny, masks):
    predictions, labels, folder = masks
    result = cli("evaluate", "--predictions", predictions, "--labels", labels, "-o", folder / "scores")
    assert result.code == 0, result.err
    assert "label 1" in result.out
    rows = (folder / "scores" / "cases.csv").read_text().splitlines()
    assert [row.split(",")[:3] for row in rows[1:]] == [
        [f"case_{case}", f"label {value}", "1.0"] for case in (0, 1) for value in (1, 2)
    ]
    manifest = tiny.write_data(folder / "data", labeled=1, unlabeled=0)
    words = ("--predictions", predictions, "--labels", labels)
    assert "front" in cli("evaluate", *words, "--manifest", manifest).out
    for path in predictions.iterdir():
        path.rename(path.with_name(path.name.replace("_seg", "")))
    assert cli("evaluate", *words).code == 0
    assert cli("evaluate", "--predictions", labels, "--labels", labels).code == 0


def test_evaluate_masks_named_alike_on_both_sides(cli, masks):
    predictions, _, _ = masks
    assert cli("evaluate", "--predictions", predictions, "--labels", predictions).code == 0


def test_evaluate_masks_that_do_not_fit(cli, refused, tiny, masks):
    predictions, labels, folder = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels)
    _, label = tiny.make_scan(1, (20, 18, 22), [1, 2])
    mask = predictions / "case_1_seg.nii"
    tiny.write_nifti(mask, label, np.diag([1.0, 1.0, 1.5, 1.0]))
    refused(cli(*words), f"Case case_1: the prediction {mask} is not on the grid of {labels / 'case_1.nii'}: ")
    tiny.write_nifti(mask, label * 3)
    refused(cli(*words), f"{mask}: holds the value 3, which the label table does not name (known: 0, 1, 2).")
    mask.unlink()
    refused(cli(*words), f"{predictions}: no prediction for 1 of 2 labels (case_1.nii). A missing mask is not skipped")
    tiny.write_nifti(predictions / "case_0.nii", label)
    refused(cli(*words), "both case_0.nii and case_0_seg.nii are a prediction of case_0; keep one.")
    refused(
        cli("evaluate", "--predictions", folder / "no", "--labels", labels),
        f"{folder / 'no'}: there is no such folder.",
    )
    (folder / "empty").mkdir()
    refused(
        cli("evaluate", "--predictions", folder / "empty", "--labels", labels), f"{folder / 'empty'}: holds no volume"
    )
    assert not (folder / "evaluation").exists()
