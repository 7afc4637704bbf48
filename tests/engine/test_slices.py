"""Segmentation of slices: whole (pre-train, take over, train, evaluate, infer), property, by exact sentence."""

from __future__ import annotations

import io
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console

from medcontrast.checkpoint import load_weights, save_weights
from medcontrast.engine.build import resolve_precision
from medcontrast.engine.loop import Trainer
from medcontrast.errors import CheckpointError, InputError, RecipeError
from medcontrast.settings import recipe_from_tree

ENCODER = {"name": "resnet20", "width": 4, "norm": "batch", "small_stem": False}
THIN = {0: [1, 16, 16], 1: [16, 1, 16], 2: [16, 16, 1]}


def slice_tree(tiny, axis=2, method="supervised", encoder=ENCODER, **train):
    tree = tiny.recipe_tree(method, **train)
    tree["network"] = {"name": "unet2d", "filters": 4, "norm": "group", "encoder": dict(encoder), "axis": axis}
    tree["data"]["patch"] = THIN[axis]
    tree["augment"]["spatial"] = {"rotation_axes": [axis]}
    tree["train"]["labeled_rows"] = 4
    tree["inference"] = {"overlap": 0.5, "window_batch": 8, "flips": True}
    if method == "fba_net":
        tree["method"]["contrast"]["region"] = 0
    return tree


def pretraining_tree(**train):
    view = {"crop": {"area": [0.4, 1.0]}, "photometric": {"jitter_probability": 0.0}}
    return {
        "about": {"command": "medcontrast train tiny.yaml", "needs": "nothing", "gives": "little", "cost": "seconds"},
        "data": {"manifest": "data/slices.json", "size": 16, "channels": 1},
        "augment": {"views": {"first": view, "second": view}},
        "network": {"name": "resnet20", "width": 4},
        "method": {"name": "simclr", "embedding_channels": 8},
        "train": {"steps": 2, "rows": 8, "precision": "32-true", "log_every": 1, **train},
    }


def write_slices(folder, axis=2):
    """A manifest of the slices of tiny volumes, beside them."""
    sources = [{"slices": f"images/case_{number:02d}_0.nii", "axis": axis} for number in range(4)]
    tree = {"kind": "images", "root": ".", "train": sources}
    (folder / "slices.json").write_text(json.dumps(tree), encoding="utf-8")


@pytest.fixture
def pretrained(tiny, tmp_path):
    """A finished pre-training run on slices."""
    tiny.write_data(tmp_path / "data", validation=1)
    write_slices(tmp_path / "data")
    return tiny.train(tiny.make_run(tmp_path, pretraining_tree(), name="pretrained")).run.folder


def started(tiny, folder, tree, name="run"):
    """A trainer that has taken over what the recipe names, and what it said."""
    console = Console(file=io.StringIO(), width=300)
    run = tiny.make_run(folder, tree, name=name)
    trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), console)
    trainer.initialise()
    return trainer, console.file.getvalue()


def test_the_whole_path_from_slices_to_masks(tiny, tmp_path, pretrained, cli):
    run = tiny.make_run(tmp_path, slice_tree(tiny, init_from=str(pretrained), validate_every=3))
    trainer = tiny.train(run)
    assert trainer.state.step == 6 and trainer.state.best_dice is not None
    scores = cli(
        "evaluate", "--ckpt", run.folder, "--split", "validation", "--device", "cpu", "-o", tmp_path / "scores"
    )
    assert scores.code == 0 and "front" in scores.out, scores.err
    scan = tmp_path / "data" / "images" / "case_04_0.nii"
    masks = cli("infer", scan, "--ckpt", run.folder, "-o", tmp_path / "masks", "--device", "cpu")
    assert masks.code == 0, masks.err
    mask = nib.load(next((tmp_path / "masks").glob("*.nii.gz")))
    assert mask.shape == nib.load(scan).shape and np.array_equal(mask.affine, nib.load(scan).affine)


@pytest.mark.parametrize("axis", [0, 2])
def test_it_learns_boxes_and_scores_them_along_an_axis(tiny, tmp_path, axis):
    tree = slice_tree(tiny, axis, steps=80, validate_every=80)
    tree["network"] |= {"filters": 8, "encoder": {**ENCODER, "width": 8, "norm": "group"}}
    tree["train"] |= {"labeled_rows": 12, "optimizer": {"name": "adamw", "lr": 0.01}}
    tree["augment"] = {"spatial": {"rotation_degrees": 0.0, "scale": 0.0}, "strong": {"probability": 0.0}}
    tree["inference"]["flips"] = False
    trainer = tiny.train(tiny.make_run(tmp_path, tree, validation=1))
    assert trainer.state.best_dice > 0.35  # without training it is below 0.1


@pytest.mark.parametrize("method", ["mean_teacher", "ua_mt", "cps", "bcp", "fba_net"])
def test_methods_with_unlabeled_scans_train_on_slices(tiny, tmp_path, method):
    trainer = tiny.train(tiny.make_run(tmp_path, slice_tree(tiny, 1, method)))
    assert all(np.isfinite(value) for record in tiny.read_log(trainer.run) for value in record.values())


