"""Tests of `medcontrast evaluate`: whole, by exact sentence and exit code."""

from __future__ import annotations

import json

import nibabel as nib
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
        f"{folder / 'cases.csv'}: exists already (and 3 more); add --overwrite, or name another output.",
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
        (
            ["--ckpt", "RUN", "--labels", "x"],
            "--labels goes with --predictions; a checkpoint is scored on the labels of its manifest (--manifest",
        ),
        *(
            (
                ["--predictions", "x", "--labels", "x", *words],
                f"{words[0].replace('no-', '')} goes with --ckpt; masks of",
            )
            for words in (["--split", "test"], ["--no-flips"], ["--device", "cpu"])
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
    again = cli("evaluate", "--predictions", tmp_path / "masks", "--labels", labels, "-o", tmp_path / "again")
    assert again.code == 0, again.err
    rows = [(tmp_path / name / "cases.csv").read_text() for name in ("scores", "again")]
    assert rows[0] == rows[1] and rows[0].count("\n") == 5
    alone = cli("evaluate", "--ckpt", trained.folder, "--device", "cpu", "-o", tmp_path / "alone")
    assert alone.code == 0, alone.err
    assert (tmp_path / "alone" / "cases.csv").read_text() != rows[0]


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


def test_masks_against_an_earlier_evaluation(cli, refused, tiny, masks):
    predictions, labels, folder = masks
    words = ("--predictions", predictions, "--labels", labels)
    assert cli("evaluate", *words, "-o", folder / "first").code == 0
    array = np.asarray(nib.load(predictions / "case_0_seg.nii").dataobj).copy()
    array[array == 1] = 0
    tiny.write_nifti(predictions / "case_0_seg.nii", array)
    before = folder / "first" / "report.json"
    result = cli("evaluate", *words, "-o", folder / "second", "--against", before)
    assert result.code == 0, result.err
    shown = " ".join(result.out.split())
    assert f"Difference to {before}, this minus that, on the same 2 cases label 1 Dice -0.5000" in shown
    assert "label 2 Dice +0.0000 [+0.0000, +0.0000] larger in 0, p 1.000" in shown
    kept = json.loads((folder / "second" / "evaluation.json").read_text())["against"]
    assert kept["report"] == str(before)
    assert kept["differences"]["label 1"]["dice"]["mean"] == -0.5
    refused(
        cli("evaluate", *words, "--against", before, "--tolerance-mm", "3"),
        f"{before}: needs the same targets, tolerance and units to be compared, but has targets",
    )
    (labels / "case_1.nii").unlink()
    (predictions / "case_1_seg.nii").unlink()
    refused(
        cli("evaluate", *words, "--against", before),
        f"{before}: needs the same cases to be compared, but 1 of them stand in only one of the two: case_1.",
    )
    refused(
        cli("evaluate", *words, "--against", folder / "none.json"),
        "none.json: cannot be read (No such file or directory); name the report.json of an evaluation.",
    )


def test_scores_stay_where_the_other_report_is_of_other_labels(cli, refused, masks):
    predictions, labels, folder = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels)
    assert cli(*words, "-o", folder / "first").code == 0
    before = folder / "first" / "report.json"
    content = json.loads(before.read_text())
    content["cases"]["case_0"][0]["volume_ml_reference"] *= 2
    before.write_text(json.dumps(content))
    refused(cli(*words, "-o", folder / "second", "--against", before), "Paired reports need the same labels")
    assert (folder / "second" / "report.json").is_file() and (folder / "second" / "cases.csv").is_file()


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


def test_the_tolerance_is_the_one_that_is_named(cli, tiny, masks):
    predictions, labels, folder = masks
    _, label = tiny.make_scan(0, (20, 18, 22), [1, 2])
    tiny.write_nifti(predictions / "case_0_seg.nii", np.roll(label, 2, axis=2))  # 2 mm off
    shares = {}
    for tolerance in (1.9, 2.0):
        out = folder / f"scores {tolerance}"
        words = ("--predictions", predictions, "--labels", labels, "-o", out, "--tolerance-mm", tolerance)
        result = cli("evaluate", *words)
        assert result.code == 0, result.err
        assert f"Tolerance of the surface Dice: {tolerance:g} mm." in result.out
        header, first, *_ = [row.split(",") for row in (out / "cases.csv").read_text().splitlines()]
        score = dict(zip(header, first, strict=True))
        assert float(score["tolerance_mm"]) == tolerance
        shares[tolerance] = float(score["surface_dice"])
    assert shares[1.9] < shares[2.0] == 1.0


