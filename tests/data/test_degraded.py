"""Tests of data sets with degraded test images: property, whole (the command's sentences and exit codes)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medcontrast.data.images.images import read_image
from medcontrast.data.images.manifest import load_image_manifest, require_apart


@pytest.fixture
def degrade(cli, tiny, tmp_path):
    def run(*words, name="worse", **extra):
        path = tiny.write_squares(tmp_path / f"images_{name}", **extra)
        return cli("data", "degrade", path, "-o", tmp_path / name, "--kind", "xray", "--size", 16, *words)

    return run


def test_test_images_stand_twice_and_the_others_once(degrade, tmp_path):
    done = degrade()
    assert done.code == 0, done.err
    assert done.out.strip() == (
        f"{tmp_path / 'worse/manifest.json'}: 6 train, 6 test images; the test images a second time, degraded."
    )
    arrays = np.load(tmp_path / "worse/images.npz")
    original = np.load(tmp_path / "images_worse/images.npz")
    assert np.array_equal(arrays["train_high_images"], original["images"][:6])
    assert np.array_equal(arrays["test_high_images"], original["images"][6:])
    assert arrays["test_high_target"].tolist() == [("bright", "dark")[label] for label in original["labels"][6:]]
    assert (arrays["test_low_images"] != arrays["test_high_images"]).any((1, 2, 3)).all()
    manifest = load_image_manifest(tmp_path / "worse/manifest.json")
    assert [len(manifest.sources[split]) for split in ("train", "test")] == [1, 2]
    assert [case.quality for case in manifest.cases("test")] == ["high"] * 6 + ["low"] * 6
    assert [case.quality for case in manifest.cases("train")] == ["high"] * 6
    assert np.array_equal(arrays["test_low_target"], arrays["test_high_target"])


def test_what_is_of_low_quality_as_it_is_stays_so(cli, tiny, tmp_path):
    source = {"npz": "images.npz", "images": "images", "target": "labels"}
    parts = [{**source, "quality": "low", "rows": [6, 8]}, {**source, "rows": [8, 12]}]
    path = tiny.write_squares(tmp_path / "some", test=parts)
    done = cli("data", "degrade", path, "-o", tmp_path / "out", "--kind", "xray", "--size", 16)
    assert done.code == 0, done.err
    found = [case.quality for case in load_image_manifest(tmp_path / "out" / "manifest.json").cases("test")]
    assert found == ["low"] * 2 + ["high"] * 4 + ["low"] * 4  # and is not degraded further
    arrays, first = np.load(tmp_path / "out/images.npz"), np.load(tmp_path / "some/images.npz")["images"][6:]
    assert np.array_equal(arrays["test_high_images"], first)
    assert arrays["test_low_patient"].tolist() == [f"images.npz#images[{number}]" for number in range(8, 12)]
    whole = tiny.write_squares(tmp_path / "whole")
    assert cli("data", "degrade", whole, "-o", tmp_path / "all", "--kind", "xray", "--size", 16).code == 0
    # the draws are those of an image's place, whoever is left out
    assert np.array_equal(arrays["test_low_images"], np.load(tmp_path / "all/images.npz")["test_low_images"][2:])


def test_splits_that_share_an_image_are_refused(degrade, tmp_path):
    source = {"npz": "images.npz", "images": "images", "target": "labels"}
    done = degrade(test=[{**source, "rows": [5, 12]}])
    assert done.code == 2 and not (tmp_path / "worse").exists()
    assert "splits must not overlap:\n  - image images.npz#images[5] stands in train and in test" in done.err


def test_severity_zero_changes_nothing_and_the_seed_decides(degrade, tmp_path):
    for name, words in (("none", ["--severity", 0.0]), ("one", []), ("same", []), ("other", ["--seed", 1])):
        assert degrade(*words, name=name).code == 0
    arrays = {
        name: np.load(tmp_path / name / "images.npz")["test_low_images"] for name in ("none", "one", "same", "other")
    }
    assert np.array_equal(arrays["none"], np.load(tmp_path / "none/images.npz")["test_high_images"])
    assert np.array_equal(arrays["one"], arrays["same"])
    assert not np.array_equal(arrays["one"], arrays["other"])


def test_a_manifest_of_it_loads_with_its_qualities(degrade, tmp_path):
    assert degrade().code == 0
    cases = load_image_manifest(tmp_path / "worse/manifest.json").cases("test")
    assert [case.quality for case in cases] == ["high"] * 6 + ["low"] * 6
    assert [case.target for case in cases[:6]] == [case.target for case in cases[6:]]


def test_classes_that_are_called_by_numbers_stay_what_they_are(degrade, tmp_path):
    assert degrade(count=8, classes=["1", "2"]).code == 0
    before, after = (load_image_manifest(tmp_path / name / "manifest.json") for name in ("images_worse", "worse"))
    for split in ("train", "test"):
        expected = [case.target for case in before.cases(split)]
        assert expected == [0, 1, 0, 1]
        assert [case.target for case in after.cases(split)][:4] == expected


def test_an_image_and_its_copy_have_one_patient(degrade, tmp_path):
    assert degrade().code == 0
    manifest = load_image_manifest(tmp_path / "worse/manifest.json")
    names = [f"images.npz#images[{number}]" for number in range(12)]
    assert [case.patient for case in manifest.cases("train")] == names[:6]
    assert [case.patient for case in manifest.cases("test")] == names[6:] * 2
    require_apart(manifest)


def test_patients_of_the_manifest_stay(degrade, tmp_path):
    entry = {"npz": "images.npz", "images": "images", "target": "labels", "patient": "labels"}
    assert degrade(train=[], test=[entry]).code == 0
    cases = load_image_manifest(tmp_path / "worse/manifest.json").cases("test")
    assert [case.patient for case in cases] == ["0", "1"] * 12


def test_counterfactuals_are_left_out(cli, tiny, tmp_path):
    path = tiny.write_images(tmp_path / "pairs", train=4, validation=0, test=4)
    tree = json.loads(path.read_text(encoding="utf-8"))
    for split in ("train", "test"):
        for number in (1, 3):
            tree[split][number]["of"] = tree[split][number - 1]["image"]
    path.write_text(json.dumps(tree), encoding="utf-8")
    done = cli("data", "degrade", path, "-o", tmp_path / "worse", "--kind", "xray", "--size", 16)
    assert done.code == 0, done.err
    assert done.out.strip().endswith(": 2 train, 2 test images; the test images a second time, degraded.")
    manifest = load_image_manifest(tmp_path / "worse/manifest.json")
    for split, names in (("train", ["train/00.png", "train/02.png"]), ("test", ["test/00.png", "test/02.png"] * 2)):
        assert [(case.patient, case.of) for case in manifest.cases(split)] == [(name, None) for name in names]
    arrays, clean = np.load(tmp_path / "worse/images.npz"), load_image_manifest(path).originals("test")
    assert np.array_equal(arrays["test_high_images"][1, ..., 0], read_image(clean[1], channels=1, size=16)[0])
    checked = cli("data", "check", tmp_path / "worse/manifest.json")
    assert checked.code == 0, (checked.out, checked.err)


def test_a_set_never_replaces_what_it_is_made_from(degrade, cli, tmp_path):
    assert degrade().code == 0
    folder = tmp_path / "worse"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = ("-o", folder, "--size", 16, "--overwrite")
    sentence = (
        f"{folder / 'manifest.json'}: the new set is made from this file, and would replace it; name another with -o."
    )
    for kind in (("degrade", "--kind", "xray"), ("scanners",)):
        again = cli("data", kind[0], folder / "manifest.json", *words, *kind[1:])
        assert (again.code, again.err.strip()) == (2, sentence)
    elsewhere = tmp_path / "elsewhere.json"  # its images, by another manifest
    elsewhere.write_text((folder / "manifest.json").read_text().replace('"root": "."', '"root": "worse"'))
    again = cli("data", "degrade", elsewhere, *words, "--kind", "xray")
    assert again.code == 2 and f"{folder / 'images.npz'}: the new set is made from this file" in again.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_bad_input_gets(degrade, cli, tmp_path):
    bad = cli("data", "degrade", tmp_path / "x.json", "-o", tmp_path / "y", "--kind", "ct", "--size", 16)
    assert (bad.code, bad.err.strip()) == (2, "--kind ct: expected fundus or xray.")
    assert "--channels 2: 1 for grey or 3 for colour." in degrade("--channels", 2).err
    none = degrade(name="none", test=[])
    assert none.code == 2
    assert "has no test images to degrade." in none.err
    untold = degrade(name="untold", test=[{"npz": "images.npz", "images": "images", "rows": [6, 12]}])
    assert untold.code == 2
    assert "image images.npz#images[6] of test has no target, which a probe needs." in untold.err
