"""Tests of pre-training runs: golden run (3 + resume + 3 = 6), property, whole (commands, exit codes, sentences)."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import torch
import yaml
from encoder_runs import EXTRA, VIEWS, runs_of, tree

from medcontrast.batch import StepInfo
from medcontrast.checkpoint import load_resume, load_weights, read_header, save_resume
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.engine.job import Pretraining, job_of
from medcontrast.errors import CheckpointError, RecipeError
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.networks.transfer import load_encoder
from medcontrast.settings import load_recipe, recipe_from_tree


@pytest.fixture
def run_of(tiny, tmp_path):
    return runs_of(tiny, tmp_path)


@pytest.mark.parametrize("method", VIEWS)
def test_three_steps_and_a_resume_are_six_bit_for_bit(tiny, run_of, method):
    whole, parts = run_of(method, "whole"), run_of(method, "parts")
    tiny.train(whole)
    tiny.train(parts, steps=3)
    tiny.train(tiny.open_run(parts.folder), resume=True)
    assert tiny.read_log(parts) == tiny.read_log(whole)
    left, right = (load_weights(run.folder / "last.safetensors")[0] for run in (whole, parts))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_encoder_is_left_behind_with_its_recipe(tiny, run_of):
    run = run_of("moco_v2")
    before = [p.clone() for p in tiny.train(run, steps=1).method.student.parameters()]
    tiny.train(tiny.open_run(run.folder), resume=True)
    tensors, header = load_weights(run.folder / "last.safetensors")
    encoder = build_encoder("resnet20", in_channels=1, width=4)
    assert load_encoder(encoder, tensors, where="it") == len(encoder.state_dict())
    assert any(not torch.equal(old, new) for old, new in zip(before, encoder.parameters(), strict=True))
    assert header["labels"] == {"classes": ["bright", "dark"]}
    assert len(header["trained_on"].pop("images_hash")) == 16
    assert header["trained_on"] == {"manifest": "squares", "images": 6}
    header = read_header(run.folder / "last.safetensors")
    assert read_header(run.folder / "last.pt") == header


@pytest.mark.parametrize("change", [{"rows": [1, 7]}, {"target": None}, {"quality": "low"}, {"of": "of"}])
def test_a_resume_keeps_its_images(tiny, run_of, tmp_path, change):
    """As many others, other targets, counterfactuals that come and go."""
    arrays = tmp_path / "data/images.npz"
    run = run_of()
    tiny.train(run, steps=2)
    np.savez(arrays, **np.load(arrays), of=[""] * 6 + ["images.npz#images[0]"] + [""] * 5)
    path = run.folder / "manifest.json"
    kept = path.read_text(encoding="utf-8")
    tree = json.loads(kept)
    tree["train"][0] |= {"rows": [0, 7], **change} if "of" in change else change
    tree["test"][0]["rows"] = [7, 12]
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"manifest\.json: its training cases are not those of the checkpoint\."):
        tiny.train(tiny.open_run(run.folder), resume=True)
    saved = load_resume(run.resume_file)
    del saved["header"]["trained_on"]["images_hash"]  # as before there was one: its name and number are all it says
    save_resume(run.resume_file, saved)
    assert tiny.train(tiny.open_run(run.folder), resume=True).state.step == 6


def test_an_image_of_low_quality_is_not_degraded_further(tiny, tmp_path):
    low = {"npz": "images.npz", "images": "images", "target": "labels", "rows": [0, 4]}
    train = [{**low, "quality": "low"}, {**low, "rows": [4, 8]}]
    tiny.write_squares(tmp_path / "data", train=train, test=[{**low, "rows": [8, 12]}])
    content = tree("simclr", rows=8)
    plain = {"crop": {"kind": "whole"}, "flip": 0.0, "photometric": {"jitter_probability": 0.0}}
    content["augment"]["views"] = {"first": plain, "second": {**plain, "degrade": {"kind": "xray"}}}
    run = tiny.make_run(tmp_path, content)
    job = job_of(run)
    loader, _ = job.loader(rank=0, world_size=1, start_step=0)
    batch = next(iter(loader))
    views = job.with_views(batch, StepInfo(0, 6, 0, 3))["views"]
    changed = (views["first"] != views["second"]).flatten(1).any(1)
    assert changed.tolist() == (batch["quality"] == 0).tolist()
    assert int(batch["quality"].sum()) == 4


def test_targets_never_reach_training(tiny, run_of, tmp_path):
    whole = run_of("simclr", "whole")
    tiny.train(whole)
    arrays = dict(np.load(tmp_path / "data/images.npz"))
    np.savez_compressed(tmp_path / "data/images.npz", images=arrays["images"], labels=1 - arrays["labels"])
    other = run_of("simclr", "other")
    tiny.train(other)
    assert tiny.read_log(other) == tiny.read_log(whole)


def test_train_check_and_resume_by_the_command(cli, tiny, tmp_path):
    tiny.write_squares(tmp_path / "data")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree("leoclr")), encoding="utf-8")
    checked = cli("check", path)
    assert checked.code == 0
    assert f"{path}: no faults. Method leoclr, network resnet20, 6 steps." in checked.out
    assert "1 source(s) of train images, 1 source(s) of test images; 2 classes." in checked.out
    done = cli("train", path, "-o", tmp_path / "run", "--accelerator", "cpu")
    assert done.code == 0, done.err
    assert f"Next: medcontrast probe --ckpt {tmp_path / 'run'}" in done.out
    finished = cli("train", "--resume", tmp_path / "run", "--accelerator", "cpu")
    assert finished.code == 2
    assert "this run is finished (6 of 6 steps)" in finished.err
    for command in (("infer", "scan.nii.gz", "-o", tmp_path / "out"), ("evaluate", "-o", tmp_path / "out")):
        refused = cli(command[0], "--ckpt", tmp_path / "run", *command[1:])
        assert refused.code == 2
        assert "Traceback" not in refused.err


def faulty(cli, tiny, tmp_path, change):
    tiny.write_squares(tmp_path / "data")
    content = tree()
    change(content)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = cli("train", path, "-o", tmp_path / "run", "--accelerator", "cpu")
    assert found.code == 2
    return found.err


def test_a_run_is_not_emptied_before_what_replaces_it_can_begin(cli, tiny, tmp_path):
    tiny.write_squares(tmp_path / "data")
    path = tiny.write_recipe(tmp_path / "tiny.yaml", tree(steps=1))
    words = ("train", path, "-o", tmp_path / "run", "--accelerator", "cpu")
    assert cli(*words).code == 0
    kept = {file.name: file.read_bytes() for file in (tmp_path / "run").glob("[!.]*") if file.is_file()}
    for change, sentence in (
        (("--set", "train.rows=8"), "6 training images are fewer than train.rows 8"),
        (("--set", f"train.init_from={tmp_path / 'run'}"), "train.init_from takes its tensors from this folder"),
        (("--set", f"train.init_from={tmp_path / 'none'}"), "there is no such checkpoint"),
        (("--devices", 3), "cannot be shared evenly by 3 process(es)"),
    ):
        found = cli(*words, "--overwrite", *change)
        assert found.code == 2 and sentence in found.err
        assert {name: (tmp_path / "run" / name).read_bytes() for name in kept} == kept
        assert not (tmp_path / "run" / ".replaced").exists()
    assert cli(*words, "--overwrite", "--set", "seed=3").code == 0
    assert not (tmp_path / "run" / ".replaced").exists()  # its first checkpoint is there
    counted = cli("check", path, "--set", "train.rows=8")
    assert counted.code == 2 and "6 training images are fewer than train.rows 8" in counted.err


def test_what_bad_input_gets(cli, tiny, tmp_path):
    cases = {
        "rows": (lambda c: c["train"].update(rows=8), "6 training images are fewer than train.rows 8"),
        "views": (lambda c: c["augment"]["views"].pop("second"), "method simclr needs augment.views.second"),
        "spare": (
            lambda c: c["augment"]["views"].update(third={}),
            "augment.views.third is made for nothing: method simclr uses first, second",
        ),
        "colour": (
            lambda c: c["augment"]["views"]["first"].update(photometric={"hue": 0.1}),
            "augment.views.first.photometric.hue is for colour, but data.channels is 1",
        ),
        "crop": (
            lambda c: c["augment"]["views"]["first"].update(same_crop_as="third"),
            "augment: views.first.same_crop_as 'third' must name a view with a crop of its own: second",
        ),
        "degrade": (
            lambda c: c["augment"]["views"]["first"].update(degrade={"kind": "ct"}),
            "augment.views.first.degrade.kind: expected one of 'fundus', 'xray', but got 'ct'",
        ),
        "key": (
            lambda c: c["augment"]["views"]["first"].update(degrade={"kind": "xray", "severty": 0.5}),
            "augment.views.first.degrade.severty: unknown key; did you mean 'severity'?",
        ),
        "one row": (
            lambda c: c["train"].update(rows=4, accumulate=4),
            "method simclr contrasts images within a micro-batch; it needs 2 rows or more in each",
        ),
    }
    for name, (change, sentence) in cases.items():
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        assert sentence in faulty(cli, tiny, folder, change), name


def test_manifests_of_the_other_kind_are_refused(cli, tiny, tmp_path):
    tiny.write_data(tmp_path / "data")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree()), encoding="utf-8")
    assert "this is a manifest of volumes" in cli("check", path).err
    images = tiny.write_squares(tmp_path / "images")
    volumes = tiny.write_recipe(tmp_path / "volumes.yaml", tiny.recipe_tree(manifest=str(images)))
    found = cli("check", volumes)
    assert found.code == 2
    assert "lists images, but method supervised segments volumes" in found.err


# --- views of different sizes


def sized(method, **sizes):
    """A recipe of images of 16 pixels whose views have sizes of their own."""
    content = tree()
    names = {"moco_v3": VIEWS["simclr"], "dino": ["global_first", "global_second", "local_1", "local_2"]} | VIEWS
    settings = {
        "moco_v3": {"embedding_channels": 8, "hidden_channels": 8},
        "dino": {"local_views": 2, "prototypes": 8, "hidden_channels": 8, "bottleneck_channels": 8},
    }
    content["augment"]["views"] = {name: {"size": sizes.get(name)} for name in names[method]}
    content["method"] = {"name": method, **settings.get(method, {"embedding_channels": 8}), **EXTRA.get(method, {})}
    return content


@pytest.mark.parametrize(
    ("method", "sizes", "named"),
    [
        ("simclr", {"second": 8}, {"first": 16, "second": 8}),
        ("dino", {"global_second": 8}, {"global_first": 16, "global_second": 8}),
        ("dino", {"local_1": 8, "local_2": 12}, {"local_1": 8, "local_2": 12}),
        ("multi_level", {"query_low": 8}, {"query_high": 16, "query_low": 8}),
        ("multi_level", {"key_high": 8}, {"key_high": 8, "key_low": 16}),
    ],
)
def test_views_that_are_joined_need_one_size(method, sizes, named):
    listed = ", ".join(rf"augment\.views\.{name} \({size} pixels\)" for name, size in named.items())
    with pytest.raises(RecipeError, match=f"method {method} joins {listed} in one batch; give them one size"):
        recipe_from_tree(sized(method, **sizes), where="test")


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        ("simclr", {"first": 16}),
        ("moco_v2", {"key": 8}),
        ("moco_v3", {"second": 8}),
        ("leoclr", {"anchor": 24, "second": 8}),
        ("dino", {"local_1": 8, "local_2": 8}),
        ("multi_level", {"query_high": 8, "query_low": 8}),
    ],
)
def test_views_that_go_through_alone_have_the_sizes_they_are_given(tiny, tmp_path, method, sizes):
    tiny.write_squares(tmp_path / "data")
    content = sized(method, **sizes)
    content["train"]["steps"] = 1
    path = tiny.write_recipe(tmp_path / "tiny.yaml", content)
    assert tiny.train(tiny.create_run(tmp_path / "run", load_recipe(path), path)).state.step == 1


# --- what a method asks of the images


def test_faults_of_images_are_found_by_check_and_before_training(cli, tiny, tmp_path):
    manifest = tiny.write_squares(tmp_path / "data")
    content = tree("moco_v2")
    content["method"]["queue"] = 7
    path = tiny.write_recipe(tmp_path / "tiny.yaml", content)
    sentence = (
        f"  - method.queue 7: {manifest} fills it from 6 training image(s), so that an image's own old keys would be "
        "among its negatives; set it to 6 or less"
    )
    for words in (("check", path), ("train", path, "-o", tmp_path / "run", "--accelerator", "cpu")):
        found = cli(*words)
        assert found.code == 2 and sentence in found.err, found.err
    assert not (tmp_path / "run").exists()
    assert cli("check", path, "--set", "method.queue=6").code == 0
    # where the data is not, `check` has nothing to count
    (tmp_path / "data/images.npz").unlink()
    assert cli("check", path).code == 0
    missing = cli("train", path, "-o", tmp_path / "run", "--accelerator", "cpu")
    assert "1 of 1 files are not there" in missing.err


def test_what_comes_next_can_be_typed(tiny, tmp_path):
    folder = tmp_path / "two words"
    tiny.write_squares(tmp_path / "data")
    recipe = recipe_from_tree(tree(), where="test")

    def next_of(**more):
        manifest = tmp_path / "data/manifest.json"
        edited = {**json.loads(manifest.read_text(encoding="utf-8")), **more}
        other = manifest.with_name("other.json")
        other.write_text(json.dumps(edited), encoding="utf-8")
        return shlex.split(Pretraining(recipe, load_image_manifest(other)).next_command(folder))

    probe = ["medcontrast", "probe", "--ckpt", str(folder)]
    test = json.loads((tmp_path / "data/manifest.json").read_text(encoding="utf-8"))["test"]
    assert next_of() == probe
    assert next_of(test=[], validation=test) == [*probe, "--split", "validation"]
    transfer = ["medcontrast", "train", "RECIPE_OF_SLICES", "--set", f"train.init_from={folder}"]
    assert next_of(test=[]) == transfer
