"""Tests of boxes by Grad-CAM: by hand, property, whole (the command's files and sentences; a square that is found)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from medcontrast.data.images.check import check_image_manifest
from medcontrast.data.images.lesion_boxes import parse_boxes
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.engine.lesion_boxes import BoxRequest, map_boxes, write_lesion_boxes
from medcontrast.errors import InputError, OutputError

SIDES = (20, 40)
COUNT = 64


def write_squares(folder, *, count=COUNT, **tree):
    """Noise of 20 x 40 pixels; every second image has a bright square; three quarters train, the rest validates."""
    random = np.random.default_rng(0)
    images = random.normal(90.0, 25.0, (count, *SIDES))
    targets, truth = np.arange(count) % 2, {}
    for number in range(1, count, 2):
        top, left = int(random.integers(SIDES[0] - 5)), int(random.integers(SIDES[1] - 10))
        images[number, top : top + 6, left : left + 11] += 90.0
        truth[f"i.npz#images[{number}]"] = (top, left, top + 6, left + 11)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "i.npz", images=np.clip(images, 0, 255).astype(np.uint8), labels=targets)
    split = count * 3 // 4
    rows = {"train": [0, split], "validation": [split, count]}
    whole = {
        "kind": "images",
        "name": "squares",
        "root": ".",
        "classes": ["healthy", "ill"],
        **{name: [{"npz": "i.npz", "target": "labels", "rows": part}] for name, part in rows.items()},
        **tree,
    }
    path = folder / "m.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path, truth


def overlap(one, other):
    """Intersection over union of two boxes."""
    height = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    width = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return height * width / (areas - height * width)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squares")
    path, truth = write_squares(folder)
    request = BoxRequest(size=20, epochs=12, lr=0.003)
    written = write_lesion_boxes(load_image_manifest(path), folder / "out", request)
    return folder, truth, written


def test_boxes_overlap_the_squares_and_random_boxes_do_not(found):
    _, truth, written = found
    manifest = load_image_manifest(written.manifest)
    boxes = {case.name: case.lesion_boxes for case in manifest.cases("train") if case.lesion_boxes}
    assert len(boxes) == written.found["train"][0] == written.found["train"][1] == COUNT * 3 // 8
    right = [overlap(box, truth[name]) for name, (box,) in boxes.items()]
    assert np.mean(right) > 0.3 and np.mean(np.array(right) > 0.1) > 0.9
    random, chance = np.random.default_rng(1), []
    for name, (box,) in boxes.items():
        height, width = box[2] - box[0], box[3] - box[1]
        top, left = random.uniform(0, SIDES[0] - height), random.uniform(0, SIDES[1] - width)
        chance.append(overlap((top, left, top + height, left + width), truth[name]))
    assert np.mean(chance) < 0.2


def test_what_is_written_says_how_it_came_about(found):
    folder, _, written = found
    tree = json.loads(written.manifest.read_text())
    made = tree["lesion_boxes_made_by"]
    assert (made["method"], made["threshold"], made["encoder"], made["epochs"]) == ("Grad-CAM", 0.7, "resnet20", 12)
    assert made["validation_images"] == written.judged == 16 and made["validation_from"] == "validation"
    assert made["validation_accuracy"] == round(written.accuracy, 4) > 0.9 and written.commonest == 0.5
    assert (tree["name"], tree["root"]) == ("squares_boxes", "..") and tree["train"] == [
        {"npz": "i.npz", "target": "labels", "rows": [0, 48]}
    ]
    assert len(written.manifest.read_text().splitlines()) > 24  # an image a line
    report = check_image_manifest(load_image_manifest(written.manifest))
    assert report.ok and not any(case.lesion_boxes for case in report.cases["validation"])
    with Image.open(folder / "out/lesion_boxes.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 400


def test_one_seed_gives_one_manifest_and_boxes_that_are_there_stay(tmp_path, cli):
    path, _ = write_squares(tmp_path, count=24, lesion_boxes={"i.npz#images[1]": [[1, 2, 3, 4]]})
    words = ("--size", 16, "--epochs", 1, "--largest", 2, "--threshold", 0.5)
    for name, more in (
        ("a", ()),
        ("b", ()),
        ("c", ("--seed", 1)),
        ("d", ("--split", "train", "--split", "validation")),
    ):
        done = cli("data", "boxes", path, "-o", tmp_path / name, *words, *more)
        assert done.code == 0, done.err
    texts = {name: (tmp_path / name / "manifest.json").read_text() for name in "abcd"}
    assert texts["a"] == texts["b"] != texts["c"]
    assert (tmp_path / "a/lesion_boxes.png").read_bytes() == (tmp_path / "b/lesion_boxes.png").read_bytes()
    tables = {name: json.loads(text)["lesion_boxes"] for name, text in texts.items()}
    assert all(table["i.npz#images[1]"] == [[1, 2, 3, 4]] for table in tables.values())
    validation = {f"i.npz#images[{number}]" for number in range(18, 24)}
    assert not validation & set(tables["a"]) and validation & set(tables["d"])
    assert {name: tables["d"][name] for name in tables["a"]} == tables["a"]
    for some in tables["a"].values():
        assert 1 <= len(some) <= 2 and parse_boxes(some, "m")
    first, second = done.out.strip().splitlines()
    assert first.startswith("Classifier: accuracy 0.") and "on 6 images that it did not learn from (0.5000 by" in first
    assert second.startswith(f"{tmp_path / 'd/manifest.json'}: boxes for ")
    assert "images of train, " in second and second.endswith(
        "images of validation that are not healthy and had none (healthy is the first class, healthy)."
    )
    own = cli("data", "boxes", tmp_path / "d/manifest.json", "-o", tmp_path / "d", *words, "--overwrite")
    assert own.code == 2 and "manifest.json: the new set is made from this file, and would replace it" in own.err
    assert (tmp_path / "d/manifest.json").read_text() == texts["d"]


@pytest.mark.parametrize(("accuracy", "warned"), [(0.5, True), (0.6, False)])
def test_boxes_of_a_classifier_that_tells_nothing_apart_are_warned_of(tmp_path, cli, monkeypatch, accuracy, warned):
    monkeypatch.setattr("medcontrast.engine.lesion_boxes.accuracy", lambda *_: accuracy)
    path, _ = write_squares(tmp_path, count=24)
    done = cli("data", "boxes", path, "-o", tmp_path / "out", "--size", 16, "--epochs", 1)
    assert done.code == 0
    assert ("Warning: it tells no classes apart" in done.err) is warned


def test_validation_images_teach_nothing(tmp_path):
    request = BoxRequest(size=16, epochs=1)
    tables = []
    for name in ("one", "two"):
        path, _ = write_squares(tmp_path / name, count=24)
        if name == "two":
            arrays = dict(np.load(tmp_path / "two/i.npz"))
            arrays["images"][18:] = 255 - arrays["images"][18:]
            np.savez(tmp_path / "two/i.npz", **arrays)
        written = write_lesion_boxes(load_image_manifest(path), tmp_path / name / "out", request)
        tables.append(json.loads(written.manifest.read_text())["lesion_boxes"])
    assert tables[0] == tables[1] and tables[0]


def test_without_a_validation_split_a_part_of_train_is_held_back(tmp_path):
    path, _ = write_squares(tmp_path, count=24, validation=[])
    written = write_lesion_boxes(load_image_manifest(path), tmp_path / "out", BoxRequest(size=16, epochs=1))
    made = json.loads(written.manifest.read_text())["lesion_boxes_made_by"]
    assert made["validation_from"] == "train, held back" and written.judged == 4
    assert written.found["train"][1] == 9  # held back from the classifier, not from the boxes


def test_boxes_of_a_map():
    heat = torch.zeros(8, 8)
    heat[1:3, 2:6], heat[5, 5], heat[7, 0] = 1.0, 0.6, 0.1
    assert map_boxes(heat, (8, 8), threshold=0.5, largest=1) == ((1, 2, 3, 6),)
    assert map_boxes(heat, (8, 8), threshold=0.5, largest=3) == ((1, 2, 3, 6), (5, 5, 6, 6))
    assert map_boxes(heat, (8, 8), threshold=0.7, largest=3) == ((1, 2, 3, 6),)
    assert map_boxes(10 * heat, (8, 8), threshold=0.1, largest=9)[2:] == ((7, 0, 8, 1),)
    # in whole pixels of the stored image, none of the part cut off
    assert map_boxes(heat, (20, 12), threshold=0.7, largest=1) == ((2, 3, 8, 9),)
    for side in range(1, 300):  # and never beyond it
        assert map_boxes(torch.ones(49, 22), (side, side + 1), threshold=0.5, largest=1) == ((0, 0, side, side + 1),)
    assert map_boxes(torch.zeros(8, 8), (8, 8), threshold=0.5, largest=1) == ()


def test_what_bad_input_gets(tmp_path, cli):
    path, _ = write_squares(tmp_path, count=24)

    def sentence(*words, manifest=path):
        done = cli("data", "boxes", manifest, "-o", tmp_path / "out", "--size", 16, *words)
        assert done.code == 2 and not (tmp_path / "out/manifest.json").exists()
        return done.err.strip()

    def other(name, **tree):
        return write_squares(tmp_path / name, count=24, **tree)[0]

    assert sentence("--encoder", "vit") == (
        "encoder 'vit': Grad-CAM reads the last map of resnet20, resnet18, resnet34, resnet50."
    )
    for value in (0, 1):
        assert sentence("--threshold", value) == f"threshold {value}: expected a share of the maximum between 0 and 1."
    assert sentence("--channels", 2) == "--channels 2: 1 for grey or 3 for colour."
    assert "the split 'test' is empty; it has train, validation" in sentence("--split", "test")
    one = other("one", classes=["healthy"], train=[{"npz": "i.npz"}], validation=[])
    assert sentence(manifest=one) == (f'{one}: lesion boxes need a healthy class and another, but "classes" names 1.')
    three = other("three", classes=["healthy", "ill", "worse"])
    assert sentence(manifest=three) == f"{three}: no training image has the class worse, so a classifier learns none."
    none = other("none", train=[{"npz": "i.npz", "rows": [0, 18]}])
    assert sentence(manifest=none) == (
        f"{none}: train has no image to find lesion boxes for: none has a target other than the healthy class, 0."
    )
    table = {f"i.npz#images[{number}]": [[0, 0, 1, 1]] for number in range(1, 18, 2)}
    full = other("full", lesion_boxes=table)
    assert sentence(manifest=full) == (
        f"{full}: train has no image to find lesion boxes for: all of them have lesion boxes."
    )
    blind = other("blind", validation=[{"npz": "i.npz", "rows": [18, 24]}])
    assert sentence(manifest=blind) == (
        f"{blind}: no image is left to judge the classifier by; add a validation split with targets."
    )
    twice = other("twice", validation=[{"npz": "i.npz", "target": "labels", "rows": [17, 24]}])
    assert "image i.npz#images[17] stands in train and in validation" in sentence(manifest=twice)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/lesion_boxes.png").touch()
    with pytest.raises(OutputError, match=r"lesion_boxes\.png: exists already; add --overwrite"):
        write_lesion_boxes(load_image_manifest(path), tmp_path / "out", BoxRequest(size=16, epochs=1))


def test_a_classifier_that_sees_nothing_is_refused(tmp_path, monkeypatch):
    path, _ = write_squares(tmp_path, count=24)
    monkeypatch.setattr("medcontrast.engine.lesion_boxes.class_maps", lambda _, image, target: 0.0 * image[:, 0])
    with pytest.raises(
        InputError, match=r"m\.json: Grad-CAM finds nothing that speaks for a lesion in any image \(acc"
    ):
        write_lesion_boxes(load_image_manifest(path), tmp_path / "out", BoxRequest(size=16, epochs=1))
    assert not (tmp_path / "out/manifest.json").exists()
