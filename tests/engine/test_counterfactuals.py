"""Tests of counterfactuals from manifest to manifest: by hand, property, whole (commands, sentences)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from generators import CPU, PARENTS, generator_tree, make_generator

from medcontrast.checkpoint import load_weights, save_weights
from medcontrast.data.images.counterfactuals import Counterfactuals
from medcontrast.data.images.images import Images
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.engine.generator.counterfactuals import write_counterfactuals
from medcontrast.engine.generator.generator import Action, actions, load_generator
from medcontrast.engine.job import job_of
from medcontrast.networks.parents import Parent
from medcontrast.settings import load_recipe


@pytest.mark.parametrize(
    ("parents", "change"),
    [
        ({"domain": "category", "age": "number"}, ""),
        ({"age": "number", "target": "category"}, " --set target=uniform"),
        ({"age": "number"}, " --set age=VALUE"),
    ],
)
def test_what_comes_next_changes_a_parent_that_there_is(run_of, parents, change):
    tree = generator_tree()
    tree["method"]["parents"] = parents
    run = run_of(tree=tree)
    folder = run.folder
    wanted = f"medcontrast counterfactuals --ckpt {folder} --manifest {folder / 'manifest.json'}{change} -o FOLDER"
    assert job_of(run).next_command(folder) == wanted


def test_counterfactuals_and_scores_by_the_command(cli, tiny, run_of, data, tmp_path):
    run = run_of()
    tiny.train(run)
    out = tmp_path / "out"
    words = ("counterfactuals", "--ckpt", run.folder, "--manifest", data, "--device", "cpu")
    done = cli(*words, "-o", out, "--metrics", "test", "--predictor-steps", 2)
    assert done.code == 0, done.err
    assert f"{out / 'manifest.json'}: 8 training images, counterfactuals: 4 A, 4 B." in done.out
    tensors, _ = load_weights(run.folder / "last.safetensors")
    loaded = f"Loaded {len(tensors)} of {len(tensors)} tensors of hvae from {run.folder / 'last.safetensors'}, step 6."
    assert loaded in done.out
    scores = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert (scores["images"], scores["counterfactuals"], scores["step"]) == (4, 4, 6)
    accuracy = scores["effectiveness"]["domain"]["balanced_accuracy"]
    assert f"effectiveness, domain: balanced_accuracy {accuracy:.4f}" in done.out
    assert "preservation, age: mean_absolute_error" in done.out
    assert f"reversibility: mean absolute difference {scores['reversibility']:.5f} of 1" in done.out

    written, before = load_image_manifest(out / "manifest.json"), load_image_manifest(data)
    assert written.originals("train") == before.cases("train")
    assert written.cases("test") == before.cases("test")
    originals = {case.name: case for case in before.cases("train")}
    generator = load_generator(run.folder, CPU)
    others = [case for case in written.cases("train") if case.of is not None]
    assert sorted(case.of for case in others) == sorted(originals)
    for case in others:
        original = originals[case.of]
        assert {case.domain, original.domain} == {"A", "B"}
        assert (case.target, case.attributes) == (original.target, original.attributes)
        image = Images([original], channels=1, size=16).load([0])
        own = generator.numbers([original], before.classes, where="it")
        expected = generator.counterfactual(image, own, Action({"domain": case.domain}).on_numbers(generator, own))
        made = Images([case], channels=1, size=16).load([0])
        assert float((made - expected).abs().max()) <= 0.5 / 255 + 1e-6

    done = cli(*words, "-o", tmp_path / "old", "--set", "age=4", "--set", "target=striped")
    assert done.code == 0 and "Warning" not in done.err, done.err
    aged = [case for case in load_image_manifest(tmp_path / "old/manifest.json").cases("train") if case.of]
    assert {(case.attributes["age"], case.target) for case in aged} == {(4.0, 1)}
    assert all(case.domain == originals[case.of].domain for case in aged)
    done = cli(*words, "-o", tmp_path / "far", "--set", "age=400", "--set", "target=uniform")
    age = next(parent for parent in generator.parents if parent.name == "age")
    away = f"{(400 - age.mean) / age.std:.1f} standard deviations from the mean of the training images, {age.mean:.3g}"
    said = f"Warning: age 400 is {away}; what the generator shows there it has hardly seen."
    assert (done.code, done.err.strip()) == (0, said)


def test_every_image_gets_the_other_value_of_an_attribute(cli, tiny, run_of, data, tmp_path):
    """As for the sex counterfactuals of the paper: whatever value an image has."""
    tree = json.loads(data.read_text(encoding="utf-8"))
    for entry in tree["train"]:
        entry["attributes"] = {"sex": float(entry["image"] > "train/03.png"), "age": 1.0}
    data.write_text(json.dumps(tree), encoding="utf-8")
    recipe = generator_tree(steps=1)
    recipe["method"]["parents"] = {"domain": "category", "sex": "category"}
    run, out = run_of(tree=recipe), tmp_path / "out"
    tiny.train(run)
    words = ("counterfactuals", "--ckpt", run.folder, "--manifest", data, "--device", "cpu", "--set", "sex=uniform")
    assert cli(*words, "-o", out).code == 0
    cases = load_image_manifest(out / "manifest.json").cases("train")
    images, made = ([case for case in cases if (case.of is None) is bare] for bare in (True, False))
    assert {case.of: case.attributes["sex"] for case in made} == {
        case.name: 1.0 - case.attributes["sex"] for case in images
    }
    assert len(made) == len(images) and all(case.domain == images[n].domain for n, case in enumerate(made))
    # with the scanner, too: all of both but the image itself
    assert cli(*words, "-o", tmp_path / "both", "--domain", "uniform").code == 0
    both = load_image_manifest(tmp_path / "both" / "manifest.json").cases("train")
    paired = Counterfactuals(both, seed=0, where="it")
    for place in range(paired.images):
        chosen = [paired.cases[choice] for choice in paired.choices(place)]
        assert sorted((case.domain, case.attributes["sex"]) for case in chosen) == [
            (domain, sex) for domain in "AB" for sex in (0.0, 1.0)
        ]


def test_a_generator_of_another_architecture(cli, tiny, run_of, data, tmp_path):
    run = run_of()
    tiny.train(run, steps=1)
    tensors, header = load_weights(run.folder / "last.safetensors")
    header["recipe"]["network"]["filters"] = [4, 4, 12]
    save_weights(tmp_path / "other.safetensors", tensors, header)
    words = ("--ckpt", tmp_path / "other.safetensors", "--manifest", data, "-o", tmp_path / "out", "--device", "cpu")
    found = cli("counterfactuals", *words)
    assert found.code == 2 and "Traceback" not in found.err
    assert "of another architecture than this generator" in found.err and ": the checkpoint has (" in found.err
    assert "size mismatch" not in found.err and not (tmp_path / "out").exists()


@pytest.fixture
def tables(tiny, tmp_path):
    """Eight images with an old counterfactual each, told apart by a column `of`: in arrays, in a csv, in one source
    with the images or in another; classes are called by numbers.
    """

    def write(name, *, mixed):
        folder = tmp_path / f"{name} {mixed}"
        path = tiny.write_images(folder, train=16, validation=0, test=0, classes=("1", "2"))
        tree = json.loads(path.read_text(encoding="utf-8"))
        images = [entry["image"] if name == "csv" else f"x.npz#images[{n}]" for n, entry in enumerate(tree["train"])]
        # the second half is of the first one, in the other domain
        rows = [
            {
                "image": entry["image"],
                "target": tree["classes"][entry["target"]],
                "domain": entry["domain"] if n < 8 else "BA"[entry["domain"] == "B"],
                "age": 2.0,
                "of": "" if n < 8 else images[n - 8],
            }
            for n, entry in enumerate(tree["train"])
        ]
        if name == "csv":
            lines = [",".join(str(value) for value in row.values()) for row in rows]
            (folder / "list.csv").write_text("\n".join([",".join(rows[0]), *lines]), encoding="utf-8")
            source = {"csv": "list.csv", "attributes": ["age"]}
        else:
            columns = {key: np.array([row[key] for row in rows]) for key in ("target", "domain", "age", "of")}
            pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 16), dtype=np.uint8)
            np.savez(folder / "x.npz", images=pixels, **columns)
            source = {"npz": "x.npz", "target": "target", "domain": "domain", "of": "of", "attributes": {"age": "age"}}
        first = {**source, "without": [3]} if mixed else {**source, "rows": [0, 8], "without": [3]}
        tree["train"] = (
            [{**first, "without": [3, 11]}] if mixed else [first, {**source, "rows": [8, 16], "without": [11]}]
        )
        tree["lesion_boxes"] = {name: [[1, 1, 4, 4]] for name in (images[1], images[9])}
        path.write_text(json.dumps(tree), encoding="utf-8")
        return load_image_manifest(path)

    return write


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("name", ["csv", "npz"])
def test_old_counterfactuals_are_left_out_and_targets_stay(tables, tmp_path, name, mixed):
    manifest, out = tables(name, mixed=mixed), tmp_path / "out"
    parents = (*PARENTS[:2], Parent("target", ("1", "2")))
    originals = manifest.originals("train")
    assert (len(originals), len(manifest.cases("train"))) == (7, 14)
    out.mkdir()
    generator = make_generator(parents=parents)
    found = write_counterfactuals(generator, manifest, out, actions(generator, ["uniform"], {}))
    written = load_image_manifest(found.manifest)
    assert written.originals("train") == originals
    others = [case for case in written.cases("train") if case.of is not None]
    assert [case.of for case in sorted(others, key=lambda case: case.of)] == sorted(case.name for case in originals)
    places = {case.name: case for case in originals}
    for case in others:
        assert {case.domain, places[case.of].domain} == {"A", "B"}
        assert case.target == places[case.of].target
    assert {case.target for case in others} == {0, 1}
    assert list(written.lesion_boxes) == [originals[1].name]


def test_what_the_command_refuses(cli, tiny, run_of, data, tmp_path):
    run, out = run_of(), tmp_path / "out"
    tiny.train(run, steps=1)
    encoder = tiny.write_recipe(tmp_path / "encoder.yaml", tiny.pretrain_tree(steps=1))
    other = tiny.create_run(tmp_path / "encoder", load_recipe(encoder), encoder)
    tiny.train(other)
    tree = json.loads(data.read_text(encoding="utf-8"))
    ageless = {**tree, "train": [{k: v for k, v in entry.items() if k != "attributes"} for entry in tree["train"]]}
    (data.parent / "ageless.json").write_text(json.dumps(ageless), encoding="utf-8")
    strange = {**tree, "train": [{**entry, "domain": "C"} for entry in tree["train"]]}
    (data.parent / "strange.json").write_text(json.dumps(strange), encoding="utf-8")

    def refused(sentence, *words, ckpt=run.folder, manifest=data):
        found = cli("counterfactuals", "--ckpt", ckpt, "--manifest", manifest, "-o", out, "--device", "cpu", *words)
        assert found.code == 2, found.out
        assert sentence in found.err and "Traceback" not in found.err, found.err

    refused("was trained by method simclr, which makes no images; counterfactuals need a run of", ckpt=other.folder)
    refused("image train/00.png: attribute age is missing", manifest=data.parent / "ageless.json")
    refused("image train/00.png: domain is 'C', but the", manifest=data.parent / "strange.json")
    refused("domain C: the generator knows A, B.", "--domain", "C")
    refused("--set age: expected PARENT=VALUE, each parent once", "--set", "age")
    late = {**tree, "validation": [{k: v for k, v in entry.items() if k != "domain"} for entry in tree["validation"]]}
    (data.parent / "late.json").write_text(json.dumps(late), encoding="utf-8")
    lacks = "image validation/00.png: attribute domain is missing"  # said before counterfactuals are made
    refused(lacks, "--metrics", "validation", manifest=data.parent / "late.json")
    refused("--metrics train: a generator is scored on validation or test.", "--metrics", "train")
    assert not list(out.glob("*.npz"))
    own = ("-o", data.parent, "--overwrite")  # of several -o the last one counts
    refused("manifest.json: the new set is made from this file, and would replace it; name another with -o.", *own)
    assert json.loads(data.read_text(encoding="utf-8")) == tree
    probed = cli("probe", "--ckpt", run.folder)
    assert probed.code == 2
    assert "method hvae makes images and leaves no encoder behind" in probed.err


def test_recipes_that_do_not_fit(cli, tiny, data, tmp_path):
    def faults(change):
        tree = generator_tree()
        change(tree)
        found = cli("check", tiny.write_recipe(tmp_path / "faulty.yaml", tree))
        assert found.code == 2
        return found.err

    wrong = faults(lambda tree: tree["network"].update(name="hvea"))
    assert "network.name: expected one of" in wrong and "'hvae'" in wrong and "but got 'hvea'" in wrong
    assert "network.filter: unknown key; did you mean 'filters'?" in faults(
        lambda tree: tree["network"].update(filter=[4])
    )
    assert "latent_channels is 0 at the last level" in faults(
        lambda tree: tree["network"].update(latent_channels=[0] * 3)
    )
    assert "need one number for each of at least 2 levels" in faults(lambda tree: tree["network"].update(filters=[4]))
    assert "prior exogenous needs latent_channels of 0 at the first level, where the parents enter" in faults(
        lambda tree: tree["network"].update(prior="exogenous", latent_channels=[2, 2, 2])
    )
    assert "data.size 15 must be a multiple of 2 for a network of 3 levels" in faults(
        lambda tree: tree["data"].update(size=15)
    )
    assert "method hvae trains hvae, but network.name is resnet20" in faults(
        lambda tree: tree.update(network={"name": "resnet20"})
    )
    assert "method simclr trains an encoder such as resnet20, but network.name is hvae" in faults(
        lambda tree: tree.update(method={"name": "simclr"}, augment={"views": {"first": {}, "second": {}}})
    )
    assert "parents.domain is a category, not a number" in faults(
        lambda tree: tree["method"].update(parents={"domain": "number"})
    )
