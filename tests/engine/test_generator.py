"""Tests of generators, their training, interventions and scores: by hand, property, golden run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from generators import CPU, generator_tree, make_generator

from medcontrast.batch import StepInfo
from medcontrast.checkpoint import load_resume, load_weights, save_resume
from medcontrast.data.images.images import Images
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.data.sampler import BalancedSampler
from medcontrast.engine.generator.generator import actions, load_generator
from medcontrast.engine.generator.metrics import score_generator
from medcontrast.engine.job import job_of
from medcontrast.errors import CheckpointError, InputError

# --- training


def test_three_steps_and_a_resume_are_six_bit_for_bit(tiny, run_of):
    whole, parts = run_of("whole"), run_of("parts")
    tiny.train(whole)
    tiny.train(parts, steps=3)
    tiny.train(tiny.open_run(parts.folder), resume=True)
    assert tiny.read_log(parts) == tiny.read_log(whole)
    left, right = (load_weights(run.folder / "last.safetensors")[0] for run in (whole, parts))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_checkpoint_holds_the_averaged_network_and_its_parents(tiny, run_of):
    run = run_of()
    trainer = tiny.train(run)
    found = load_generator(run.folder, CPU)
    assert found.step == 6 and not found.network.training
    domain, age, target = found.parents
    assert (domain.values, target.values) == (("A", "B"), ("plain", "striped"))
    assert (age.mean, age.std) == (pytest.approx(2.75), pytest.approx(np.std(np.arange(8) / 2)))
    for name, tensor in trainer.method.teacher.state_dict().items():
        assert torch.equal(tensor, found.network.state_dict()[name]), name
    assert any(
        not torch.equal(tensor, found.network.state_dict()[name])
        for name, tensor in trainer.method.student.state_dict().items()
    )


def test_a_resume_keeps_the_statistics_of_its_parents(tiny, run_of):
    run = run_of()
    tiny.train(run, steps=2)
    saved = load_resume(run.resume_file)
    del saved["header"]["trained_on"]["images_hash"]  # as of an earlier version
    save_resume(run.resume_file, saved)
    path = run.folder / "manifest.json"
    kept = path.read_text(encoding="utf-8")
    tree = json.loads(kept)
    tree["train"][0]["attributes"]["age"] = 30.0
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"last\.pt: its parents \(.*age: 2\.75 \+- .*age: 6\.375 \+- .*\); take"):
        tiny.train(tiny.open_run(run.folder), resume=True)
    path.write_text(kept, encoding="utf-8")
    assert tiny.train(tiny.open_run(run.folder), resume=True).state.step == 6


def test_a_batch_has_the_parents_of_its_images(run_of):
    job = job_of(run_of())
    loader, _ = job.loader(rank=0, world_size=1, start_step=0)
    ages = {case.name: case.attributes["age"] for case in job.manifest.cases("train")}
    for batch in loader:
        expected = [(ages[name] - 2.75) / job.parents[1].std for name in batch["case"]]
        assert batch["attributes"][:, 2].tolist() == pytest.approx(expected)
        assert "views" not in job.with_views(batch, StepInfo(0, 6))


@pytest.mark.parametrize(("balance", "shares"), [(0.5, [0.625, 0.375]), (1.0, [0.5, 0.5])])
def test_rows_are_drawn_by_the_balance_of_the_recipe(tiny, run_of, data, balance, shares):
    """Six images of domain A and two of B, of which the recipe asks for more than occur."""
    content = json.loads(data.read_text(encoding="utf-8"))
    for number, entry in enumerate(content["train"]):
        entry["domain"] = "A" if number < 6 else "B"
    data.write_text(json.dumps(content), encoding="utf-8")
    _, sampler = job_of(run_of(tree=tiny.set_key(generator_tree(), "method.balance", balance))).loader(
        rank=0, world_size=1, start_step=0
    )
    assert isinstance(sampler, BalancedSampler)
    assert sampler.shares.tolist() == pytest.approx(shares)
    _, plain = job_of(run_of("plain", tiny.set_key(generator_tree(), "method.balance", 0.0))).loader(
        rank=0, world_size=1, start_step=0
    )
    assert not isinstance(plain, BalancedSampler)


# --- interventions


def test_actions_by_hand():
    generator = make_generator()
    uniform = actions(generator, ["uniform"], {})
    assert [action.values for action in uniform] == [{"domain": "A"}, {"domain": "B"}]
    assert [action.values for action in actions(generator, ["B"], {"age": "3"})] == [{"age": 3.0, "domain": "B"}]
    (only,) = actions(generator, [], {"age": "3", "target": "striped"})
    every = actions(generator, ["uniform"], {"age": "3", "target": "uniform"})
    assert [tuple(action.values.values()) for action in every] == [
        (3.0, target, domain) for target in ("plain", "striped") for domain in "AB"
    ]
    numbers = torch.tensor([[1.0, 0.0, 0.3, 1.0, 0.0]])
    assert only.on_numbers(generator, numbers).tolist() == [[1.0, 0.0, 2.0, 0.0, 1.0]]
    assert numbers[0, 3] == 1.0


@pytest.mark.parametrize(
    ("domains", "values", "sentence"),
    [
        (["C"], {}, "domain C: the generator knows A, B"),
        ([], {"height": "1"}, "has no parent 'height'; its parents are domain, age, target"),
        ([], {"age": "uniform"}, "age uniform: the generator takes a number"),
        ([], {"age": "old"}, "age old: the generator takes a number"),
        ([], {"age": "inf"}, "age inf: the generator takes a number"),
        ([], {"domain": "A"}, "the domain is given by --domain"),
        ([], {}, "an intervention needs a domain or another parent"),
    ],
)
def test_actions_that_are_refused(domains, values, sentence):
    with pytest.raises(InputError, match=sentence):
        actions(make_generator(), domains, values)


def test_scores_by_a_predictor_that_reads_the_image_by_hand(data):
    generator, manifest = make_generator(), load_image_manifest(data)
    cases = manifest.cases("test")
    images = Images(cases, channels=1, size=16).load(range(len(cases)))
    own = generator.numbers(cases, manifest.classes, where="it")
    wanted = actions(generator, ["uniform"], {})

    class Constant(torch.nn.Module):
        """Says: domain A, age 2, striped."""

        def forward(self, image):
            return torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0]]).expand(len(image), -1)

    found = score_generator(generator, Constant(), manifest, "test", wanted)
    assert (found["images"], found["counterfactuals"]) == (4, 4)
    assert found["effectiveness"]["domain"] == {"balanced_accuracy": 0.5, "by_value": {"A": 1.0, "B": 0.0}}
    # the action changed the domain of each image, and nothing else
    assert found["effectiveness"].keys() == {"domain"} and found["preservation"].keys() == {"age", "target"}
    off = np.abs(np.array([case.attributes["age"] for case in cases]) - 2.0).mean()
    assert found["preservation"]["age"]["mean_absolute_error"] == pytest.approx(off, rel=1e-5)
    both = score_generator(generator, Constant(), manifest, "test", actions(generator, ["B"], {"age": "4"}))
    assert both["effectiveness"]["age"]["mean_absolute_error"] == pytest.approx(2.0)  # it says 2, 4 was meant
    assert found["on_images"]["age"]["mean_absolute_error"] == pytest.approx(off, rel=1e-5)
    other = own.clone()
    other[:, :2] = 1 - own[:, :2]
    turned = []
    for rows in (own[:, 0] == 0, own[:, 0] == 1):  # the images of an action as one batch: rounding depends on its size
        there = generator.counterfactual(images[rows], own[rows], other[rows])
        assert (there - images[rows]).abs().mean() > 1e-3
        turned.append((generator.counterfactual(there, other[rows], own[rows]) - images[rows]).abs().double())
    assert found["reversibility"] == pytest.approx(float(torch.cat(turned).mean()), rel=1e-5)
    assert found["composition"] < 1e-6  # a fixed scale copies the residual
    mean = generator.reconstruction(images, own)
    assert found["reconstruction"] == pytest.approx(float((mean - images).abs().double().mean()), rel=1e-5)
    with pytest.raises(InputError, match="leaves every image of test as it is"):
        score_generator(generator, Constant(), manifest, "test", [])
