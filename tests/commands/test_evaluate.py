"""Tests of `medcontrast evaluate --ckpt`: whole, by exact sentence and exit code."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from medcontrast.checkpoint import checkpoint_hash, load_weights, save_weights
from medcontrast.inference.predict import Predictor


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
        f"{folder / 'cases.csv'}: exists already (and 3 more); add --overwrite, or name another output.",
    )
    words = ("--split", "labeled", "-o", folder, "--overwrite", "--device", "cpu")
    again = cli("evaluate", "--ckpt", trained.folder, *words)
    assert again.code == 0, again.err
    warning = f"Warning: 2 of 2 cases of tiny were labeled training cases of {trained.folder}; this is not a score on"
    assert f"{warning} new cases." in again.out.replace("\n", " ")
    (kept,) = json.loads((folder / "evaluation.json").read_text())["warnings"]
    assert f"Warning: {kept}" == f"{warning} new cases."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            [],
            "Say what to score, and one thing alone: --ckpt RUN (with --split), or --predictions FOLDER with --labels",
        ),
        (["--ckpt", "RUN", "--predictions", "x"], "Say what to score, and one thing alone: "),
        (
            ["--predictions", "x"],
            "--predictions goes with --labels, the folder of label files to score against, or with",
        ),
        (["--predictions", "x", "--split", "test"], "or with --manifest and --split, whose label files those are."),
        (
            ["--ckpt", "RUN", "--labels", "x"],
            "--labels goes with --predictions; a checkpoint is scored on the labels of its manifest (--manifest",
        ),
        *(
            (
                ["--predictions", "x", "--labels", "x", *words],
                f"{words[0].replace('no-', '')} goes with --ckpt; masks of",
            )
            for words in (["--no-flips"], ["--device", "cpu"])
        ),
        *(
            (
                ["--predictions", "x", "--labels", "x", word, "x"],
                f"{word} goes with --ckpt, or with --predictions and no --labels: the label files are those named.",
            )
            for word in ("--split", "--root")
        ),
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


def test_flips_and_several_checkpoints_score_what_infer_writes(cli, tiny, trained, tmp_path):
    """The scores of a checkpoint are those of the masks that `infer` writes with the same words."""
    tiny.train(other := tiny.make_run(tmp_path / "b", tiny.recipe_tree("supervised", steps=1), validation=2))
    manifest = trained.folder / "manifest.json"
    with_both = ("--ckpt", trained.folder, "--ckpt", other.folder, "--flips", "--device", "cpu")
    scored = cli("evaluate", *with_both, "--manifest", manifest, "-o", tmp_path / "scores")
    assert scored.code == 0, scored.err
    facts = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert facts["inference"]["flips"] is True
    assert [entry["step"] for entry in facts["checkpoints"]] == [6, 1]
    made = cli("infer", *with_both, "--manifest", manifest, "--split", "validation", "-o", tmp_path / "masks")
    assert made.code == 0, made.err
    labels = tmp_path / "labels"
    labels.mkdir()
    for case in json.loads(manifest.read_text())["validation"]:
        file = next(trained.folder.parent.rglob(case["label"]))
        (labels / f"{case['case']}.nii").write_bytes(file.read_bytes())
    words = ("--labels", labels, "--tolerance-mm", "2")
    again = cli("evaluate", "--predictions", tmp_path / "masks", *words, "-o", tmp_path / "again")
    assert again.code == 0, again.err
    rows = [(tmp_path / name / "cases.csv").read_text() for name in ("scores", "again")]
    assert rows[0] == rows[1] and rows[0].count("\n") == 5
    alone = cli("evaluate", "--ckpt", trained.folder, "--device", "cpu", "-o", tmp_path / "alone")
    assert alone.code == 0, alone.err
    assert (tmp_path / "alone" / "cases.csv").read_text() != rows[0]


def test_a_checkpoint_against_an_earlier_evaluation(cli, refused, trained, tmp_path):
    words = ("evaluate", "--ckpt", trained.folder, "--device", "cpu")
    assert cli(*words, "-o", tmp_path / "first").code == 0
    before = tmp_path / "first" / "report.json"
    result = cli(*words, "-o", tmp_path / "second", "--against", before)
    assert result.code == 0, result.err
    facts = json.loads((tmp_path / "second" / "evaluation.json").read_text())
    found = facts["against"]["differences"]
    assert all(each["mean"] == 0.0 and each["p"] == 1.0 for figures in found.values() for each in figures.values())
    refused(cli(*words, "-o", tmp_path / "third", "--against", before, "--split", "labeled"), "needs the same cases")
    assert not (tmp_path / "third").exists()


def test_scores_on_other_cases_have_a_folder_of_their_own(cli, tiny, trained, tmp_path):
    run = shutil.copytree(trained.folder, tmp_path / "run")
    manifest = tiny.write_data(tmp_path / "data", labeled=1, unlabeled=0, validation=1)
    before = {path.name for path in run.iterdir()}
    result = cli("evaluate", "--ckpt", run, "--manifest", manifest, "--device", "cpu")
    assert result.code == 0, result.err
    assert {path.name for path in run.iterdir()} - before == {f"evaluation_{manifest.stem}_validation_last"}


def test_scores_of_several_networks_and_of_mirrored_versions_have_folders_of_their_own(cli, trained, tmp_path):
    run = shutil.copytree(trained.folder, tmp_path / "run")
    before = {path.name for path in run.iterdir()}
    for words in (["--ckpt", run, "--flips"], ["--no-flips"], []):
        result = cli("evaluate", "--ckpt", run, *words, "--device", "cpu")
        assert result.code == 0, result.err
    ends = ("last", "last_mean_of_2_flips", "last_no_flips")
    assert {path.name for path in run.iterdir()} - before == {f"evaluation_validation_{end}" for end in ends}


def test_a_checkpoint_is_scored_at_the_tolerance_that_is_named(cli, trained, tmp_path):
    words = ("--ckpt", trained.folder, "--device", "cpu")
    for name, more in (("own", ()), ("other", ("--tolerance-mm", "3.5"))):
        result = cli("evaluate", *words, "-o", tmp_path / name, *more)
        assert result.code == 0, result.err
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("own", "other")]
    own, other = ({score["tolerance_mm"] for case in found["cases"].values() for score in case} for found in reports)
    assert own == {trained.recipe.evaluation.tolerance_mm} != {3.5} and other == {3.5}


def test_a_label_off_its_scans_grid_is_what_is_at_fault(cli, refused, tiny, trained, tmp_path):
    manifest = tiny.write_data(tmp_path / "data", labeled=1, unlabeled=0, validation=1)
    label = tmp_path / "data" / "labels" / "case_01.nii"
    tiny.write_nifti(label, tiny.make_scan(1, (20, 18, 22), [1, 2])[1], np.diag([1.0, 1.0, 1.5, 1.0]))
    scan = tmp_path / "data" / "images" / "case_01_0.nii"
    words = ("--manifest", manifest, "-o", tmp_path / "scores", "--device", "cpu")
    refused(
        cli("evaluate", "--ckpt", trained.folder, *words),
        f"{label}: the label of case case_01 does not lie on the grid of its scan {scan}: its corners lie up to ",
        "; if it was drawn on this scan, its header was lost: copy the scan's header onto it, and do not resample it; "
        "else resample it onto that grid. `medcontrast data check` lists all such labels.",
    )


def test_a_label_that_stores_its_axes_in_another_order_is_the_same_label(cli, tiny, trained, tmp_path):
    """Trained on, validated by and checked without a fault: scored and drawn as any other."""
    manifest = tiny.write_data(tmp_path / "data", labeled=1, unlabeled=0, validation=1)
    words = ("--manifest", manifest, "--device", "cpu", "-o")
    assert cli("evaluate", "--ckpt", trained.folder, *words, tmp_path / "plain").code == 0
    path = tmp_path / "data" / "labels" / "case_01.nii"
    label = nib.load(path)
    turned = label.as_reoriented(nib.io_orientation(label.affine)[[2, 0, 1]] * [1, -1])
    assert turned.shape != label.shape
    voxels = np.asarray(turned.dataobj).copy()  # the file that is mapped is written over
    nib.save(nib.Nifti1Image(voxels, turned.affine, turned.header), path)
    done = cli("evaluate", "--ckpt", trained.folder, *words, tmp_path / "turned")
    assert done.code == 0, done.err
    tables, pictures = [], []
    for folder in ("turned", "plain"):
        tables.append(np.genfromtxt(tmp_path / folder / "cases.csv", delimiter=",", skip_header=1))
        pictures.append((tmp_path / folder / "worst_cases.png").read_bytes())
    assert np.isfinite(tables[0]).sum() > 10
    np.testing.assert_allclose(*tables, rtol=1e-12)  # sums over voxels in another order
    assert pictures[0] == pictures[1]


def test_what_is_said_of_a_checkpoint_is_of_the_one_that_was_scored(cli, tiny, trained, tmp_path, monkeypatch):
    """A run that still trains may put another file in its place meanwhile."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    file, plain = folder / "last.safetensors", Predictor.predict_scan
    expected = checkpoint_hash(file)

    def predict(self, images):
        tensors, header = load_weights(trained.folder / "last.safetensors")
        save_weights(file, tensors, {**header, "step": 999})
        return plain(self, images)

    monkeypatch.setattr(Predictor, "predict_scan", predict)
    assert cli("evaluate", "--ckpt", folder, "-o", tmp_path / "scores", "--device", "cpu").code == 0
    (said,) = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["checkpoints"]
    assert (said["sha256"], said["step"]) == (expected, 6)
    assert load_weights(file)[1]["step"] == 999


