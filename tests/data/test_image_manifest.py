"""Tests of manifests of images: by hand, every sentence."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medcontrast.data.fit import recipe_manifest, require_files, require_fit, told_by_targets
from medcontrast.data.images.manifest import (
    ImageManifest,
    is_image_manifest,
    load_image_manifest,
    overlaps,
    require_apart,
)
from medcontrast.data.images.sources import ImageCase
from medcontrast.errors import ManifestError, RecipeError
from medcontrast.settings.shipped import shipped_folder


def loaded(folder: Path, **tree: Any) -> ImageManifest:
    path = folder / "m.json"
    path.write_text(json.dumps({"kind": "images", "root": ".", **tree}), encoding="utf-8")
    return load_image_manifest(path)


def entries(folder: Path, *names: str, **known: Any) -> list[dict[str, Any]]:
    for name in names:
        (folder / name).touch()  # a list of images opens none
    return [{"image": name, **known} for name in names]


def test_splits_root_and_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"classes": ["a", "b"], "train": entries(tmp_path, "x", "y", target="b"), "test": entries(tmp_path, "z")}
    manifest = loaded(tmp_path, name="three", **tree)
    assert (manifest.name, manifest.classes, manifest.root) == ("three", ("a", "b"), tmp_path)
    assert list(manifest.splits()) == ["train", "test"]
    assert [(case.name, case.target) for case in manifest.cases("train")] == [("x", 1), ("y", 1)]
    assert manifest.files("train") == [tmp_path / "x", tmp_path / "y"]
    assert loaded(tmp_path, **tree).name == "m"
    assert load_image_manifest(tmp_path / "m.json", tmp_path / "else").root == tmp_path / "else"
    monkeypatch.setenv("MEDCONTRAST_DATA", "/data")
    assert loaded(tmp_path, **{**tree, "root": None}).root == Path("/data")


def test_classes_may_contain_labels(tmp_path: Path) -> None:
    contains = {"both": ["cat", "dog"], "one": ["dog"], "other": ["cow", "cat"]}
    tree = {"classes": list(contains), "train": entries(tmp_path, "x", target="one")}
    manifest = loaded(tmp_path, contains=contains, **tree)
    assert manifest.contains == {"both": ("cat", "dog"), "one": ("dog",), "other": ("cow", "cat")}
    assert manifest.labels == ("cat", "dog", "cow")
    assert loaded(tmp_path, **tree).contains == {} and loaded(tmp_path, **tree).labels == ()

    def faults(table: Any) -> list[str]:
        with pytest.raises(ManifestError) as refusal:
            loaded(tmp_path, contains=table, **tree)
        return str(refusal.value).splitlines()[1:]

    assert faults(["cat"]) == ["  - contains: expected labels by name of the class, but got list"]
    assert faults({"both": ["cat"], "one": "dog", "new": ["cat", "cat"]}) == [
        "  - contains: 'new' is no class",
        "  - contains: 'other' is a class, but not in it",
        "  - contains: one: expected a list of different labels, but got 'dog'",
        "  - contains: new: expected a list of different labels, but got ['cat', 'cat']",
    ]
    assert faults({**contains, "one": ["dog", "cat"]}) == [
        "  - contains: every class contains cat, so that it tells no images apart"
    ]


def test_what_to_do_where_files_are_not_there_follows_what_their_folder_came_from(tmp_path: Path) -> None:
    def fault(given: Path | None = None, **tree: Any) -> str:
        loaded(tmp_path, train=[{"image": "gone.png"}], **tree)
        with pytest.raises(ManifestError) as refusal:
            load_image_manifest(tmp_path / "m.json", given).cases("train")
        return str(refusal.value).partition("is not there; ")[2]

    start = "to the folder that its paths start from."
    assert fault() == f"correct the manifest's root . {start}"
    assert fault(root=None) == f"set MEDCONTRAST_DATA {start}"
    assert fault(tmp_path / "else") == f"correct {tmp_path}/else, the folder that was given for its paths."


def test_the_files_of_an_idx_source_are_its_images_and_its_table(tmp_path: Path) -> None:
    manifest = loaded(tmp_path, train=[{"csv": "t.csv", "idx": "i.gz", "attributes": ["age"]}])
    assert sorted(manifest.files("train")) == [tmp_path / "i.gz", tmp_path / "t.csv"]


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"train": [], "test": []}, "no images: at least one of train, validation, test is needed"),
    ({"train": "x"}, "train: expected a list of sources, but got str"),
    ({"train": ["x"]}, r"train\[0\]: expected one of the keys image, npz, folder, csv, idx, slices, but got 'x'"),
    ({"train": [{"image": "x", "npz": "y"}]}, r"train\[0\]: expected one of the keys .* but got \{'image': 'x'"),
    ({"train": [{"image": "x", "tagret": 1}]}, r"train\[0\]: unknown key 'tagret'; image knows name, target, domain"),
    (
        {"train": [{"csv": "x", "target": "y"}]},
        r"train\[0\]: unknown key 'target'; csv knows attributes, relative_to, only, rows, folds",
    ),
    ({"train": [{"image": 3}]}, r"train\[0\]: image is a path, but got 3"),
    ({"classes": "ab"}, "classes: expected a list of names, target 0 first, but got 'ab'"),
    ({"classes": ["a", "b", "a"]}, "classes: 'a' stands in it more than once"),
    ({"splits": []}, r"unknown key 'splits'; known: classes, contains, description, kind"),
]


@pytest.mark.parametrize(("tree", "sentence"), FAULTS)
def test_faults(tmp_path: Path, tree: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ManifestError, match=r"m\.json: 1 fault\(s\):\n  - " + sentence):
        loaded(
            tmp_path, **{"validation": entries(tmp_path, "v"), **({"validation": []} if "test" in tree else {}), **tree}
        )


def test_all_faults_at_once(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"3 fault\(s\):(\n  - .*){3}$"):
        loaded(tmp_path, test=entries(tmp_path, "t"), classes=3, train=[{"image": 3}, {"picture": "x"}])


def test_which_kind_of_manifest_it_is(tmp_path: Path, tiny: SimpleNamespace) -> None:
    volumes = tiny.write_data(tmp_path / "volumes")
    images = tiny.write_images(tmp_path / "images")
    assert is_image_manifest(images) and not is_image_manifest(volumes)
    (tmp_path / "list.json").write_text("[]")
    assert not any(is_image_manifest(tmp_path / name) for name in ("none.json", "list.json"))
    with pytest.raises(ManifestError, match=r'with "kind": "images" and .*; this is a manifest of volumes'):
        load_image_manifest(volumes)
    with pytest.raises(ManifestError, match="this is of the kind 'image'"):
        loaded(tmp_path, kind="image")
    with pytest.raises(ManifestError, match="there is no such manifest"):
        load_image_manifest(tmp_path / "none.json")


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    manifest = loaded(tmp_path, train=entries(tmp_path, "x"))
    with pytest.raises(ManifestError, match="the split 'test' is empty; it has train"):
        manifest.cases("test")
    with pytest.raises(ManifestError, match="there is no split 'labeled'; choose one of train, validation, test"):
        manifest.cases("labeled")


def test_an_image_stands_in_a_split_once(tmp_path: Path) -> None:
    manifest = loaded(tmp_path, train=[*entries(tmp_path, "x", "y"), {"image": "./x"}])
    with pytest.raises(ManifestError, match=r"m\.json: image x stands in train more than once"):
        manifest.cases("train")


def test_splits_must_not_overlap(tmp_path: Path) -> None:
    train = [*entries(tmp_path, "a", "b", patient="p"), *entries(tmp_path, "c")]
    clean = {"train": train, "validation": entries(tmp_path, "d", "e"), "test": entries(tmp_path, "f", patient="q")}
    require_apart(loaded(tmp_path, **clean))
    mixed = {
        **clean,
        "validation": entries(tmp_path, "c", "b", "e"),
        "test": [*entries(tmp_path, "e", "c"), *entries(tmp_path, "f", patient="p")],
    }
    with pytest.raises(ManifestError, match="splits must not overlap") as caught:
        require_apart(loaded(tmp_path, **mixed))
    assert str(caught.value).splitlines()[1:] == [
        "  - image b stands in train and in validation",
        "  - image c stands in train and in test",
        "  - image c stands in validation and in test",
        "  - patient p stands in train and in test",
    ]
    assert overlaps({"a": [ImageCase("1", Path("x"))], "b": [ImageCase("2", Path("y"))]}) == []


# --- with a recipe


def test_a_recipe_and_its_images(tmp_path: Path, tiny: SimpleNamespace) -> None:
    tiny.write_images(tmp_path / "data")
    path = tiny.write_recipe(tmp_path / "r.yaml", tiny.pretrain_tree())
    recipe = tiny.recipe_from(tiny.pretrain_tree())
    manifest = recipe_manifest(recipe, path)
    assert isinstance(manifest, ImageManifest) and len(manifest.cases("train")) == 24
    require_fit(recipe, manifest, where="r")
    require_files(recipe, manifest)
    (tmp_path / "data/train/03.png").unlink()
    with pytest.raises(ManifestError, match=r"1 of 24 files are not there, the first is .*/data/train/03\.png"):
        require_files(recipe, manifest)
    tree = json.loads((tmp_path / "data/manifest.json").read_text())
    (tmp_path / "data/manifest.json").write_text(json.dumps({**tree, "train": []}))
    with pytest.raises(RecipeError, match=r"1 fault in r:\n  - data\.manifest: .* has no train images to learn from"):
        require_fit(recipe, recipe_manifest(recipe, path), where="r")
    with pytest.raises(ManifestError, match="lists images, but method supervised segments volumes"):
        recipe_manifest(tiny.make_recipe(), path)


def test_splits_that_share_images_are_not_trained_on(tmp_path: Path, tiny: SimpleNamespace) -> None:
    tiny.write_images(tmp_path / "data", patient="p")
    path, recipe = tiny.write_recipe(tmp_path / "r.yaml", tiny.pretrain_tree()), tiny.recipe_from(tiny.pretrain_tree())
    manifest = recipe_manifest(recipe, path)
    with pytest.raises(RecipeError) as caught:
        require_fit(recipe, manifest, where="r")
    assert str(caught.value).replace(str(manifest.path), "m.json").splitlines() == [
        "3 faults in r:",
        "  - data.manifest: m.json: patient p stands in train and in validation, and splits must not overlap",
        "  - data.manifest: m.json: patient p stands in train and in test, and splits must not overlap",
        "  - data.manifest: m.json: patient p stands in validation and in test, and splits must not overlap",
    ]
    for name in ("validation", "test"):  # a machine that holds the training images alone trains
        next((tmp_path / "data" / name).iterdir()).unlink()
    require_fit(recipe, manifest, where="r")


QUEUED = {
    "moco_v2": ("query", "key"),
    "leoclr": ("anchor", "first", "second"),
    "multi_level": ("query_high", "key_high", "query_low", "key_low"),
}


def fault_of(tiny: SimpleNamespace, folder: Path, method: str, sources: list[dict[str, Any]], **keys: Any) -> str:
    """The one fault of a method's tiny recipe on images, "" where there is none."""
    tree = tiny.pretrain_tree(rows=1)
    tree["augment"]["views"] = {name: {} for name in QUEUED[method]}
    tree["method"] = {"name": method, "embedding_channels": 8, "queue": 1, **keys}
    manifest = loaded(folder, classes=["fine", "ill"], train=sources)
    try:
        require_fit(tiny.recipe_from(tree), manifest, where="r")
    except RecipeError as error:
        first, fault = str(error).splitlines()
        assert first == "1 fault in r:"
        return fault.removeprefix("  - ").replace(str(manifest.path), "m.json")
    return ""


