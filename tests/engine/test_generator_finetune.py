"""Tests of runs that fine-tune a generator: golden run (resume), property (what moves), whole (commands, sentences)."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console

from medcontrast.checkpoint import load_resume, load_weights
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.engine.generator.generator import load_generator
from medcontrast.engine.loop import Trainer
from medcontrast.errors import CheckpointError, RecipeError
from medcontrast.settings import load_recipe, recipe_from_tree

PARENTS = {"domain": "category", "age": "number", "target": "category"}


def tree(method=None, **train):
    """A tiny recipe: of the generator, or of its fine-tuning with `init_from` and settings of the method."""
    return {
        "about": {"command": "medcontrast train tiny.yaml", "needs": "nothing", "gives": "little", "cost": "seconds"},
        "seed": 3,
        "data": {"manifest": "data/manifest.json", "size": 16, "channels": 1},
        "network": {"name": "hvae", "filters": [4, 4, 8], "latent_channels": [0, 2, 4]}
        | {f"{part}_blocks": [1, 1, 1] for part in ("encoder", "decoder")},
        "method": {"name": "hvae", "parents": PARENTS} if method is None else method,
        "train": {
            "steps": 2,
            "rows": 4,
            "optimizer": {"lr": 0.01},
            "clip_norm": 350.0,
            "precision": "32-true",
            "log_every": 1,
            **train,
        },
    }


def fine(source, *, method=None, **train):
    settings = {"name": "hvae_finetune", "parents": PARENTS, "predictor_steps": 3, **(method or {})}
    return tree(settings, steps=6, init_from=str(source), **train)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """`data/manifest.json` with images of domains A and B with an age, and a trained generator in `generator`."""
    place = tmp_path_factory.mktemp("finetune")
    path = tiny.write_images(place / "data", train=8, validation=4, test=4)
    content = json.loads(path.read_text(encoding="utf-8"))
    for split in ("train", "validation", "test"):
        for number, entry in enumerate(content[split]):
            entry["attributes"] = {"age": 1.0 + number / 2}
    path.write_text(json.dumps(content), encoding="utf-8")
    tiny.train(make(tiny, place, tree(), "generator"))
    return place


def make(tiny, folder, content, name):
    path = tiny.write_recipe(folder / f"{name}.yaml", content)
    return tiny.create_run(folder / name, load_recipe(path), path)


def parts_of(run):
    """What the run's last checkpoint holds: tensors by the part of the method."""
    found = {}
    for name, value in load_resume(run.resume_file)["method"].items():
        part = next(
            each for each in ("student.encoder.", "teacher.encoder.", "predictor.", "") if name.startswith(each)
        )
        found.setdefault(part, {})[name.removeprefix(part)] = value
    return found


def equal(left, right):
    assert left.keys() == right.keys() and left
    return all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.fixture(scope="module")
def whole(tiny, folder):
    """Six steps without a break."""
    run = make(tiny, folder, fine(folder / "generator"), "whole")
    tiny.train(run)
    return run


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_a_resume_is_the_unbroken_run_bit_for_bit(tiny, folder, whole, cut):
    """While the predictor learns, between the two, and while the generator does."""
    run = make(tiny, folder, fine(folder / "generator"), f"parts {cut}")
    tiny.train(run, steps=cut)
    tiny.train(tiny.open_run(run.folder), resume=True)
    assert tiny.read_log(run) == tiny.read_log(whole)
    assert equal(load_resume(run.resume_file)["method"], load_resume(whole.resume_file)["method"])
    bound = tiny.read_log(run)[-1]["bound"]
    energies = [record["free_energy"] for record in tiny.read_log(run)[:3]]
    assert bound == pytest.approx(sum(energies) / 3, abs=2e-6)


def test_encoder_and_predictor_stay_bit_for_bit(tiny, folder, whole):
    held = load_weights(folder / "generator" / "last.safetensors")[0]
    encoder = {name.removeprefix("encoder."): value for name, value in held.items() if name.startswith("encoder.")}
    taught = make(tiny, folder, fine(folder / "generator"), "taught")
    trainer = tiny.train(taught, steps=3)
    first, last = parts_of(taught), parts_of(whole)
    for part in ("student.encoder.", "teacher.encoder."):
        assert equal(encoder, last[part])
    assert equal(first["predictor."], last["predictor."])
    # what rests is not seen by the optimiser, whose averages start with a part's first own step
    states = [load_resume(each.resume_file)["optimizer"]["state"] for each in (taught, whole)]
    assert len(states[0]) == len(list(trainer.method.predictor.parameters()))
    assert {float(each["step"]) for each in states[1].values()} == {3.0}
    for network in ("student.", "teacher."):  # the generator has not moved in the first steps, and does in the others
        values = {name: value for name, value in first[""].items() if name.startswith(network)}
        assert all(torch.equal(value, held[name.removeprefix(network)]) for name, value in values.items())
        assert not equal(values, {name: last[""][name] for name in values})


def test_the_log_has_the_rate_of_each_part(tiny, whole):
    """The generator rests while the predictor learns, and the other way round."""
    records = tiny.read_log(whole)
    assert all("lr" not in record for record in records)
    resting = [(record["lr_generator"] == 0, record["lr_predictor"] == 0) for record in records]
    assert resting == [(True, False)] * 3 + [(False, True)] * 3


def test_training_images_alone_are_seen(tiny, folder, whole):
    place = folder / "alone"
    shutil.copytree(folder / "data", place / "data")
    for split in ("validation", "test"):
        shutil.rmtree(place / "data" / split)
    run = make(tiny, place, fine(folder / "generator"), "run")
    tiny.train(run)
    assert tiny.read_log(run) == tiny.read_log(whole)