def test_a_checkpoint_is_scored_at_the_tolerance_that_is_named(cli, trained, tmp_path):
    words = ("--ckpt", trained.folder, "--device", "cpu")
    for name, more in (("own", ()), ("other", ("--tolerance-mm", "3.5"))):
        result = cli("evaluate", *words, "-o", tmp_path / name, *more)
        assert result.code == 0, result.err
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("own", "other")]
    own, other = ({score["tolerance_mm"] for case in found["cases"].values() for score in case} for found in reports)
    assert own == {trained.recipe.evaluation.tolerance_mm} != {3.5} and other == {3.5}


def test_ignored_voxels_count_for_nothing(cli, refused, tiny, masks, tmp_path):
    predictions, labels, folder = masks
    for number in range(2):
        _, label = tiny.make_scan(number, (20, 18, 22), [1, 2])
        tiny.write_nifti(predictions / f"case_{number}_seg.nii", np.where(np.arange(22) < 11, label, 1))
        tiny.write_nifti(labels / f"case_{number}.nii", np.where(np.arange(22) < 11, label, 9).astype(np.uint8))
    words = ("evaluate", "--predictions", predictions, "--labels", labels, "-o", folder / "scores", "--overwrite")
    plain = tiny.write_data(folder / "plain", labeled=1, unlabeled=0)
    refused(cli(*words, "--manifest", plain), f"{labels / 'case_0.nii'}: holds the value 9, which the label table does")
    ignoring = tiny.write_data(folder / "ignoring", labeled=1, unlabeled=0, ignore_label=9)
    result = cli(*words, "--manifest", ignoring)
    assert result.code == 0, result.err
    rows = [row.split(",") for row in (folder / "scores" / "cases.csv").read_text().splitlines()[1:]]
    assert [row[:3] for row in rows] == [[f"case_{case}", name, "1.0"] for case in (0, 1) for name in ("front", "back")]


def test_evaluate_masks_named_alike_on_both_sides(cli, masks):
    predictions, _, _ = masks
    assert cli("evaluate", "--predictions", predictions, "--labels", predictions).code == 0


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAL"])
def test_masks_may_store_their_axes_in_any_order(cli, masks, axes):
    """Of a program that turns what it loads: the scores are the same, to the last digit."""
    predictions, labels, folder = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels, "--overwrite", "-o")
    assert cli(*words, folder / "before").code == 0
    for path in predictions.iterdir():
        image = nib.load(path, mmap=False)
        turns = nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(axes))
        )
        nib.save(image.as_reoriented(turns), path)
        assert nib.aff2axcodes(nib.load(path).affine) == tuple(axes)
    result = cli(*words, folder / "after")
    assert result.code == 0, result.err
    before, after = ((folder / name / "cases.csv").read_text() for name in ("before", "after"))
    assert before == after


def test_what_is_odd_about_a_label_s_grid_is_said(cli, masks):
    predictions, labels, folder = masks
    for path in (*predictions.iterdir(), *labels.iterdir()):
        array = np.asanyarray(nib.load(path, mmap=False).dataobj)
        odd = nib.Nifti1Image(array, None)
        odd.set_sform(np.diag([2.0, 2.0, 2.0, 1.0]), 1)  # its pixdim stays 1
        nib.save(odd, path)
    result = cli("evaluate", "--predictions", predictions, "--labels", labels, "-o", folder / "scores")
    assert result.code == 0, result.err
    said = [line for line in result.out.splitlines() if line.startswith("Warning: ")]
    assert len(said) == 2 and all("its pixdim is not the size of its sform's voxels" in line for line in said)
    kept = json.loads((folder / "scores" / "evaluation.json").read_text())["warnings"]
    assert [f"Warning: {warning}" for warning in kept] == said


def test_evaluate_masks_that_do_not_fit(cli, refused, tiny, masks):
    predictions, labels, folder = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels)
    _, label = tiny.make_scan(1, (20, 18, 22), [1, 2])
    mask = predictions / "case_1_seg.nii"
    tiny.write_nifti(mask, label, np.diag([1.0, 1.0, 1.5, 1.0]))
    refused(cli(*words), f"Case case_1: the prediction {mask} is not on the grid of {labels / 'case_1.nii'}: ")
    tiny.write_nifti(mask, label * 3)
    refused(
        cli(*words),
        f"{mask}: holds the value 3, which the label table does not name (known: 0, 1, 2); correct the file, or give a "
        "manifest that names the value with --manifest.",
    )
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


def test_exports_of_the_masks_are_left_aside(cli, refused, tiny, masks):
    """What `infer` and `export` leave in one folder is what they leave for an evaluation."""
    predictions, labels, folder = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels)
    manifest = tiny.write_data(folder / "data", labeled=1, unlabeled=0)
    for number in (0, 1):
        mask = predictions / f"case_{number}_seg.nii"
        assert cli("export", mask, "--format", "seg.nrrd", "--labels", manifest).code == 0
    result = cli(*words, "-o", folder / "scores")
    assert result.code == 0, result.err
    mask.unlink()
    assert cli(*words).code == 0  # then the export is all there is
    (predictions / "case_1.nrrd").write_bytes((predictions / "case_1_seg.seg.nrrd").read_bytes())
    refused(cli(*words), "both case_1.nrrd and case_1_seg.seg.nrrd are a prediction of case_1; keep one.")


