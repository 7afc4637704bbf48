"""Tests of `medcontrast evaluate --predictions`: whole, by exact sentence and exit code."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from medcontrast.engine import evaluation_output


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


def test_an_ending_that_all_labels_have_is_no_part_of_the_cases_names(cli, refused, masks):
    predictions, labels, folder = masks
    words = ("--predictions", predictions, "--labels", labels)
    assert cli("evaluate", *words, "-o", folder / "first").code == 0
    for path in labels.iterdir():
        path.rename(path.with_name(f"{path.stem}_seg.nii"))
    result = cli("evaluate", *words, "--against", folder / "first" / "report.json")
    assert result.code == 0, result.err
    assert "on the same 2 cases" in " ".join(result.out.split())
    (labels / "case_0_seg.nii").rename(labels / "case_0.nii")  # one without: then it is part of the name
    refused(
        cli("evaluate", *words, "--against", folder / "first" / "report.json"),
        "only one of the two: case_1, case_1_seg",
    )


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
    assert {path.name for path in (folder / "second").iterdir()} == {"report.json", "cases.csv", "evaluation.json"}


def test_files_are_whole_before_anything_is_shown(cli, masks, monkeypatch):
    """Whoever reads what is shown may leave, as `head` does; facts of earlier scores must not stand beside new ones."""
    predictions, labels, folder = masks
    words = ("evaluate", "--predictions", predictions, "--labels", labels, "-o", folder / "scores")
    assert cli(*words).code == 0

    def leave(*_):
        raise SystemExit(141)

    monkeypatch.setattr(evaluation_output, "show_report", leave)
    assert cli("evaluate", "--predictions", labels, *words[3:], "--overwrite").code == 141
    facts = json.loads((folder / "scores" / "evaluation.json").read_text())
    assert facts["predictions"] == str(labels) and facts["warnings"]


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
    predictions, labels, _ = masks
    itself = cli("evaluate", "--predictions", predictions, "--labels", predictions)
    assert itself.code == 0
    said = "Warning: the masks of 2 of 2 cases are their own labels (case_0 the first), and score as such."
    assert said in itself.out
    assert said not in cli("evaluate", "--predictions", predictions, "--labels", labels).out


@pytest.mark.parametrize("ending", ["_seg", "_label", "_Mask", "_pred", ".prediction"])
@pytest.mark.parametrize("called", ["CASE_label", "CASE.labels", "CASE/label", "CASE/CASE_seg", "CASE/CASE", "CASE"])
def test_masks_and_labels_as_other_programs_call_them(cli, masks, ending, called):
    predictions, labels, folder = masks
    for number in (0, 1):
        case = f"case_{number}"
        (predictions / f"{case}_seg.nii").rename(predictions / f"{case}{ending}.nii")
        place = labels / f"{called.replace('CASE', case)}.nii"
        place.parent.mkdir(exist_ok=True)
        (labels / f"{case}.nii").rename(place)
        if called in ("CASE/label", "CASE/CASE_seg"):
            (place.parent / "image.nii").touch()  # a scan is no label, and is not opened
    result = cli("evaluate", "--predictions", predictions, "--labels", labels, "-o", folder / "scores")
    assert result.code == 0, result.err
    assert "Warning" not in result.out
    rows = (folder / "scores" / "cases.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["case_0", "case_0", "case_1", "case_1"]


def test_masks_in_folders_of_their_cases(cli, refused, masks):
    predictions, labels, _ = masks
    for number in (0, 1):
        place = predictions / f"case_{number}"
        place.mkdir()
        (predictions / f"case_{number}_seg.nii").rename(place / "pred.nii")
    words = ("evaluate", "--predictions", predictions, "--labels", labels)
    result = cli(*words)
    assert result.code == 0, result.err
    assert "Warning" not in result.out
    (place / "mask.nii").write_bytes((place / "pred.nii").read_bytes())
    refused(cli(*words), f"{predictions}: both mask.nii and pred.nii are a prediction of case_1; keep one.")
    (place / "mask.nii").unlink()
    (place / "pred.nii").rename(place / "case_0_pred.nii")  # of another case, as its name says
    refused(
        cli(*words),
        f"{predictions}: no prediction for 1 of 2 labels (case_1.nii); it holds case_0/pred.nii. A missing mask is not "
        "skipped: make it, or take its label away, or name the split that was predicted by --manifest and --split; a "
        "mask is called as its label, CASE.nii.gz, or CASE_seg, CASE_label, CASE_mask, CASE_pred, or so in a folder "
        "CASE/.",
    )


def test_a_mask_without_a_label_is_said_with_its_folder(cli, masks):
    predictions, labels, _ = masks
    for number in (0, 1):
        (predictions / f"case_{number}").mkdir()
        (predictions / f"case_{number}_seg.nii").rename(predictions / f"case_{number}" / "seg.nii")
    (labels / "case_1.nii").unlink()
    result = cli("evaluate", "--predictions", predictions, "--labels", labels)
    assert f"1 mask has no label in {labels}, and no score (case_1/seg.nii); 1 are scored." in result.out, result.err
    assert "percentile bootstrap over the one case, which gives none, 10000 resamples" in " ".join(result.out.split())


def test_masks_against_a_split(cli, refused, tiny, tmp_path):
    """Cases are called as `infer --manifest` calls them, whatever their label files are called."""
    manifest = tiny.write_data(tmp_path / "data", labeled=2, unlabeled=0)
    raw = json.loads(manifest.read_text())
    for number, entry in enumerate(raw["labeled"]):
        entry |= {"case": f"case {number}", "patient": "one"}
    manifest.write_text(json.dumps(raw))
    predictions = tmp_path / "masks"
    predictions.mkdir()
    for number, entry in enumerate(raw["labeled"]):
        label = manifest.parent / entry["label"]
        (predictions / f"case_{number}_seg{''.join(label.suffixes)}").write_bytes(label.read_bytes())
    words = ("evaluate", "--predictions", predictions, "--manifest", manifest, "--split")
    result = cli(*words, "labeled", "-o", tmp_path / "scores")
    assert result.code == 0, result.err
    assert "front" in result.out and "the one patient of 2 cases" in result.out
    facts = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert facts["labels"] == f"the split labeled of {manifest}"
    refused(cli(*words, "training"), "there is no split 'training'; choose one of labeled, unlabeled, validation")
    next(predictions.iterdir()).unlink()
    refused(cli(*words, "labeled"), f"{predictions}: no prediction for 1 of 2 cases (case ")
    refused(cli(*words, "labeled"), "A missing mask is not skipped: make it; a mask is called as its case, CASE.nii.gz")
    label.unlink()
    refused(cli(*words, "labeled"), f"{manifest}: case case 1 of labeled has no label file to score against (")


def test_a_mask_stands_for_one_case(cli, refused, masks):
    predictions, labels, _ = masks
    (labels / "case_0_seg.nii").write_bytes((labels / "case_0.nii").read_bytes())
    result = cli("evaluate", "--predictions", predictions, "--labels", labels)
    refused(result, f"{predictions}: no prediction for 1 of 3 labels (case_0.nii); it holds ")


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
    refused(
        cli(*words), "if it was drawn on this scan, its header was lost: copy the scan's header onto it, and do not"
    )
    tiny.write_nifti(mask, label * 3)
    refused(
        cli(*words),
        f"{mask}: holds the value 3, which the label table does not name (known: 0, 1, 2); correct the file, or give a "
        "manifest that names the value with --manifest.",
    )
    mask.unlink()
    refused(cli(*words), f"{predictions}: no prediction for 1 of 2 labels (case_1.nii); it holds case_0_seg.nii. A")
    tiny.write_nifti(predictions / "case_0.nii", label)
    refused(cli(*words), "both case_0.nii and case_0_seg.nii are a prediction of case_0; keep one.")
    refused(
        cli("evaluate", "--predictions", folder / "no", "--labels", labels),
        f"{folder / 'no'}: there is no such folder.",
    )
    (folder / "empty").mkdir()
    refused(
        cli("evaluate", "--predictions", folder / "empty", "--labels", labels),
        f"{folder / 'empty'}: holds no volume",
        "itself, nor folders CASE/ with label.nii.gz or CASE_seg.nii.gz; put the files of all cases into it, each",
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
