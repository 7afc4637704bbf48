"""Tests of composite images: property, whole (the command's sentences and exit codes)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medcontrast.data.images.manifest import load_image_manifest

SIDE = 8


@pytest.fixture
def singles(tmp_path):
    """Images that are their own number everywhere, of three classes."""

    def write(labels=(0, 1, 2, 0, 1, 2, 2), **extra):
        images = np.stack([np.full((16, 16), 10 + number, np.uint8) for number in range(len(labels))])
        np.savez_compressed(tmp_path / "singles.npz", images=images, labels=np.array(labels))
        source = {"npz": "singles.npz", "target": "labels"}
        content = {"kind": "images", "name": "singles", "root": ".", "classes": ["a", "b", "c"], "train": [source]}
        path = tmp_path / "singles.json"
        path.write_text(json.dumps({**content, **extra}), encoding="utf-8")
        return path

    return write


def compose(cli, path, folder, *words):
    return cli("data", "composites", path, "-o", folder, "--canvas", 20, "--side", SIDE, "--channels", 1, *words)


def test_each_composite_holds_its_image_and_one_of_another_class_whole(cli, singles, tmp_path):
    labels = (0, 1, 2, 0, 1, 2, 2)
    done = compose(cli, singles(labels), tmp_path / "pairs")
    assert done.code == 0, done.err
    assert done.out.strip() == f"{tmp_path / 'pairs/manifest.json'}: 7 train images."
    arrays = np.load(tmp_path / "pairs/composites.npz")
    classes = json.loads((tmp_path / "pairs/manifest.json").read_text(encoding="utf-8"))["classes"]
    assert classes == ["a and b", "a and c", "b and c"]
    assert contained(tmp_path / "pairs") == {"a and b": ["a", "b"], "a and c": ["a", "c"], "b and c": ["b", "c"]}
    vertical = set()
    for index, (image, target) in enumerate(zip(arrays["train_images"], arrays["train_pairs"], strict=True)):
        values, counts = np.unique(image, return_counts=True)
        assert sorted(counts.tolist())[:2] == [SIDE**2, SIDE**2]
        numbers = [int(value) - 10 for value in values if value != 128]
        assert index in numbers
        assert target == " and ".join(sorted("abc"[labels[number]] for number in numbers))
        rows = [np.flatnonzero((image == number + 10).any((1, 2))) for number in numbers]
        apart = rows[0][-1] < rows[1][0] or rows[1][-1] < rows[0][0]
        vertical.add(bool(apart))
    assert vertical == {True, False}


def test_a_composite_has_the_patient_of_the_image_that_leads_it(cli, singles, tmp_path):
    path = singles()
    arrays = dict(np.load(tmp_path / "singles.npz"))
    np.savez(tmp_path / "singles.npz", **arrays, patients=np.array(["p", "p", "q", "q", "", "r", "r"]))
    content = json.loads(path.read_text(encoding="utf-8"))
    content["train"][0]["patient"] = "patients"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert compose(cli, path, tmp_path / "pairs").code == 0
    cases = load_image_manifest(tmp_path / "pairs/manifest.json").originals("train")
    single = load_image_manifest(path).originals("train")[4].name
    assert [case.patient for case in cases] == ["p", "p", "q", "q", single, "r", "r"]


def contained(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["contains"]


def test_a_composite_holds_the_labels_of_both_its_classes(cli, singles, tmp_path):
    held = {"a": ["left", "dark"], "b": ["dark"], "c": ["round"]}
    assert compose(cli, singles(contains=held), tmp_path / "pairs").code == 0
    assert contained(tmp_path / "pairs") == {
        "a and b": ["left", "dark"],
        "a and c": ["left", "dark", "round"],
        "b and c": ["dark", "round"],
    }


def test_the_seed_decides_them(cli, singles, tmp_path):
    path = singles()
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        assert compose(cli, path, tmp_path / name, "--seed", seed).code == 0
    one, same, other = (
        np.load(tmp_path / name / "composites.npz")["train_images"] for name in ("one", "same", "other")
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_counterfactuals_are_no_objects(cli, singles, tmp_path):
    path = singles()
    arrays = dict(np.load(tmp_path / "singles.npz"))
    np.savez_compressed(tmp_path / "singles.npz", **arrays, of=["", "", "", "", "", "singles.npz#images[0]", ""])
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["train"][0]["of"] = "of"
    path.write_text(json.dumps(tree), encoding="utf-8")
    assert compose(cli, path, tmp_path / "pairs").code == 0
    images = np.load(tmp_path / "pairs/composites.npz")["train_images"]
    assert len(images) == 6 and not (images == 15).any()


def test_splits_that_share_an_image_are_refused(cli, singles, tmp_path):
    twice = compose(cli, singles(test=[{"npz": "singles.npz", "target": "labels", "rows": [5, 7]}]), tmp_path / "pairs")
    assert twice.code == 2 and not (tmp_path / "pairs").exists()
    assert "splits must not overlap:\n  - image singles.npz#images[5] stands in train and in test" in twice.err


def test_what_bad_input_gets(cli, singles, tmp_path):
    path = singles()
    assert compose(cli, path, tmp_path / "pairs").code == 0
    again = compose(cli, path, tmp_path / "pairs")
    assert again.code == 2
    assert "manifest.json: exists already (and 1 more); add --overwrite, or name another output." in again.err
    large = cli("data", "composites", path, "-o", tmp_path / "x", "--canvas", 20, "--side", 11)
    assert (large.code, large.err.strip()) == (
        2,
        "--side 11: an object takes at most half the canvas, 10 pixels.",
    )
    alone = compose(cli, singles((1, 1, 1)), tmp_path / "x")
    assert alone.code == 2
    assert "train holds one class alone; a composite shows two." in alone.err
    two = compose(cli, singles((0, 1, 0), classes=["a", "b"]), tmp_path / "x")
    assert two.code == 2
    assert "has 2 classes, which make one pair at most; it takes 3." in two.err
    untold = compose(cli, singles(train=[{"npz": "singles.npz"}]), tmp_path / "x")
    assert untold.code == 2
    assert "image singles.npz#images[0] of train has no target" in untold.err
