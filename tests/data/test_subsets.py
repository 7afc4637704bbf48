"""Tests of labeled subsets: by hand, property."""

from __future__ import annotations

import json

import pytest

from medcontrast.data.manifest import load_manifest
from medcontrast.data.subsets import labeled_subset
from medcontrast.errors import ManifestError


@pytest.fixture
def manifest(tiny, tmp_path):
    return load_manifest(tiny.write_data(tmp_path, labeled=2, unlabeled=6, validation=1))


def names(entries):
    return [entry["case"] for entry in entries]


def test_subset_0_is_the_manifests_own_order(manifest):
    raw = labeled_subset(manifest, 3, 0)
    assert names(raw["labeled"]) == ["case_00", "case_01", "case_02"]
    assert names(raw["unlabeled"]) == [f"case_{number:02d}" for number in range(3, 8)]


@pytest.mark.parametrize("subset", [1, 2, 3])
def test_any_subset_shares_out_the_whole_pool_and_leaves_validation(manifest, subset):
    raw = labeled_subset(manifest, 3, subset)
    assert len(raw["labeled"]) == 3
    assert sorted(names(raw["labeled"]) + names(raw["unlabeled"])) == [f"case_{number:02d}" for number in range(8)]
    assert raw["validation"] == manifest.raw["validation"]
    assert raw == labeled_subset(manifest, 3, subset)


def test_subsets_differ(manifest):
    found = {tuple(names(labeled_subset(manifest, 3, subset)["labeled"])) for subset in range(4)}
    assert len(found) > 2


def test_all_labels_the_pool(manifest, tmp_path):
    raw = labeled_subset(manifest, "all", 1)
    assert len(raw["labeled"]) == 8
    assert raw["unlabeled"] == []
    path = tmp_path / "all.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    assert len(load_manifest(path).labeled) == 8


def test_a_case_that_the_manifest_does_not_name_has_the_name_of_its_file(manifest):
    for entry in (*manifest.raw["labeled"], *manifest.raw["unlabeled"]):
        del entry["case"]
    bare = load_manifest(write(manifest))
    raw = labeled_subset(bare, 3, 0)
    assert names(raw["labeled"]) == ["case_00_0", "case_01_0", "case_02_0"]
    assert raw["unlabeled"][0] == {**bare.raw["unlabeled"][1], "case": "case_03_0"}
    del manifest.raw["unlabeled"][0]["label"]
    assert names(labeled_subset(load_manifest(write(manifest)), 3, 0)["labeled"]) == [
        "case_00_0",
        "case_01_0",
        "case_03_0",
    ]


def write(manifest):
    path = manifest.path.with_name("bare.json")
    path.write_text(json.dumps(manifest.raw), encoding="utf-8")
    return path


def test_cases_without_a_label_file_stay_unlabeled(manifest):
    for number in (0, 3):
        del manifest.raw["unlabeled"][number]["label"]
    bare = load_manifest(write(manifest))
    for count, subset in ((3, 0), (3, 1), (5, 2), ("all", 0)):
        raw = labeled_subset(bare, count, subset)
        assert len(raw["labeled"]) == (6 if count == "all" else count)
        assert not {"case_02", "case_05"} & set(names(raw["labeled"]))
        assert sorted(names(raw["labeled"]) + names(raw["unlabeled"])) == [f"case_{number:02d}" for number in range(8)]


def test_a_pool_too_small_is_refused(manifest):
    del manifest.raw["unlabeled"][0]["label"]
    sentence = "8 labeled cases are asked for, but of its 8 labeled and unlabeled cases 7 name a label file"
    with pytest.raises(ManifestError, match=sentence):
        labeled_subset(load_manifest(write(manifest)), 8, 0)
