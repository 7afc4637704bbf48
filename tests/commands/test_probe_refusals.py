"""Tests of what `medcontrast probe` refuses: whole, by exact sentence and exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from probe_words import QUICK, Cli, change, refused

from medcontrast.checkpoint import load_weights, save_weights
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.engine.probe.images import probe_images


@pytest.fixture
def trained(pretrained: Path) -> Path:
    """In this file a run that pre-trained, not one that segments."""
    return pretrained


def test_a_segmentation_checkpoint_is_refused(tiny: SimpleNamespace, tmp_path: Path, cli: Cli) -> None:
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=1))
    tiny.train(run)
    answer = cli("probe", "--ckpt", run.folder)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert answer.err.startswith(
        f"{run.folder}/last.safetensors: method supervised segments volumes; this needs a recipe of one of the "
        f"pre-training methods {', '.join(name for name in tiny.pretraining if not name.startswith('hvae'))}.",
    )


def test_weights_of_another_architecture_are_named_by_layer(trained: Path, tmp_path: Path, cli: Cli) -> None:
    tensors, header = load_weights(trained / "last.safetensors")
    header["recipe"]["network"]["width"] = 8
    save_weights(tmp_path / "other.safetensors", tensors, header)
    answer = cli("probe", "--ckpt", tmp_path / "other.safetensors", "--manifest", trained / "manifest.json")
    assert answer.code == 2 and answer.out == ""
    assert answer.err.startswith(
        f"{tmp_path}/other.safetensors: of another architecture than this encoder; 95 of its 114 tensors do not fit, "
        "and nothing was loaded:\n  - stem.0.weight: the checkpoint has (4, 1, 3, 3), the encoder (8, 1, 3, 3)\n"
    )
    save_weights(tmp_path / "none.safetensors", {"other": torch.zeros(2)}, header)
    answer = cli("probe", "--ckpt", tmp_path / "none.safetensors", "--manifest", trained / "manifest.json")
    assert answer.code == 2 and "none of the encoder's 114 tensors stands in it" in answer.err


def set_targets(tree: dict[str, Any], splits: tuple[str, ...], target: int | None) -> None:
    for split in splits:
        for entry in tree[split]:
            entry["target"] = target


def one_class(tree: dict[str, Any]) -> None:
    tree["classes"] = ["plain"]
    set_targets(tree, ("train", "validation", "test"), 0)


NO_TARGET = "{path}: none of the %d images of %s has a target, which a probe needs; they have domain."


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "one class": (one_class, '{path}: a probe tells classes apart, but "classes" names 1.'),
    "all of one class": (
        lambda tree: set_targets(tree, ("train",), 0),
        "{path}: all 24 images of train are of one class, plain.",
    ),
    "a class missing": (
        lambda tree: tree["classes"].append("dotted"),
        "{path}: the class dotted does not occur among the 24 images of train; add some, or take it out of classes.",
    ),
    "no targets to score": (
        lambda tree: set_targets(tree, ("test",), None),
        NO_TARGET % (12, "test"),
    ),
    "no targets to choose": (
        lambda tree: set_targets(tree, ("validation",), None),
        NO_TARGET % (8, "validation"),
    ),
    "no test images": (
        lambda tree: tree.update(test=[]),
        "{path}: the split 'test' is empty; it has train, validation.",
    ),
    "overlap": (
        lambda tree: tree["test"].append(tree["train"][3]),
        "{path}: splits must not overlap:\n  - image train/03.png stands in train and in test",
    ),
    "volumes": (
        lambda tree: tree.pop("kind"),
        '{path}: a pre-training recipe and a probe take a manifest of images, with "kind": "images" and the splits '
        "train, validation, test; this is a manifest of volumes.",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_images_that_cannot_be_probed(
    trained: Path, images: Callable[..., Path], tmp_path: Path, cli: Cli, fault: str
) -> None:
    edit, sentence = FAULTS[fault]
    path = change(images(), edit)
    answer = cli("probe", "--ckpt", trained, "--manifest", path, *QUICK, "-o", tmp_path / "p")
    refused(answer, sentence.format(path=path))
    assert not list((tmp_path / "p").glob("*"))


def test_a_class_that_does_not_choose_is_said(
    trained: Path, images: Callable[..., Path], tiny: SimpleNamespace
) -> None:
    path = change(images(), lambda tree: set_targets(tree, ("validation",), 1))
    found = probe_images(load_image_manifest(path), tiny.recipe_from(tiny.pretrain_tree()).data)
    sentence = "the class plain does not occur among the 8 images that choose the linear probe's strength."
    assert found.warnings == (sentence,)


def test_too_few_images_to_hold_some_back(trained: Path, images: Callable[..., Path], cli: Cli) -> None:
    path = images(validation=0, train=4)
    refused(
        cli("probe", "--ckpt", trained, "--manifest", path, *QUICK, "-o", path.parent / "p"),
        f"{path}: 4 training images are too few to hold a part of them back for validation; add a validation split.",
    )


def test_an_unreadable_image_is_named_before_anything_is_computed(
    trained: Path, images: Callable[..., Path], cli: Cli, tmp_path: Path
) -> None:
    path = images()
    file = path.parent / "test/03.png"
    file.write_bytes(file.read_bytes()[:60])
    answer = cli("probe", "--ckpt", trained, "--manifest", path, *QUICK, "-o", tmp_path / "p")
    assert answer.code == 2 and answer.err.startswith(f"{file}: cannot be read as an image (")
    assert "accuracy" not in answer.out and len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--fractions", "0.1,2"), "--fractions 0.1,2: expected shares above 0 and at most 1, such as 0.01,0.1,1."),
        (("--fractions", "few"), "--fractions few: expected shares above 0 and at most 1, such as 0.01,0.1,1."),
        (("--split", "train"), "--split train: a probe learns from train and is scored on test or validation."),
        (("--device", "tpu"), "--device tpu: expected cpu, cuda, cuda:N or mps."),
    ],
)
def test_options_that_make_no_sense(
    trained: Path, cli: Cli, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    refused(cli("probe", "--ckpt", trained, "-o", tmp_path / "p", *words), sentence)


def test_a_checkpoint_without_its_manifest(trained: Path, tmp_path: Path, cli: Cli) -> None:
    tensors, header = load_weights(trained / "last.safetensors")
    file = tmp_path / "alone.safetensors"
    save_weights(file, tensors, header)
    refused(
        cli("probe", "--ckpt", file),
        f"{file}: lies in no run folder (no resolved.yaml beside it); say which images to probe with --manifest M.",
    )
    answer = cli("probe", "--ckpt", file, "--manifest", trained / "manifest.json", *QUICK, "--no-finetune")
    assert answer.code == 0 and (tmp_path / "probe_manifest_test/embeddings.png").is_file()
    assert not (tmp_path / "tensorboard").exists()