def started(tiny, folder, content, name):
    console = Console(file=io.StringIO(), width=400)
    trainer = Trainer(make(tiny, folder, content, name), Fabric(accelerator="cpu", devices=1), console)
    trainer.initialise()
    return trainer, console.file.getvalue()


def test_every_tensor_is_taken_over_and_the_count_is_said(tiny, folder):
    held = load_weights(folder / "generator" / "last.safetensors")[0]
    trainer, said = started(tiny, folder, fine(folder / "generator"), "started")
    assert f"Initialised {len(held)} of {len(held)} tensors, the whole generator, from {folder / 'generator'}" in said
    assert equal(held, trainer.method.student.state_dict())
    assert equal(held, trainer.method.teacher.state_dict())


def test_other_generators_are_refused(tiny, folder):
    def refused(sentence, content):
        shutil.rmtree(folder / "refused", ignore_errors=True)
        with pytest.raises(CheckpointError, match=sentence):
            started(tiny, folder, content, "refused")

    wider = fine(folder / "generator")
    wider["network"]["filters"] = [4, 8, 8]
    refused(r"(?s)of another architecture than this generator; \d+ of its \d+ tensors .*nothing was loaded", wider)
    flat = fine(folder / "generator")
    flat["network"]["latent_channels"] = [0, 0, 4]
    refused(r"decoder\.levels\.1\.0\.join\.bias: the generator has none", flat)
    fewer = fine(folder / "generator", method={"parents": {"domain": "category", "target": "category"}})
    refused(
        r"its parents \(domain: A, B; age: 2\.75 .*\) are not those of this recipe .*\(domain: A, B; target: ", fewer
    )
    encoder = make(tiny, folder, tiny.pretrain_tree(steps=1), "encoder")
    tiny.train(encoder)
    refused("holds no generator; name a run of method hvae in train.init_from", fine(encoder.folder))


def test_a_generator_starts_from_a_whole_one_or_is_refused(tiny, folder):
    """Not fine-tuned, with parents of its own statistics."""
    held = load_weights(folder / "generator" / "last.safetensors")[0]
    trainer, said = started(tiny, folder, tree(init_from=str(folder / "generator")), "anew")
    assert f"Initialised {len(held)} of {len(held)} tensors, the whole generator, from {folder / 'generator'}" in said
    assert equal(held, trainer.method.student.state_dict())
    assert equal(held, trainer.method.teacher.state_dict())
    wider = tree(init_from=str(folder / "generator"))
    wider["network"]["filters"] = [4, 8, 8]
    shutil.rmtree(folder / "refused", ignore_errors=True)
    sentence = r"(?s)of another architecture than this generator; \d+ of its \d+ tensors .*nothing was loaded:.*\(4, "
    with pytest.raises(CheckpointError, match=sentence):
        started(tiny, folder, wider, "refused")


def test_recipes_that_do_not_fit(folder):
    content = fine(folder / "generator")
    del content["train"]["init_from"]
    with pytest.raises(RecipeError, match=r"starts from a trained generator; name its run in train\.init_from"):
        recipe_from_tree(content, where="test")
    with pytest.raises(RecipeError, match=r"train\.steps 6 must be above method\.predictor_steps 6, its first ones"):
        recipe_from_tree(fine(folder / "generator", method={"predictor_steps": 6}), where="test")
    drops = fine(folder / "generator")
    drops["network"]["dropout"] = 0.5
    with pytest.raises(RecipeError, match=r"network\.dropout does nothing with method hvae_finetune; set it to 0"):
        recipe_from_tree(drops, where="test")
    network = {**fine(folder / "generator"), "network": {"name": "resnet20"}}
    with pytest.raises(RecipeError, match=r"method hvae_finetune trains hvae, but network\.name is resnet20"):
        recipe_from_tree(network, where="test")


def test_counterfactuals_by_the_command(cli, tiny, folder, whole, tmp_path):
    manifest = folder / "data" / "manifest.json"
    words = ("--manifest", manifest, "-o", tmp_path / "out", "--device", "cpu")
    done = cli("counterfactuals", "--ckpt", whole.folder, *words, "--metrics", "test", "--predictor-steps", 1)
    assert done.code == 0, done.err
    assert "8 training images, counterfactuals: 4 A, 4 B." in done.out
    written = load_image_manifest(tmp_path / "out" / "manifest.json").cases("train")
    assert sum(case.of is not None for case in written) == 8
    found = load_generator(whole.folder, torch.device("cpu"))
    averaged = load_resume(whole.resume_file)["method"]
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, averaged[f"teacher.{name}"]), name
    # fine-tuned once more, as any generator
    assert started(tiny, folder, fine(whole.folder), "again")[1].startswith("Initialised ")


@pytest.mark.slow
def test_the_command_trains_on_two_devices_and_resumes_on_one(tiny, folder):
    recipe = tiny.write_recipe(folder / "two.yaml", fine(folder / "generator", save_every=1))

    def run(*words):
        command = [Path(sys.executable).parent / "medcontrast", *words, "--accelerator", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)

    done = run("train", recipe, "-o", folder / "two", "--devices", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the whole generator, from") == 1
    done = run("train", "--resume", folder / "two", "--set", "train.steps=8")
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (folder / "two" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in log] == list(range(1, 9))
    multipliers = [record["multiplier"] for record in log]
    assert multipliers[:4] == [0.0] * 4 and all(value >= 0.0 for value in multipliers)