def test_masks_without_a_label_are_counted(cli, tiny, masks):
    predictions, labels, folder = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels, "-o", folder / "scores", "--overwrite")
    _, label = tiny.make_scan(0, (20, 18, 22), [1, 2])
    for name in ("case_0_prob", "case_0_entropy"):  # maps of a mask
        tiny.write_nifti(predictions / f"{name}.nii", label)
    assert "Warning" not in cli(*words).out
    for number, (count, shown) in enumerate(
        (
            ("1 mask has", "case_2_seg.nii"),
            ("2 masks have", "case_2_seg.nii, case_3_seg.nii"),
            ("6 masks have", ", ".join(f"case_{case}_seg.nii" for case in range(2, 7)) + ", ..."),
        )
    ):
        for case in range(2, (3, 4, 8)[number]):
            tiny.write_nifti(predictions / f"case_{case}_seg.nii", label)
        result = cli(*words)
        assert result.code == 0, result.err
        sentence = f"{predictions}: {count} no label in {labels}, and no score ({shown}); 2 are scored."
        assert f"Warning: {sentence}\n" in result.out
        assert json.loads((folder / "scores" / "evaluation.json").read_text())["warnings"] == [sentence]


def test_no_picture_of_an_earlier_evaluation_is_left_beside_new_tables(cli, refused, masks):
    predictions, labels, folder = masks
    scores = folder / "scores"
    picture = scores / "worst_cases.png"
    words = ("evaluate", "--predictions", predictions, "--labels", labels, "-o", scores)
    scores.mkdir()
    picture.touch()
    result = cli(*words)  # the picture alone is in nobody's way, and not ours to take away
    assert result.code == 0, result.err
    sentence = f"{picture}: is of an earlier evaluation and shows other cases than these tables; move it away."
    assert f"Warning: {sentence}\n" in result.out and picture.exists()
    refused(
        cli(*words), f"{scores / 'cases.csv'}: exists already (and 2 more); add --overwrite, or name another output."
    )
    assert picture.exists()
    result = cli(*words, "--overwrite")
    assert result.code == 0 and "Warning" not in result.out, result.err
    assert sorted(path.name for path in scores.iterdir()) == ["cases.csv", "evaluation.json", "report.json"]


def test_two_labels_of_one_case_are_refused(cli, refused, tiny, masks):
    predictions, labels, _ = masks
    tiny.write_nifti(labels / "case_1.nii.gz", np.ones((20, 18, 22), np.uint8))
    refused(
        cli("evaluate", "--predictions", predictions, "--labels", labels),
        f"{labels}: both case_1.nii and case_1.nii.gz are a label of case_1; keep one.",
    )


def test_a_record_beside_a_mask_may_be_damaged_or_anothers(cli, refused, masks):
    predictions, labels, _ = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels)
    record = predictions / "case_0_seg.json"
    for anothers in ("[1, 2]", '{"RepetitionTime": 2.5}', '{"labels": 3}', '{"labels": ["x"]}', "null"):
        record.write_text(anothers)
        result = cli(*words)
        assert result.code == 0 and "label 1" in result.out, result.err
    for damaged in (b"{", b"", b"\xff\xfe{"):
        record.write_bytes(damaged)
        refused(cli(*words), f"{record}: not valid JSON (", "); take it away, or name the labels with --manifest.")
    record.write_text('{"labels": {"background": 0, "front": 1}}')
    refused(cli(*words), f"{record}: label values are whole numbers, but got 'background'; take it away, or name the")
    record.write_text('{"labels": {"labels": {"0": "background", "1": "front", "2": "back"}}}')
    assert "front" in cli(*words).out


def test_a_label_off_its_scans_grid_is_what_is_at_fault(cli, refused, tiny, trained, tmp_path):
    manifest = tiny.write_data(tmp_path / "data", labeled=1, unlabeled=0, validation=1)
    label = tmp_path / "data" / "labels" / "case_01.nii"
    tiny.write_nifti(label, tiny.make_scan(1, (20, 18, 22), [1, 2])[1], np.diag([1.0, 1.0, 1.5, 1.0]))
    scan = tmp_path / "data" / "images" / "case_01_0.nii"
    words = ("--manifest", manifest, "-o", tmp_path / "scores", "--device", "cpu")
    refused(
        cli("evaluate", "--ckpt", trained.folder, *words),
        f"{label}: the label of case case_01 does not lie on the grid of its scan {scan}: its corners lie up to ",
        "Resample it onto that grid; `medcontrast data check` lists all such labels.",
    )


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
