"""Tests of `medcontrast pack`: whole; the packed model against the run it came from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medcontrast.checkpoint import checkpoint_hash, load_weights, save_weights
from medcontrast.engine.pack import FIGURES, in_half
from medcontrast.errors import CheckpointError, NonFiniteLossError
from medcontrast.volume import read_volume


def test_pack_a_run(cli, refused, trained, tmp_path):
    folder, notes = tmp_path / "models" / "tiny", tmp_path / "notes.md"
    notes.write_text("## Limits\n\nIt has seen two scans.\n")
    words = ("pack", trained.folder, "-o", folder, "--notes", notes, "--device", "cpu")
    result = cli(*words)
    assert result.code == 0, result.err
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors", "report.json"]
    card = (folder / "README.md").read_text()
    report = json.loads((folder / "report.json").read_text())
    (name, row), *_ = report["summary"].items()
    dice = row["metrics"]["dice"]
    assert f"| {name} | {dice['mean']:.3f} ({dice['low']:.3f} to {dice['high']:.3f}) |" in card
    for said in (
        "# tiny",
        "2 validation cases",
        "2 labeled, 2 unlabeled",
        "mean_teacher, 6 steps",
        "| predicts | windows [16, 16, 16], overlap 0.25, gaussian weights; ",
        "; all pieces kept |",
        "It has seen two",
    ):
        assert said in card, card
    refused(cli(*words), f"{folder / 'model.safetensors'}: exists already (and 2 more); add --overwrite")
    assert cli(*words, "--overwrite").code == 0


def test_the_card_counts_the_cases_that_were_learned_from(cli, tiny, tmp_path):
    """The manifest has unlabeled cases too, which a supervised run never reads."""
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=1), validation=1)
    tiny.train(run)
    assert cli("pack", run.folder, "-o", tmp_path / "model", "--device", "cpu").code == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| trained on | 2 labeled, 0 unlabeled cases (" in card


def test_scores_of_training_cases_are_called_so(cli, trained, tmp_path):
    sentence = "2 of these 2 labeled cases were trained on; no score on new cases."
    for split, said in (("labeled", True), ("validation", False)):
        result = cli("pack", trained.folder, "-o", tmp_path / split, "--split", split, "--device", "cpu")
        assert result.code == 0, result.err
        assert (f"Warning: {sentence}" in result.out) is said
        assert (f"**{sentence}**" in (tmp_path / split / "README.md").read_text()) is said


def test_the_packed_model_is_the_run_in_16_bits(cli, trained, tmp_path):
    assert cli("pack", trained.folder, "-o", tmp_path / "m", "--device", "cpu").code == 0
    before, header = load_weights(trained.folder / "last.safetensors")
    after, same = load_weights(tmp_path / "m" / "model.safetensors")
    assert before.keys() == after.keys()
    assert same["recipe"].pop("about")["gives"] == "the scores in report.json beside the weights"
    header["recipe"].pop("about")
    assert header == same
    for name, weight in before.items():
        assert after[name].dtype == weight.dtype
        torch.testing.assert_close(after[name], weight, atol=1e-4, rtol=1e-3)
    assert any(not torch.equal(after[name], before[name]) for name in before)  # it is rounded
    image = trained.manifest.validation[0].images[0]
    masks = []
    for model in (trained.folder, tmp_path / "m"):
        found = cli("infer", "--ckpt", model, image, "-o", tmp_path / f"of_{model.name}", "--device", "cpu")
        assert found.code == 0, found.err
        (file,) = (tmp_path / f"of_{model.name}").glob("*_seg.nii.gz")
        masks.append(read_volume(file, "label").array)
    assert np.mean(masks[0] != masks[1]) < 0.001


def test_what_checkpoints_of_before_do_not_say_of_their_scans_is_added(cli, tiny, tmp_path):
    tree = tiny.set_key(tiny.recipe_tree(steps=1), "data.intensity", {"kind": "as_stored"})
    run = tiny.make_run(tmp_path, tree, validation=1)
    tiny.train(run)
    weights, header = load_weights(run.folder / "last.safetensors")
    said = {key: header.pop(key) for key in ("values", "spacing_mm")}
    save_weights(run.folder / "last.safetensors", weights, header)
    assert cli("pack", run.folder, "-o", tmp_path / "model", "--device", "cpu").code == 0
    _, packed = load_weights(tmp_path / "model" / "model.safetensors")
    assert {key: packed[key] for key in said} == said


def test_training_scans_are_not_needed_where_the_checkpoint_says_all(cli, tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=1), validation=1)
    tiny.train(run)
    run.manifest.labeled[0].images[0].unlink()
    assert cli("pack", run.folder, "-o", tmp_path / "model", "--device", "cpu").code == 0


def test_one_case_has_figures_without_an_interval(cli, trained, tmp_path):
    folder = tmp_path / "models" / "one"
    done = cli("pack", trained.folder, "-o", folder, "--split", "test", "--device", "cpu")
    assert done.code == 0, done.err
    (name, row), *_ = json.loads((folder / "report.json").read_text())["summary"].items()
    means = (row["metrics"][metric]["mean"] for metric in FIGURES)
    card = (folder / "README.md").read_text()
    assert f"| {name} | {' | '.join(f'{mean:.3f}' for mean in means)} | {row['missed']} |" in card
    assert "1 test case, one run, these weights. The last checkpoint" in card
    assert f"SHA-256 {checkpoint_hash(folder / 'model.safetensors')}" in card


def test_what_fails_midway_leaves_no_file_and_what_was_there(cli, trained, tmp_path, monkeypatch):
    folder = tmp_path / "m"
    words = ("pack", trained.folder, "-o", folder, "--device", "cpu")

    def fails(*_, **__):
        raise NonFiniteLossError("no card")

    for name in ("score_checkpoints", "card"):
        with monkeypatch.context() as broken:
            broken.setattr(f"medcontrast.engine.pack.{name}", fails)
            found = cli(*words)
        assert (found.code, found.err) == (1, "no card\n")
        assert list(folder.iterdir()) == []
    assert cli(*words, "--split", "test").code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == {"README.md", "model.safetensors", "report.json"}
    with monkeypatch.context() as broken:
        broken.setattr("medcontrast.engine.pack.card", fails)
        assert cli(*words, "--overwrite").code == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_float16_cannot_hold_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"here: b holds values that float16 does not have"):
        in_half({"a": torch.ones(2), "b": torch.tensor([70_000.0])}, tmp_path / "here")
    assert in_half({"count": torch.tensor(70_000)}, tmp_path)["count"].dtype == torch.int64


def test_pack_with_wrong_words(cli, refused, trained, tmp_path):
    out = ("-o", tmp_path / "m", "--device", "cpu")
    refused(cli("pack", tmp_path / "nothing", *out), "not a run folder")
    refused(cli("pack", trained.folder / "last.safetensors", *out), "not a run folder")
    refused(cli("pack", trained.folder, *out, "--notes", tmp_path / "none.md"), "none.md: cannot be read as text")
    refused(cli("pack", trained.folder, *out, "--split", "training"), "there is no split 'training'")
    assert not list((tmp_path / "m").glob("*"))


def test_without_validation_cases_it_is_said_what_can_be_scored(cli, refused, tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=1))
    tiny.train(run)
    told = (
        f"{run.folder / 'manifest.json'}: the split 'validation' is empty; it has labeled, unlabeled; name one whose "
        "cases have label files by --split"
    )
    refused(cli("pack", run.folder, "-o", tmp_path / "m", "--device", "cpu"), f"{told}.")
    refused(
        cli("evaluate", "--ckpt", run.folder, "--device", "cpu"),
        f"{told}, or such cases of another manifest by --manifest.",
    )
    assert not (tmp_path / "m").exists()


def test_a_run_whose_data_lies_elsewhere_now(cli, refused, tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=1), validation=1)
    tiny.train(run)
    old, new = run.manifest.root, tmp_path / "another: place"
    old.rename(new)
    for words in (("evaluate", "--ckpt", run.folder), ("pack", run.folder, "-o", tmp_path / "my models" / "m")):
        told = f"is not there. Paths start from {old}; if the data lies elsewhere now, name its folder with --root."
        refused(cli(*words, "--device", "cpu"), told)
        done = cli(*words, "--device", "cpu", "--root", new)
        assert done.code == 0, done.err
    card = (tmp_path / "my models/m/README.md").read_text()
    assert f"medcontrast infer --ckpt '{tmp_path}/my models/m' scan.nii.gz" in card
    refused(cli("evaluate", "--predictions", new, "--labels", new, "--root", new), "--root goes with --ckpt, or with")