@pytest.mark.parametrize("method", QUEUED)
def test_a_queue_is_no_longer_than_the_images_that_fill_it(tmp_path: Path, tiny: SimpleNamespace, method: str) -> None:
    fine = entries(tmp_path, *"abcd", target=0)
    images = [*fine, *entries(tmp_path, "e", target=1), *entries(tmp_path, "f", target=0, of="a")]
    count, what = (4, "healthy training image(s)") if method == "multi_level" else (5, "training image(s)")
    assert fault_of(tiny, tmp_path, method, images, queue=count) == ""
    assert fault_of(tiny, tmp_path, method, images, queue=count + 1) == (
        f"method.queue {count + 1}: m.json fills it from {count} {what}, so that an image's own old keys would be "
        f"among its negatives; set it to {count} or less, better to a fraction of that"
    )


def test_each_queue_of_multi_level_is_filled_by_its_own_images(tmp_path: Path, tiny: SimpleNamespace) -> None:
    images = [
        *entries(tmp_path, "a", target=0),
        *entries(tmp_path, "b", "c", target=0, quality="low"),
        *entries(tmp_path, "d", target=1),
    ]

    def fault(**keys: Any) -> str:
        return fault_of(tiny, tmp_path, "multi_level", images, **keys)

    assert "fills it from 1 healthy training image(s) of high quality" in fault(queue=2)
    assert "fills it from 2 training image(s) of high quality" in fault(queue=3, queued="all")
    # clean keys are nobody's negatives then
    assert fault(queue=3, high_weight=0.0) == ""
    assert "fills it from 1 healthy training image(s) of high quality" in fault(
        queue=2, high_weight=0.0, cross_negatives="both"
    )
    assert "fills it from 3 healthy training image(s)" in fault(queue=4, high_weight=0.0)
    poor = [{**image, "quality": "low"} for image in images]
    assert fault_of(tiny, tmp_path, "multi_level", poor, queue=3) == ""


