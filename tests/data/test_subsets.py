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
    with pytest.raises(ManifestError, match="case case_02_0 has no label file, but labeled subset 0 needs it"):
        labeled_subset(load_manifest(write(manifest)), 3, 0)


def write(manifest):
    path = manifest.path.with_name("bare.json")
    path.write_text(json.dumps(manifest.raw), encoding="utf-8")
    return path


def test_a_pool_too_small_and_a_case_without_label_are_refused(manifest):
    with pytest.raises(ManifestError, match="9 labeled cases are asked for, but its pool has 8"):
        labeled_subset(manifest, 9, 0)
    del manifest.raw["unlabeled"][0]["label"]
    with pytest.raises(ManifestError, match="case case_02 has no label file, but labeled subset 0 needs it"):
        labeled_subset(manifest, 3, 0)