def test_six_steps_are_three_and_three_more(tiny, tmp_path):
    whole = tiny.train(tiny.make_run(tmp_path, slice_tree(tiny, method="mean_teacher"), name="whole"))
    parts = tiny.make_run(tmp_path, slice_tree(tiny, method="mean_teacher"), name="parts")
    tiny.train(parts, steps=3)
    resumed = tiny.train(tiny.open_run(parts.folder), resume=True)
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[name]), name


@pytest.mark.parametrize("method", ["supervised", "mean_teacher"])
def test_every_tensor_of_the_encoder_is_taken_over_and_the_count_is_said(tiny, tmp_path, pretrained, method):
    held, _ = load_weights(pretrained / "last.safetensors")
    trainer, said = started(tiny, tmp_path, slice_tree(tiny, method=method, init_from=str(pretrained)))
    total = len(trainer.method.student.state_dict())
    assert f"Initialised {len(held)} of {total} tensors, the whole encoder, from {pretrained}" in said
    for name, value in trainer.method.student.unet.encoder.state_dict().items():
        assert torch.equal(value, held[name]), name
    for name, value in trainer.method.inference_network().state_dict().items():
        assert torch.equal(value, trainer.method.student.state_dict()[name]), name


def test_a_run_of_slices_starts_from_another_as_volumes_do(tiny, tmp_path):
    first = tiny.train(tiny.make_run(tmp_path, slice_tree(tiny), name="first"))
    total = len(first.method.student.state_dict())
    _, said = started(tiny, tmp_path, slice_tree(tiny, init_from=str(first.run.folder)))
    assert f"Initialised {total} of {total} tensors from" in said


def test_another_architecture_is_refused_by_layer(tiny, tmp_path, pretrained):
    tree = slice_tree(tiny, encoder={**ENCODER, "width": 8}, init_from=str(pretrained))
    sentence = r"(?s)another architecture than this encoder; .*stem.0.weight: the checkpoint has \(4, 1, 3, 3\)"
    with pytest.raises(CheckpointError, match=sentence):
        started(tiny, tmp_path, tree)
    volumes = tiny.recipe_tree(init_from=str(pretrained))
    with pytest.raises(CheckpointError, match="holds an encoder of images, and network dynunet has none; take network"):
        started(tiny, tmp_path, volumes, name="volumes")


def test_a_generator_of_images_starts_no_segmentation(tiny, tmp_path):
    """The sentence is not the one for encoders, which would send its reader to a probe."""
    first = tiny.train(tiny.make_run(tmp_path, slice_tree(tiny), name="first")).run.folder / "last.safetensors"
    tensors, header = load_weights(first)
    save_weights(tmp_path / "generator.safetensors", tensors, {**header, "parents": []})
    tree = slice_tree(tiny, init_from=str(tmp_path / "generator.safetensors"))
    with pytest.raises(CheckpointError, match="holds a generator of images; a segmentation starts from another"):
        started(tiny, tmp_path, tree)


def test_the_rule_for_narrow_bfloat16_counts_the_sides_of_slices_alone(tiny):
    tree = tiny.set_key(slice_tree(tiny), "train.precision", "bf16-mixed")
    recipe = recipe_from_tree(tree, where="test")  # 16 x 16 x 1: 4 x 4 at the deepest stage
    assert resolve_precision(recipe, "cpu") == "bf16-mixed"
    narrow = recipe_from_tree(tiny.set_key(tree, "data.patch", [8, 16, 1]), where="test")
    with pytest.raises(InputError, match=r"data.patch \[8, 16, 1\] leaves \[2, 4\] voxels at the deepest level"):
        resolve_precision(narrow, "cpu")


REFUSED = [
    ({"data.patch": [4, 16, 1]}, "data.patch.0: must be 8 or more, but got 4; only axis 2, that of the slices"),
    ({"inference.window": [16, 4, 1]}, "inference.window.1: must be 8 or more, but got 4"),
    (
        {"augment.spatial.rotation_axes": [0, 2]},
        r"rotation_axes \[0, 2\] would tilt slices of one voxel out of data.patch \[16, 16, 1\]; set it to \[2\]",
    ),
    ({"network.encoder": None}, r"unet2d needs an encoder, such as \{name: resnet20\}"),
    ({"network.norm": "instance"}, "unet2d takes norm: group, that of its decoder, and no dropout"),
    ({"network.filters": [4, 8]}, "unet2d takes one number for filters"),
    ({"network.encoder.name": "resnet9"}, "network.encoder.name: input should be 'resnet20'"),
    ({"network.encoder.widht": 4}, "network.encoder.widht: unknown key; did you mean 'width'"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_recipes_that_cannot_be_are_refused(tiny, changes, sentence):
    tree = slice_tree(tiny)
    for key, value in changes.items():
        tree = tiny.set_key(tree, key, value)
    with pytest.raises(RecipeError, match=sentence):
        recipe_from_tree(tree, where="test")


def test_settings_of_slices_are_refused_elsewhere(tiny):
    for key, value in (("network.axis", 1), ("network.encoder", {"name": "resnet20"})):
        with pytest.raises(RecipeError, match="encoder and axis are settings of unet2d, not of dynunet"):
            recipe_from_tree(tiny.set_key(tiny.recipe_tree(), key, value), where="test")
    with pytest.raises(RecipeError, match=r"data.patch.2: must be 8 or more, but got 1"):
        recipe_from_tree(tiny.set_key(tiny.recipe_tree(), "data.patch", [16, 16, 1]), where="test")
