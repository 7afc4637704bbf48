"""Tests of the command line: whole (exact sentences and exit codes, mostly in process)."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import medcontrast
from medcontrast.checkpoint import load_resume


@pytest.fixture
def place(tiny, tmp_path):
    """Data and a recipe; gives the recipe's path."""
    tiny.write_data(tmp_path / "data", validation=1, test=1)
    return tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe_tree("mean_teacher", steps=2))


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A run of six steps; the tests below do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    run = tiny.make_run(folder, tiny.recipe_tree("mean_teacher", optimizer={"lr": 0.01}), validation=2, test=1)
    tiny.train(run)
    return run


def refused(result, *sentences):
    assert result.code == 2, (result.out, result.err)
    assert "Traceback" not in result.err
    for sentence in sentences:
        assert sentence in result.err, result.err


def test_version_and_help(cli):
    assert cli("--version").out == f"medcontrast {medcontrast.__version__}\n"
    shown = cli("--help")
    assert shown.code == 0
    for command in ("recipes", "check", "data", "recipe", "train", "evaluate", "infer", "export"):
        assert f" {command} " in shown.out


@pytest.mark.parametrize(
    "words", [["--help"], ["check", "RECIPE"], ["recipes"], ["train", "--help"], ["train", "nothing.yaml"]]
)
def test_answers_that_need_no_torch_do_not_import_it(place, words):
    program = (
        "import sys\nfrom medcontrast.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'monai', 'numpy', 'lightning_fabric', 'nibabel'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    words = [str(place) if word == "RECIPE" else word for word in words]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_check_without_faults(cli, place):
    result = cli("check", place)
    manifest = place.parent / "data" / "manifest.json"
    assert result.code == 0
    assert result.out.splitlines() == [
        f"{place}: no faults. Method mean_teacher, network dynunet, 2 steps.",
        f"{manifest}: 2 labeled, 2 unlabeled, 1 validation, 1 test; 3 classes. Data folder: {manifest.parent}",
    ]


def test_check_names_faults_and_opens_no_scan(cli, tiny, place):
    for path in (place.parent / "data" / "images").iterdir():
        path.unlink()
    assert cli("check", place).code == 0
    result = cli("check", place, "--set", "train.setps=3", "--set", "seed=x")
    refused(result, f"2 faults in {place}:\n  - seed: input should be a valid integer, but got 'x'\n")
    refused(result, "  - train.setps: unknown key; did you mean 'steps'?\n")
    tree = tiny.recipe_tree(manifest="nowhere.json")
    other = tiny.write_recipe(place.parent / "other.yaml", tree)
    refused(cli("check", other), "nowhere.json: there is no such manifest.")


def test_check_refuses_overlapping_splits(cli, place):
    path = place.parent / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["test"] = manifest["labeled"][:1]
    path.write_text(json.dumps(manifest))
    refused(cli("check", place), "case case_00 stands in labeled and in test; splits must not overlap")


def test_recipes_lists_what_comes_along(cli):
    result = cli("recipes")
    assert result.code == 0
    assert "recipes/" in result.out and "fba_net" in result.out


def test_train_resume_and_its_last_words(cli, place):
    run = place.parent / "run"
    result = cli("train", place, "-o", run, "--accelerator", "cpu")
    assert result.code == 0, result.err
    assert "Finished 2 steps in " in result.out
    assert f"Next: medcontrast evaluate --ckpt {run} --split validation" in result.out
    facts = json.loads((run / "run.json").read_text())
    assert facts["cases"] == {"labeled": 2, "unlabeled": 2, "validation": 1, "test": 1}
    assert (facts["processes"], facts["precision"]) == (1, "32-true")
    refused(cli("train", place, "-o", run), f"{run}: this folder holds something already.")
    refused(
        cli("train", "--resume", run),
        "this run is finished (2 of 2 steps). To go on, ask for more: --set train.steps=4",
    )
    result = cli("train", "--resume", run, "--set", "train.steps=3", "--accelerator", "cpu")
    assert result.code == 0, result.err
    assert "Resuming at step 2 of 3." in result.out
    assert load_resume(run / "last.pt")["progress"]["step"] == 3
    assert cli("train", place, "-o", run, "--overwrite", "--accelerator", "cpu").code == 0
    assert load_resume(run / "last.pt")["progress"]["step"] == 2


def test_a_run_that_saved_nothing_cannot_be_resumed(cli, tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree())
    sentence = "nothing to resume from yet (no last.pt); train it again with --overwrite.\n"
    refused(cli("train", "--resume", run.folder, "--accelerator", "cpu"), f"{run.folder}: {sentence}")


def test_max_time_saves_and_resume_goes_on(cli, place):
    run = place.parent / "run"
    words = ("--max-time", "0.001s", "--accelerator", "cpu")
    result = cli("train", place, "-o", run, *words)
    assert result.code == 0, result.err
    sentence = (
        f"Stopped at step 1 of 2 because the time limit is reached; saved. Go on with: medcontrast train --resume {run}"
    )
    assert sentence in result.out
    assert load_resume(run / "last.pt")["progress"]["step"] == 1
    assert "Finished 2 steps" in cli("train", "--resume", run, *words).out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Name a recipe (`medcontrast recipes` lists them), or --resume RUN."),
        (["none.yaml"], "none.yaml: there is no such recipe. `medcontrast recipes` lists those that come along."),
        (["RECIPE", "--resume", "run"], "--resume RUN goes without a recipe, -o and --overwrite"),
        (["--resume", "nowhere"], "nowhere: not a run folder (it has no resolved.yaml)."),
        (["RECIPE", "--max-time", "soon"], "--max-time soon: expected a duration such as 90s, 9m or 1h30m."),
        (
            ["RECIPE", "-o", "OUT", "--accelerator", "abacus"],
            "--accelerator abacus, --devices 1, --precision 32-true: ",
        ),
        (["RECIPE", "-o", "OUT", "--precision", "8-bit"], "--precision 8-bit: "),
        (
            ["RECIPE", "-o", "OUT", "--devices", "3", "--accelerator", "cpu"],
            "cannot be shared evenly by 3 process(es) with train.accumulate 1; it must be a multiple of 3.",
        ),
        (["RECIPE", "--set", "train.step=3"], "train.step: unknown key; did you mean 'steps'?"),
        (["RECIPE", "-o", "RECIPE/run"], "cannot be written (Not a directory); choose another folder with -o."),
    ],
)
def test_train_with_wrong_words(cli, place, words, sentence):
    names = {"RECIPE": str(place), "OUT": str(place.parent / "run"), "RECIPE/run": f"{place}/run"}
    refused(cli("train", *(names.get(word, word) for word in words)), sentence)