def test_multi_level_needs_targets_of_both_kinds(tmp_path: Path, tiny: SimpleNamespace) -> None:
    def fault(sources: list[dict[str, Any]], **keys: Any) -> str:
        return fault_of(tiny, tmp_path, "multi_level", sources, **keys)

    lacks = (
        "data.manifest: no training image of m.json has a target, by which method multi_level tells lesions from "
        "healthy images (they have {}); add target to its sources"
    )
    known = entries(tmp_path, "a", "b", domain="A", attributes={"age": 3})
    assert fault(known) == lacks.format("domain, attributes")
    assert fault(entries(tmp_path, "c")) == lacks.format("no fields")
    ill, fine = entries(tmp_path, "d", target=1), entries(tmp_path, "e", target=0)
    many = (
        "data.manifest: the training images of m.json with a target are all {} (target 0, the class fine, is healthy), "
    )
    assert fault([*known, *ill]) == many.format("lesions") + (
        "but method multi_level needs healthy images too; add some"
    )
    assert fault([*known, *fine]) == many.format("healthy") + "but method multi_level needs lesions too; add some"
    assert fault([*known, *ill, *fine]) == ""
    # nothing depends on the target when all are queries and all are queued
    assert fault(known, queued="all") == ""
    said = "By their order in the manifest's classes, fine is healthy, and lesions are: ill."
    manifest = loaded(tmp_path, classes=["fine", "ill"], train=[*ill, *fine])
    tree = tiny.pretrain_tree(rows=1)
    tree["augment"]["views"] = {name: {} for name in QUEUED["multi_level"]}
    for keys, sentence in (({}, said), ({"queued": "all"}, None), ({"queued": "all", "queries": "lesion"}, said)):
        tree["method"] = {"name": "multi_level", "embedding_channels": 8, "queue": 1, **keys}
        assert told_by_targets(tiny.recipe_from(tree), manifest) == sentence
    assert fault(known, queued="all", queries="lesion") == lacks.format("domain, attributes")


def test_fields_of_a_list_and_of_files_that_are_not_there(tmp_path: Path, tiny: SimpleNamespace) -> None:
    (tmp_path / "l.csv").write_text("image,grade,domain\nx,1,A\n")

    def fault(*sources: dict[str, Any]) -> str:
        return fault_of(tiny, tmp_path, "multi_level", list(sources))

    assert "has a target, by which method multi_level tells lesions from healthy images (they have domain)" in fault(
        {"csv": "l.csv"}
    )
    assert "(they have domain, quality); add target" in fault({"image": "not here", "domain": "A", "quality": "low"})
    assert fault({"image": "not here", "target": 0}) == fault({"csv": "not here.csv"}) == ""


@pytest.mark.parametrize("path", [p for p in shipped_folder("data_manifests").glob("*.json") if is_image_manifest(p)])
def test_shipped_manifests_hold_every_class_in_every_split(path: Path, data_root: Path) -> None:
    manifest = load_image_manifest(path)
    require_apart(manifest)
    for split in manifest.splits():
        wanted = set(range(len(manifest.classes))) or {None}  # slices of volumes have no class
        assert {case.target for case in manifest.cases(split)} == wanted, split
