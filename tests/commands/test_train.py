"""Tests of `medcontrast train`: whole, by exact sentence and exit code."""

from __future__ import annotations

import json

import nibabel as nib
import pytest
import torch

from medcontrast.checkpoint import load_resume, load_weights


def test_train_resume_and_its_last_words(cli, refused, place):
    run = place.parent / "run"
    result = cli("train", place, "-o", run, "--accelerator", "cpu")
    assert result.code == 0, result.err
    assert "Finished 2 steps in " in result.out
    assert f"Next: medcontrast evaluate --ckpt {run} --split validation" in result.out
    facts = json.loads((run / "run.json").read_text())
    assert facts["cases"] == {"labeled": 2, "unlabeled": 2, "validation": 1, "test": 1}
    assert (facts["processes"], facts["precision"]) == (1, "32-true")
    refused(cli("train", place, "-o", run), f"{run}: this folder holds something already.")
    recipe = (run / "resolved.yaml").read_text()
    refused(
        cli("train", "--resume", run, "--set", "train.save_every=7"),
        "this run is finished (2 of 2 steps). To go on, ask for more: --set train.steps=4",
    )
    assert (run / "resolved.yaml").read_text() == recipe
    result = cli("train", "--resume", run, "--set", "train.steps=3", "--accelerator", "cpu")
    assert result.code == 0, result.err
    assert "Resuming at step 2 of 3, by the recipe and the manifest that this folder keeps;" in result.out
    assert load_resume(run / "last.pt")["progress"]["step"] == 3
    assert "steps: 3" in (run / "resolved.yaml").read_text()
    assert cli("train", place, "-o", run, "--overwrite", "--accelerator", "cpu").code == 0
    assert load_resume(run / "last.pt")["progress"]["step"] == 2


def test_where_the_best_network_lies_is_said(cli, place):
    run = place.parent / "run"
    words = ("--accelerator", "cpu", "--set", "train.validate_every=1")
    result = cli("train", place, "-o", run, *words)
    assert result.code == 0, result.err
    assert f", in {run}/best.safetensors; the folder as --ckpt is the last step." in " ".join(result.out.split("\n"))
    assert (run / "best.safetensors").is_file()


def test_the_precision_asked_for_stays_with_the_run(cli, place):
    run = place.parent / "run"
    words = ("--accelerator", "cpu")

    def found():
        recipe = load_weights(run / "last.safetensors")[1]["recipe"]["train"]["precision"]
        assert f"precision: {recipe}" in (run / "resolved.yaml").read_text()
        return recipe, json.loads((run / "run.json").read_text())["precision"]

    assert cli("train", place, "-o", run, "--precision", "bf16-mixed", *words).code == 0
    assert found() == ("bf16-mixed", "bf16-mixed")
    assert cli("train", "--resume", run, "--set", "train.steps=3", *words).code == 0
    assert found() == ("bf16-mixed", "bf16-mixed")
    again = cli("train", "--resume", run, "--set", "train.steps=4", "--precision", "32-true", *words)
    assert again.code == 0, again.err
    assert found() == ("32-true", "32-true")


def test_paths_are_printed_as_they_are(cli, place):
    """Brackets are no markup, and a command that will be copied stands on one line, quoted as a shell needs it."""
    run = place.parent / "run[final]:cd:" / ("long" * 40)
    result = cli("train", place, "-o", run, "--accelerator", "cpu")
    assert result.code == 0, result.err
    assert f"; {run} holds the run." in result.out
    assert f"Next: medcontrast evaluate --ckpt '{run}' --split validation" in result.out.splitlines()


def test_a_run_that_saved_nothing_cannot_be_resumed(cli, refused, tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree())
    sentence = "nothing to resume from yet (no last.pt); train it again with --overwrite.\n"
    refused(cli("train", "--resume", run.folder, "--accelerator", "cpu"), f"{run.folder}: {sentence}")