def test_an_accelerator_that_is_not_there(cli, place):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    refused(cli("train", place, "-o", place.parent / "run", "--accelerator", "cuda"), "--accelerator cuda, --devices 1")


def scan_of(place, number=0):
    return place.parent / "data" / "images" / f"case_{number:02d}_0.nii"


def damage(kind, tiny, place):
    """Spoils the files of case_00, a labeled one; gives what the answer must name."""
    image, label = scan_of(place), place.parent / "data" / "labels" / "case_00.nii"
    array = nib.load(image).get_fdata(dtype=np.float32).copy()
    values = nib.load(label).get_fdata(dtype=np.float32).astype(np.uint8)
    if kind == "missing scan":
        image.unlink()
    elif kind == "missing label":
        label.unlink()
    elif kind == "truncated":
        image.write_bytes(image.read_bytes()[:5000])
    elif kind == "no scan at all":
        image.write_text("words")
    elif kind == "2D":
        tiny.write_nifti(image, array[:, :, 0])
    elif kind == "4D":
        tiny.write_nifti(image, np.stack([array, array], axis=-1))
    elif kind == "NaN":
        array[1, 2, 3] = np.nan
        tiny.write_nifti(image, array)
    elif kind == "infinite":
        array[1, 2, 3] = np.inf
        tiny.write_nifti(image, array)
    elif kind == "constant":
        tiny.write_nifti(image, np.full_like(array, 7.0))
    elif kind == "zero spacing":
        content = bytearray(image.read_bytes())
        content[80:92] = np.zeros(3, np.float32).tobytes()  # pixdim
        content[252:256] = np.zeros(2, np.int16).tobytes()  # no qform, no sform
        image.write_bytes(bytes(content))
    elif kind == "absurd spacing":
        tiny.write_nifti(image, array, np.diag([1e6, 1.0, 1.0, 1.0]))
    elif kind == "other grid":
        tiny.write_nifti(label, values, np.diag([1.0, 1.0, 2.0, 1.0]))
    elif kind == "other shape":
        tiny.write_nifti(label, values[:-1])
    elif kind == "unknown value":
        values = values.copy()
        values[1, 2, 3] = 9
        tiny.write_nifti(label, values)
    elif kind == "half a label":
        tiny.write_nifti(label, values + np.float32(0.5))
    return label if kind in ("missing label", "other grid", "other shape", "unknown value", "half a label") else image


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing scan", "1 of 6 files are not there, the first is"),
        ("missing label", "1 of 6 files are not there, the first is"),
        ("truncated", "damaged or cut off: its voxels cannot be read"),
        ("no scan at all", "not a NIfTI file, or its header is damaged"),
        ("2D", "is an image of 2 axes (20 x 18), but a volume of three axes is needed."),
        ("4D", "has 4 axes (20 x 18 x 22 x 2), but a volume of three is needed"),
        ("NaN", "1 of 7920 voxels are NaN or infinite, the first at index (1, 2, 3)"),
        ("infinite", "1 of 7920 voxels are NaN or infinite, the first at index (1, 2, 3)"),
        ("constant", "every voxel has the value 7; there is nothing to see in it."),
        ("zero spacing", "its voxels measure 0 x 0 x 0 mm, but each edge has to lie between 0.001 and 100 mm"),
        ("absurd spacing", "its voxels measure 1e+06 x 1 x 1 mm"),
        ("other grid", "all files of a case must lie on the grid of"),
        ("other shape", "its shape is 19 x 18 x 22, not 20 x 18 x 22"),
        ("unknown value", "label value 9 (1 voxels) is not in the manifest's table (0 background, 1 front, 2 back)"),
        ("half a label", "a label file holds whole numbers"),
    ],
)
def test_bad_data_gets_a_sentence_and_exit_code_2(cli, tiny, place, kind, words):
    named = damage(kind, tiny, place)
    run = place.parent / "run"
    result = cli("train", place, "-o", run, "--accelerator", "cpu")
    refused(result, str(named), words)
    assert len(result.err) < 600
    assert not (run / "last.pt").exists()


