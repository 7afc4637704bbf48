"""Tests of encoders that start from another run: property, whole (sentences)."""

from __future__ import annotations

import io

import pytest
import torch
from encoder_runs import runs_of, tree
from lightning_fabric import Fabric
from rich.console import Console

from medcontrast.checkpoint import load_weights, save_weights
from medcontrast.engine.loop import Trainer
from medcontrast.errors import CheckpointError
from medcontrast.settings import load_recipe


@pytest.fixture
def run_of(tiny, tmp_path):
    return runs_of(tiny, tmp_path)


def test_a_run_starts_from_another_runs_encoder(tiny, run_of, tmp_path):
    first = run_of("simclr", "first")
    tiny.train(first)
    second = run_of("moco_v2", "second", init_from=str(first.folder))
    trainer = tiny.train(second, steps=1)
    said = trainer.console.file.getvalue()
    count = len(trainer.method.student.state_dict())
    assert f"Initialised {count} of {count} tensors from {first.folder / 'last.safetensors'}." in said


def started(tiny, tmp_path, content, name="second"):
    """A trainer that has taken over what the recipe names, and what it said."""
    path = tiny.write_recipe(tmp_path / f"{name}.yaml", content)
    console = Console(file=io.StringIO(), width=400)
    run = tiny.create_run(tmp_path / name, load_recipe(path), path, overwrite=True)
    trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), console)
    trainer.initialise()
    return trainer, console.file.getvalue()


def test_another_architecture_is_refused_by_layer(tiny, run_of, tmp_path):
    first = run_of("simclr", "first")
    tiny.train(first, steps=1)
    wider = tree("moco_v2", init_from=str(first.folder))
    wider["network"]["width"] = 8
    sentence = (
        r"(?s)first/last\.safetensors: of another architecture than this encoder; \d+ of its \d+ tensors do not fit, "
        r"and nothing was loaded:.*stem\.0\.weight: the checkpoint has \(4, 1, 3, 3\), the encoder \(8, 1, 3, 3\)"
    )
    with pytest.raises(CheckpointError, match=sentence):
        started(tiny, tmp_path, wider)


def test_a_generator_of_images_starts_no_encoder(tiny, run_of, tmp_path):
    """A list of all its tensors would not say so."""
    first = run_of("simclr", "first")
    tiny.train(first, steps=1)
    tensors, header = load_weights(first.folder / "last.safetensors")
    save_weights(tmp_path / "generator.safetensors", tensors, {**header, "parents": []})
    second = tree("moco_v2", init_from=str(tmp_path / "generator.safetensors"))
    with pytest.raises(
        CheckpointError, match=r"holds a generator of images; an encoder starts from another encoder\.$"
    ):
        started(tiny, tmp_path, second)


@pytest.mark.parametrize(("setting", "theirs", "ours"), [("heads", 2, 4), ("pooling", "mean", "cls")])
def test_weights_that_fit_and_mean_something_else_are_refused(tiny, run_of, tmp_path, setting, theirs, ours):
    vit = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 8, "image_size": 16, "pooling": "mean"}
    run_of("simclr", "first")
    first = tree()
    first["network"] = vit
    recipe = tiny.write_recipe(tmp_path / "vit.yaml", first)
    run = tiny.create_run(tmp_path / "vit", load_recipe(recipe), recipe)
    tiny.train(run, steps=1)
    second = tree("moco_v2", init_from=str(run.folder))
    second["network"] = dict(vit)
    _, said = started(tiny, tmp_path, second)
    assert "Initialised" in said
    second["network"][setting] = ours
    sentence = f"its weights fit, but were trained with network.{setting} {theirs}, and this recipe has {ours}"
    with pytest.raises(CheckpointError, match=sentence):
        started(tiny, tmp_path, second)


def test_heads_that_differ_are_no_other_architecture(tiny, run_of, tmp_path):
    first = run_of("simclr", "first")
    tiny.train(first, steps=1)
    held, _ = load_weights(first.folder / "last.safetensors")
    other = tree("moco_v2", init_from=str(first.folder))
    other["method"]["embedding_channels"] = 12
    trainer, said = started(tiny, tmp_path, other)
    assert f"Initialised {len(held)} of {len(held)} tensors from {first.folder}" in said
    for encoder in (trainer.method.student, trainer.method.momentum[0]):
        assert all(torch.equal(value, held[name]) for name, value in encoder.state_dict().items())