def test_a_resume_says_what_to_do_where_the_data_moved(cli, refused, tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=2))
    tiny.train(run, steps=1)
    (tmp_path / "data").rename(tmp_path / "moved")
    words = ("train", "--resume", run.folder, "--accelerator", "cpu")
    refused(
        cli(*words),
        "files are not there, the first is ",
        f"or `medcontrast train --resume {run.folder} --set data.root=FOLDER` for this run alone.",
    )
    assert cli(*words, "--set", f"data.root={tmp_path / 'moved'}").code == 0


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
    unfinished = (
        f"Warning: {run}/last.safetensors is of step 1 of 2, of a run that is not finished; `medcontrast train "
        f"--resume {run}` goes on with it."
    )
    found = cli("evaluate", "--ckpt", run)
    assert unfinished in found.out, found.err
    found = cli("infer", "--ckpt", run, place.parent / "data/images/case_00_0.nii", "-o", place.parent / "masks")
    assert unfinished in found.err
    found = cli("pack", run, "-o", place.parent / "model")
    assert (
        unfinished in found.out and "| mean_teacher, 1 of 2 steps, " in (place.parent / "model/README.md").read_text()
    )
    assert "Warning" not in cli("evaluate", "--ckpt", place.parent / "model", "--manifest", run / "manifest.json").out
    assert "Finished 2 steps" in cli("train", "--resume", run, *words).out
    assert "Warning" not in cli("evaluate", "--ckpt", run, "--overwrite").out


def test_raw_values_taken_as_stored_are_said(cli, tiny, place):
    for path in (place.parent / "data" / "images").iterdir():
        image = nib.load(path, mmap=False)
        nib.save(nib.Nifti1Image(image.get_fdata() * 40 + 90, image.affine), path)
    words = ("--accelerator", "cpu", "--set", "data.intensity.kind=as_stored")
    found = cli("train", place, "-o", place.parent / "run", *words)
    assert (
        "Warning: data.intensity.kind as_stored leaves the labeled scans with means of 101 to 102 and " in found.out
    ), found.err


def test_a_start_that_is_not_there_says_what_the_recipe_needs(cli, refused, place):
    words = ("--accelerator", "cpu", "--set", "train.init_from=../none")
    found = cli("train", place, "-o", place.parent / "run", *words)
    refused(found, "none: there is no such checkpoint or run folder. The recipe needs ")


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
            "--accelerator abacus: expected one of auto, cpu, cuda, gpu, mps.",
        ),
        (["RECIPE", "-o", "OUT", "--precision", "8-bit"], "train.precision: input should be 'auto', '32-true', "),
        (
            ["RECIPE", "-o", "OUT", "--devices", "3", "--accelerator", "cpu"],
            "cannot be shared evenly by 3 process(es) with train.accumulate 1; it must be a multiple of 3.",
        ),
        (["RECIPE", "--set", "train.step=3"], "train.step: unknown key; did you mean 'steps'?"),
        (["RECIPE", "-o", "RECIPE/run"], " is no folder); name another output."),
    ],
)
def test_train_with_wrong_words(cli, refused, place, words, sentence):
    names = {"RECIPE": str(place), "OUT": str(place.parent / "run"), "RECIPE/run": f"{place}/run"}
    refused(cli("train", *(names.get(word, word) for word in words)), sentence)


def test_an_accelerator_that_is_not_there(cli, refused, place):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    refused(
        cli("train", place, "-o", place.parent / "run", "--accelerator", "cuda"), "--accelerator cuda: there is no such"
    )


def test_init_from_prints_its_counts(cli, place, trained, tmp_path):
    words = ("--set", f"train.init_from={trained.folder}", "--accelerator", "cpu")
    result = cli("train", place, "-o", tmp_path / "new", *words)
    assert result.code == 0, result.err
    assert result.out.startswith("Initialised ")
    assert f" tensors from {trained.folder / 'last.safetensors'}." in result.out.replace("\n", "")