def test_after_bad_data_the_same_command_works(cli, tiny, place):
    content = scan_of(place).read_bytes()
    damage("missing scan", tiny, place)
    words = ("train", place, "-o", place.parent / "run", "--accelerator", "cpu")
    assert cli(*words).code == 2
    scan_of(place).write_bytes(content)
    assert cli(*words).code == 0


class Malice:
    def __reduce__(self):
        return (Path.touch, (Path(os.environ["MEDCONTRAST_TEST_TRAP"]),))


@pytest.mark.parametrize("command", ["resume", "evaluate", "init_from"])
@pytest.mark.parametrize("kind", ["pickle", "torch pickle", "text", "truncated", "foreign zip"])
def test_what_is_no_checkpoint_is_never_unpickled(cli, place, trained, tmp_path, monkeypatch, command, kind):
    trap = tmp_path / "sprung"
    monkeypatch.setenv("MEDCONTRAST_TEST_TRAP", str(trap))
    run = tmp_path / "copy"
    run.mkdir()
    for name in ("resolved.yaml", "manifest.json"):
        (run / name).write_bytes((trained.folder / name).read_bytes())
    path = run / "last.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Malice()))
    elif kind == "torch pickle":
        torch.save({"format": "medcontrast", "version": 1, "method": Malice()}, path)
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "truncated":
        path.write_bytes((trained.folder / "last.pt").read_bytes()[:-2000])
    else:
        torch.save({"somebody": torch.zeros(2)}, path)
    words = {
        "resume": ["train", "--resume", run, "--set", "train.steps=9", "--accelerator", "cpu"],
        "evaluate": ["evaluate", "--ckpt", path, "--device", "cpu"],
        "init_from": [
            "train",
            place,
            "-o",
            tmp_path / "new",
            "--set",
            f"train.init_from={path}",
            "--accelerator",
            "cpu",
        ],
    }[command]
    refused(cli(*words), str(path))
    assert not trap.exists()


def test_init_from_prints_its_counts(cli, place, trained, tmp_path):
    words = ("--set", f"train.init_from={trained.folder}", "--accelerator", "cpu")
    result = cli("train", place, "-o", tmp_path / "new", *words)
    assert result.code == 0, result.err
    assert result.out.startswith("Initialised ")
    assert f" tensors from {trained.folder / 'last.safetensors'}." in result.out.replace("\n", "")


def test_evaluate_a_checkpoint(cli, trained, tmp_path):
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
def test_evaluate_with_wrong_words(cli, trained, words, sentence):
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


def test_evaluate_masks_that_do_not_fit(cli, tiny, masks):
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
