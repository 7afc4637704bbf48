"""Tests of pre-training on pairs with counterfactuals: property (limits of the paper), whole."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.data.images.images import Images
from medcontrast.data.images.tables import image_table
from medcontrast.engine.job import job_of
from medcontrast.errors import RecipeError
from medcontrast.settings import load_recipe

SOURCES = {
    "simclr": ("image", "image"),
    "cf_simclr": ("image", "counterfactual"),
    "simclr_plus": ("counterfactual", "counterfactual"),
}
WHOLE = {"crop": {"kind": "whole"}, "flip": 0.0, "photometric": {"jitter_probability": 0.0}}


def tree(tiny, form, manifest, view=None, **train):
    made = tiny.pretrain_tree(manifest=str(manifest), rows=8, **train)
    view = view or made["augment"]["views"]["first"]
    views = zip(("first", "second"), SOURCES[form], strict=True)
    made["augment"]["views"] = {name: {**view, "source": source} for name, source in views}
    return made


@pytest.fixture
def with_counterfactuals(tiny, tmp_path):
    """Writes a manifest of images of domains A and B with one counterfactual each; its pixels are `change`d."""
    from medcontrast.data.images.manifest import load_image_manifest

    def make(change, name):
        path = tiny.write_images(tmp_path / name, train=16, validation=2, test=4)
        cases = load_image_manifest(path).cases("train")
        images = Images(cases, channels=1, size=16)
        pixels = np.stack([change(images[place]) for place in range(16)])
        known = [replace(case, of=case.name, domain="AB"[case.domain == "A"]) for case in cases]
        arrays, source = image_table("others.npz", "other", pixels, known, ("plain", "striped"))
        np.savez(path.parent / "others.npz", **arrays)
        content = json.loads(path.read_text(encoding="utf-8"))
        content["train"].append(source)
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return make


@pytest.fixture
def job_for(tiny, tmp_path):
    def make(form, manifest, view=None, **train):
        name = f"{form}_{manifest.parent.name}"
        path = tiny.write_recipe(tmp_path / f"{name}.yaml", tree(tiny, form, manifest, view, **train))
        return tiny.create_run(tmp_path / name, load_recipe(path), path)

    return make


def batches(run):
    job = job_of(run)
    loader, _ = job.loader(rank=0, world_size=1, start_step=0)
    return [job.with_views(batch, StepInfo(step, 10, 0, 3)) for step, batch in enumerate(loader)]


@pytest.mark.parametrize("form", ["cf_simclr", "simclr_plus"])
def test_counterfactuals_that_are_the_images_change_nothing(tiny, with_counterfactuals, job_for, form):
    same = with_counterfactuals(lambda image: image, "same")
    plain, other = job_for("simclr", same), job_for(form, same)
    left, right = tiny.train(plain), tiny.train(other)
    assert tiny.read_log(plain) == tiny.read_log(other)
    pairs = zip(left.method.parameters(), right.method.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_a_pair_crosses_domains_as_often_as_it_should(with_counterfactuals, job_for):
    inverted = with_counterfactuals(lambda image: 255 - image, "inverted")
    crossed = {}
    for form in SOURCES:
        found = []
        for batch in batches(job_for(form, inverted, WHOLE, steps=60)):
            first, second = (batch["views"][name] for name in ("first", "second"))
            image = (batch["image"] - 0.5) / 0.25
            if form != "simclr_plus":
                assert torch.equal(first, image)
            else:
                assert torch.equal(first, second)  # never a pair across domains
            other = (second != image).flatten(1).any(1)
            assert bool(((second + image).flatten(1).abs().amax(1) < 1e-4)[other].all())
            found += other.tolist()
        crossed[form] = np.mean(found)
    assert crossed["simclr"] == 0.0
    assert crossed["cf_simclr"] == crossed["simclr_plus"]  # the same images at the same rate
    assert abs(crossed["cf_simclr"] - 0.5) < 5 * 0.5 / 480**0.5


DINO = {"name": "dino", "local_views": 2, "prototypes": 7, "hidden_channels": 12, "bottleneck_channels": 6}
VIT = {"name": "vit", "width": 8, "image_size": 16, "patch": 4, "depth": 1, "heads": 2}


def dino_tree(tiny, manifest, crossed, **train):
    """One global and one local view of each kind; `crossed` names what the second of each shows."""
    made = tiny.pretrain_tree(manifest=str(manifest), rows=8, **train)
    sources = {"global_first": "image", "global_second": crossed, "local_1": "image", "local_2": crossed}
    made["augment"]["views"] = {name: {**WHOLE, "source": source} for name, source in sources.items()}
    return {**made, "method": DINO, "network": VIT}


def test_cf_dino_shows_half_of_the_crops_under_one_other_scanner(tiny, with_counterfactuals, tmp_path):
    inverted = with_counterfactuals(lambda image: 255 - image, "inverted")
    path = tiny.write_recipe(tmp_path / "cf_dino.yaml", dino_tree(tiny, inverted, "counterfactual", steps=60))
    crossed = []
    for batch in batches(tiny.create_run(tmp_path / "cf_dino", load_recipe(path), path)):
        views, image = batch["views"], (batch["image"] - 0.5) / 0.25
        assert torch.equal(views["global_first"], image) and torch.equal(views["local_1"], image)
        assert torch.equal(views["global_second"], views["local_2"])  # one partner a row
        crossed += (views["global_second"] != image).flatten(1).any(1).tolist()
    assert abs(np.mean(crossed) - 0.5) < 5 * 0.5 / 480**0.5


def test_cf_dino_on_counterfactuals_that_are_the_images_is_dino(tiny, with_counterfactuals, tmp_path):
    same, logs = with_counterfactuals(lambda image: image, "same"), []
    for source in ("image", "counterfactual"):
        path = tiny.write_recipe(tmp_path / f"{source}.yaml", dino_tree(tiny, same, source))
        logs.append(tiny.read_log(tiny.train(tiny.create_run(tmp_path / source, load_recipe(path), path)).run))
    assert logs[0] == logs[1]


def test_counterfactuals_are_no_rows_of_their_own(with_counterfactuals, job_for):
    path = with_counterfactuals(lambda image: 255 - image, "inverted")
    for form in SOURCES:
        seen = [name for batch in batches(job_for(form, path, steps=2)) for name in batch["case"]]
        assert sorted(seen) == [f"train/{number:02d}.png" for number in range(16)]


def test_without_counterfactuals_the_recipe_is_refused(tiny, tmp_path, job_for):
    path = tiny.write_images(tmp_path / "none")
    sentence = r"train has no counterfactuals \(.* they have target, domain\), .* `medcontrast counterfactuals`"
    with pytest.raises(RecipeError, match=sentence):
        batches(job_for("cf_simclr", path))
    assert len(batches(job_for("simclr", path, steps=1))) == 1


def test_a_probe_learns_from_the_images_alone(with_counterfactuals):
    from medcontrast.data.images.manifest import load_image_manifest
    from medcontrast.engine.probe.images import probe_images
    from medcontrast.settings.images import ImageDataSettings

    path = with_counterfactuals(lambda image: 255 - image, "inverted")
    data = ImageDataSettings(manifest="x", size=16, channels=1)
    assert probe_images(load_image_manifest(path), data).sizes == {"fitted": 16, "choosing": 2, "scored": 4}
