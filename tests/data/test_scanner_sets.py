"""Tests of data sets seen by simulated scanners: property, whole (the command's sentences and exit codes)."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from medcontrast.data.images.images import read_image
from medcontrast.data.images.manifest import load_image_manifest, require_apart
from medcontrast.transforms.scanners import SCANNERS, render_by_scanner


@pytest.fixture
def scanners(cli, tiny, tmp_path):
    def run(*words, name="seen"):
        path = tiny.write_images(tmp_path / "clean", train=24, validation=2, test=3, domain=None)
        tree = json.loads(path.read_text(encoding="utf-8"))
        for split in ("train", "validation", "test"):
            for number, entry in enumerate(tree[split]):
                entry["attributes"] = {"width": number / 2}
        path.write_text(json.dumps(tree), encoding="utf-8")
        return cli("data", "scanners", path, "-o", tmp_path / name, "--size", 16, *words)

    return run


def test_splits_that_share_a_patient_are_refused(cli, tiny, tmp_path):
    path = tiny.write_images(tmp_path / "clean", patient="p")
    done = cli("data", "scanners", path, "-o", tmp_path / "seen", "--size", 16)
    assert done.code == 2 and not (tmp_path / "seen").exists()
    assert "splits must not overlap:\n  - patient p stands in train and in validation" in done.err


def test_training_images_are_seen_by_one_scanner_and_the_others_by_all(scanners, tmp_path):
    done = scanners()
    assert done.code == 0, done.err
    path = tmp_path / "seen/manifest.json"
    assert done.out.strip() == f"{path}: 24 train, 10 validation, 15 test images."
    seen, clean = load_image_manifest(path), load_image_manifest(tmp_path / "clean/manifest.json")
    require_apart(seen)
    first = 0
    for split in ("train", "validation", "test"):
        originals, cases = clean.cases(split), seen.cases(split)
        places = {case.name: place for place, case in enumerate(originals)}
        counts = Counter((case.patient, case.domain) for case in cases)
        assert set(counts.values()) == {1}
        if split == "train":
            assert [case.patient for case in cases] == [case.name for case in originals]
            assert Counter(case.domain for case in cases) == {"plain": 20, **dict.fromkeys(SCANNERS[1:], 1)}
        else:
            assert set(counts) == {(name, scanner) for name in places for scanner in SCANNERS}
        for case in cases:
            place = places[case.patient]
            original = originals[place]
            assert (case.target, case.attributes, case.of) == (original.target, original.attributes, None)
            image = read_image(original, channels=1, size=16)[0] / 255.0
            expected = render_by_scanner(image, case.domain, seed=0, number=first + place)
            assert np.array_equal(read_image(case, channels=1, size=16)[0], np.rint(expected * 255))
        first += len(originals)


def test_the_exact_counterfactuals_are_the_same_image_under_every_other_scanner(scanners, tmp_path):
    done = scanners("--exact", "--seed", 2)
    assert done.code == 0, done.err
    manifest = load_image_manifest(tmp_path / "seen/manifest.json")
    images = {case.name: case for case in manifest.originals("train")}
    others = [case for case in manifest.cases("train") if case.of is not None]
    assert len(images) == 24 and len(others) == 24 * 4
    for case in others:
        original = images[case.of]
        assert (case.target, case.patient, case.attributes) == (original.target, original.patient, original.attributes)
    for name, original in images.items():
        assert {case.domain for case in others if case.of == name} == set(SCANNERS) - {original.domain}
    plain = next(case for case in images.values() if case.domain == "plain")
    hazy = next(case for case in others if case.of == plain.name and case.domain == "haze")
    pair = [read_image(case, channels=1, size=16).astype(int) for case in (plain, hazy)]
    assert (abs(127.5 + 0.3 * pair[0] - pair[1]) <= 1.0).all()  # both are rounded to 8 bits


def test_classes_called_by_numbers_and_images_of_no_class_stay_what_they_are(cli, tiny, tmp_path):
    path = tiny.write_images(tmp_path / "clean", train=9, validation=0, test=0, domain=None, classes=("1", "2", "0"))
    tree = json.loads(path.read_text(encoding="utf-8"))
    del tree["train"][4]["target"]
    path.write_text(json.dumps(tree), encoding="utf-8")
    assert cli("data", "scanners", path, "-o", tmp_path / "seen", "--size", 16).code == 0
    before, after = (load_image_manifest(place).cases("train") for place in (path, tmp_path / "seen/manifest.json"))
    assert [case.target for case in after] == [case.target for case in before] == [0, 1, 2, 0, None, 2, 0, 1, 2]


def test_shares_and_seed_decide(scanners, tmp_path):
    words = ["--share", "plain=50", "--share", "gamma=50", "--share", "contrast=0", "--share", "blur=0"]
    assert scanners(*words, "--share", "haze=0", name="half").code == 0
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        assert scanners("--seed", seed, name=name).code == 0
    halves = load_image_manifest(tmp_path / "half/manifest.json").cases("train")
    assert Counter(case.domain for case in halves) == {"plain": 12, "gamma": 12}
    one, same, other = (np.load(tmp_path / name / "images.npz") for name in ("one", "same", "other"))
    assert all(np.array_equal(one[key], same[key]) for key in one.files)
    assert not np.array_equal(one["train_domain"], other["train_domain"])


def test_what_the_command_refuses(scanners, cli, tiny, tmp_path):
    expected = "expected SCANNER=PERCENT, of plain, gamma, contrast, blur, haze, such as gamma=4.4."
    for share in ("mri=3", "gamma", "gamma=101", "gamma=much"):
        found = scanners("--share", share)
        assert found.code == 2
        assert f"--share {share}: {expected}" in found.err
    assert scanners().code == 0
    again = scanners()
    assert again.code == 2
    assert "exists already" in again.err
    path = tiny.write_images(tmp_path / "tests", train=0)
    found = cli("data", "scanners", path, "-o", tmp_path / "out", "--size", 16)
    assert found.code == 2
    assert "has no train images to draw scanners for" in found.err
