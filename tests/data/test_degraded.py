"""Tests of data sets with degraded test images: property, whole (the command's sentences and exit codes)."""

from __future__ import annotations

import numpy as np
import pytest

from medcontrast.data.image_manifest import load_image_manifest


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
    assert np.array_equal(arrays["test_high_target"], original["labels"][6:])
    assert (arrays["test_low_images"] != arrays["test_high_images"]).any((1, 2, 3)).all()
    manifest = load_image_manifest(tmp_path / "worse/manifest.json")
    assert [len(manifest.sources[split]) for split in ("train", "test")] == [1, 2]
    assert [case.quality for case in manifest.cases("test")] == ["high"] * 6 + ["low"] * 6
    assert [case.quality for case in manifest.cases("train")] == ["high"] * 6
    assert np.array_equal(arrays["test_low_target"], arrays["test_high_target"])


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


def test_what_bad_input_gets(degrade, cli, tmp_path):
    bad = cli("data", "degrade", tmp_path / "x.json", "-o", tmp_path / "y", "--kind", "ct", "--size", 16)
    assert (bad.code, bad.err.strip()) == (2, "--kind ct: expected fundus or xray.")
    assert "--channels 2: 1 for grey or 3 for colour." in degrade("--channels", 2).err
    none = degrade(name="none", test=[])
    assert none.code == 2
    assert "has no test images to degrade." in none.err
    untold = degrade(name="untold", test=[{"npz": "images.npz", "images": "images"}])
    assert untold.code == 2
    assert "image images.npz#images[0] of test has no target, which a probe needs." in untold.err