def test_voxels_that_the_network_never_saw_are_said(cli, tiny, trained, tmp_path):
    """Scores of scans on other grids are low for a reason that a reader must know."""
    manifest = tiny.write_data(tmp_path / "data", labeled=1, unlabeled=0, validation=1)
    for name in ("images/case_01_0.nii", "labels/case_01.nii"):
        path = tmp_path / "data" / name
        values = np.asanyarray(nib.load(path).dataobj).copy()  # its file is written over
        tiny.write_nifti(path, values, np.diag([1.0, 1.0, 4.0, 1.0]))
    words = ("--manifest", manifest, "-o", tmp_path / "scores", "--device", "cpu")
    result = cli("evaluate", "--ckpt", trained.folder, *words)
    assert result.code == 0, result.err
    scan = tmp_path / "data" / "images" / "case_01_0.nii"
    assert f"Warning: {scan}: has voxels of 1 x 1 x 4 mm along x, y, z, but the network was trained on" in result.out


def test_a_run_is_scored_on_the_files_that_its_recipe_names(cli, tiny, tmp_path, monkeypatch):
    """The manifest has no root, so that it would lead to $MEDCONTRAST_DATA."""
    path = tiny.write_data(tmp_path / "data", validation=1)
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "root"}))
    recipe = tiny.write_recipe(tmp_path / "r.yaml", tiny.set_key(tiny.recipe_tree(steps=1), "data.root", "data"))
    monkeypatch.setenv("MEDCONTRAST_DATA", str(tmp_path / "elsewhere"))
    for words in (("train", recipe, "-o", tmp_path / "run", "--accelerator", "cpu"),
                  ("evaluate", "--ckpt", tmp_path / "run", "--device", "cpu")):  # fmt: skip
        result = cli(*words)
        assert result.code == 0, result.err


def test_a_tilted_gantry_is_scored_in_the_world(cli, tiny, tmp_path):
    """15.5 % less than the product of the voxel's edges, and what the record of `infer` says."""
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.deg2rad(30))
    _, label = tiny.make_scan(0, (20, 18, 22), [1, 2])
    tiny.write_nifti(tmp_path / "labels" / "case.nii", label, affine)
    # two slices up: 2 mm, and by as much to the side as the gantry leans
    tiny.write_nifti(tmp_path / "masks" / "case.nii", np.roll(label, 2, axis=2), affine)
    words = ("--predictions", tmp_path / "masks", "--labels", tmp_path / "labels", "-o", tmp_path / "scores")
    assert cli("evaluate", *words).code == 0
    header, *rows = [row.split(",") for row in (tmp_path / "scores" / "cases.csv").read_text().splitlines()]
    for value, row in zip((1, 2), rows, strict=True):
        score = dict(zip(header, row, strict=True))
        assert float(score["volume_ml_reference"]) == pytest.approx((label == value).sum() / 1000)
        # the caps' nearest surface lies straight up, 2 mm off; along the leaning axis it would be 2.31 mm
        assert float(score["hd95_pooled_mm"]) == pytest.approx(2.0, abs=0.01)
