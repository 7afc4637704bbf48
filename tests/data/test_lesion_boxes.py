"""Tests of lesion boxes in manifests of images: by hand, every source and sentence; geometry (resizing); property."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medcontrast.batch import StepInfo
from medcontrast.data.images.check import check_image_manifest
from medcontrast.data.images.images import Images, make_image_loader
from medcontrast.data.images.lesion_boxes import (
    box_faults,
    boxes_json,
    boxes_text,
    healthy_fault,
    moved_box,
    parse_boxes,
)
from medcontrast.data.images.lesion_draws import LesionBoxes
from medcontrast.data.images.manifest import ImageManifest, load_image_manifest
from medcontrast.data.images.sources import ImageCase
from medcontrast.data.images.tables import image_table
from medcontrast.data.sampler import RowKey
from medcontrast.engine.job import Pretraining
from medcontrast.errors import InputError, ManifestError

Cli = Callable[..., SimpleNamespace]
BOXES = ((2.0, 3.0, 8.0, 15.0), (0.0, 0.0, 1.0, 1.0))
SHAPE = r"lesion_boxes is a list of \[top, left, bottom, right\] in pixels"


def write_image(path: Path, pixels: Any = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.arange(200, dtype=np.uint8).reshape(10, 20) if pixels is None else pixels
    Image.fromarray(array).save(path)
    return path.name


def write_manifest(folder: Path, train: list[dict[str, Any]], **tree: Any) -> ImageManifest:
    path = folder / "m.json"
    whole = {"kind": "images", "root": ".", "classes": ["healthy", "ill"], "train": train, **tree}
    path.write_text(json.dumps(whole), encoding="utf-8")
    return load_image_manifest(path)


def boxed(folder: Path, boxes: Any, target: int = 1, name: str = "x.png") -> dict[str, Any]:
    """An image of 10 x 20 pixels with boxes."""
    return {"image": write_image(folder / name), "target": target, "lesion_boxes": boxes}


# --- reading


def test_a_list_and_a_column_say_the_same() -> None:
    assert parse_boxes([[2, 3, 8, 15], [0, 0, 1, 1]], "m") == BOXES
    assert parse_boxes("2 3 8 15; 0 0 1 1", "m") == parse_boxes(" 2 3  8 15;0 0 1 1 ;", "m") == BOXES
    assert parse_boxes([], "m") == parse_boxes("", "m") == ()
    odd = ((0.1, 1 / 3, 2e-7, 1e9),)
    assert parse_boxes(boxes_text(odd), "m") == parse_boxes(json.loads(boxes_json(odd)), "m") == odd
    assert boxes_json(BOXES) == "[[2, 3, 8, 15], [0, 0, 1, 1]]" and boxes_text(BOXES) == "2 3 8 15; 0 0 1 1"


@pytest.mark.parametrize(
    "value", [[[1, 2, 3]], [1, 2, 3, 4], "1 2 3", "a b c d", 7, [["1 2 3 4"]], [[0, 0, 1, True]], {"a": 1}, "0 0 nan 1"]
)
def test_what_is_no_list_of_boxes(value: Any) -> None:
    with pytest.raises(ManifestError, match=r"^m\.json: x: " + SHAPE):
        parse_boxes(value, "m.json: x")


def test_images_columns_and_arrays_carry_boxes(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png")
    write_image(tmp_path / "y.png")
    (tmp_path / "t.csv").write_text("image,target,lesion_boxes\nx.png,ill,2 3 8 15; 0 0 1 1\ny.png,healthy,\n")
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 10, 20), np.uint8), where=["", "2 3 8 15; 0 0 1 1"])
    sources: list[dict[str, Any]] = [
        {"image": "y.png", "lesion_boxes": [[2, 3, 8, 15], [0, 0, 1, 1]]},
        {"csv": "t.csv"},
        {"npz": "a.npz", "lesion_boxes": "where"},
    ]
    found = [write_manifest(tmp_path, [source]).cases("train") for source in sources]
    assert [[case.lesion_boxes for case in cases] for cases in found] == [[BOXES], [BOXES, ()], [(), BOXES]]


def test_the_manifests_own_table_gives_boxes_to_images_of_every_source(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"f/{name}.png")
    table = {"f/b.png": [[2, 3, 8, 15], [0, 0, 1, 1]]}
    made = {"method": "by hand"}
    manifest = write_manifest(tmp_path, [{"folder": "f"}], lesion_boxes=table, lesion_boxes_made_by=made)
    assert [case.lesion_boxes for case in manifest.cases("train")] == [(), BOXES]
    twice = write_manifest(tmp_path, [boxed(tmp_path, [[0, 0, 1, 1]])], lesion_boxes={"x.png": [[0, 0, 2, 2]]})
    with pytest.raises(ManifestError, match=r"image x\.png has boxes of its own and in the table lesion_boxes; keep"):
        twice.cases("train")


def test_faults_of_the_manifest_itself(tmp_path: Path) -> None:
    entry = {"image": write_image(tmp_path / "x.png")}
    with pytest.raises(ManifestError, match=r"1 fault\(s\):\n  - lesion_boxes: expected boxes by name .* got list"):
        write_manifest(tmp_path, [entry], lesion_boxes=[])
    with pytest.raises(ManifestError, match=r"2 fault\(s\):\n  - lesion_boxes: a: lesion_boxes is a list .*'no'\n  - "):
        write_manifest(tmp_path, [entry], lesion_boxes={"a": "no", "b": [[1]]})
    with pytest.raises(ManifestError, match=r"train\[0\]: " + SHAPE + r".*but got \[\[1, 2\]\]"):
        write_manifest(tmp_path, [boxed(tmp_path, [[1, 2]])]).cases("train")
    with pytest.raises(ManifestError, match=r"train\[0\]: row 1 \(x\.png\): " + SHAPE):
        (tmp_path / "t.csv").write_text("image,lesion_boxes\nx.png,1 2\n")
        write_manifest(tmp_path, [{"csv": "t.csv"}]).cases("train")
    with pytest.raises(ManifestError, match="unknown key 'lesion_boxes'; slices knows"):
        write_manifest(tmp_path, [{"slices": "v.nii", "lesion_boxes": []}])
    with pytest.raises(ManifestError, match="lesion_boxes are names of arrays here"):
        np.savez(tmp_path / "a.npz", images=np.zeros((1, 4, 4), np.uint8))
        write_manifest(tmp_path, [{"npz": "a.npz", "lesion_boxes": [[0, 0, 1, 1]]}]).cases("train")


# --- checking


def test_what_is_wrong_with_a_box() -> None:
    assert box_faults([(0.0, 0.0, 10.0, 20.0), (9.0, 19.0, 10.0, 20.0)], (10, 20)) == []
    empty = "is empty; a box is [top, left, bottom, right], the last two not included"
    assert box_faults([(3.0, 4.0, 3.0, 9.0), (3.0, 9.0, 5.0, 4.5)], (10, 20)) == [
        f"lesion box [3, 4, 3, 9] {empty}",
        f"lesion box [3, 9, 5, 4.5] {empty}",
    ]
    outside = [(-1.0, 0.0, 2.0, 2.0), (0.0, -0.5, 2.0, 2.0), (8.0, 0.0, 11.0, 2.0), (0.0, 8.0, 2.0, 20.5)]
    sentence = "reaches beyond the image's 10 x 20 pixels"
    assert box_faults(outside, (10, 20)) == [f"lesion box {boxes_json([box])[1:-1]} {sentence}" for box in outside]
    assert healthy_fault(BOXES, 0, ["fine"]) == (
        "is of the healthy class fine (target 0), but has 2 lesion box(es); take them out"
    )
    assert healthy_fault((), 0, ["fine"]) is healthy_fault(BOXES, 1, ["fine", "ill"]) is None
    assert healthy_fault(BOXES, None, []) is None


def test_the_check_says_a_sentence_a_fault(tmp_path: Path, cli: Cli) -> None:
    train = [
        boxed(tmp_path, [[0, 0, 10, 20], [3, 3, 3, 9]], name="a.png"),
        boxed(tmp_path, [[0, 0, 11, 2], [0, 0, 2, 2]], name="b.png"),
        boxed(tmp_path, [[0, 0, 2, 2]], target=0, name="c.png"),
        boxed(tmp_path, [], name="d.png"),
    ]
    manifest = write_manifest(tmp_path, train, lesion_boxes={"nowhere.png": [[0, 0, 1, 1]]})
    report = check_image_manifest(manifest)
    assert [str(fault) for fault in report.faults] == [
        "train a.png: lesion box [3, 3, 3, 9] is empty; a box is [top, left, bottom, right], the last two not included",
        "train b.png: lesion box [0, 0, 11, 2] reaches beyond the image's 10 x 20 pixels",
        "train c.png: is of the healthy class healthy (target 0), but has 1 lesion box(es); take them out",
        "lesion_boxes: 1 of its names are of no image of the manifest, such as nowhere.png",
    ]
    note = (
        "train: 2 of 3 images that are not of the healthy class have lesion boxes, 4 in all; crops around lesions are "
        "random in the others"
    )
    assert note in [str(each) for each in report.notes]
    done = cli("data", "check", tmp_path / "m.json")
    assert done.code == 2 and "lesion box [0, 0, 11, 2] reaches beyond the image's 10 x 20 pixels" in done.out


def test_a_box_is_of_the_image_as_it_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: 20 x 10 once upright
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    entry = {"image": "x.jpg", "target": 1, "lesion_boxes": [[15, 5, 20, 10]]}
    assert check_image_manifest(write_manifest(tmp_path, [entry])).ok


# --- resizing


def test_a_box_moves_with_its_image() -> None:
    assert moved_box((2.0, 3.0, 8.0, 15.0), (10, 20), (5, 40)) == (1.0, 6.0, 4.0, 30.0)
    assert moved_box((2.0, 5.0, 8.0, 15.0), (10, 20), (1, 1)) == pytest.approx((0.2, 0.25, 0.8, 0.75))


def test_a_box_that_ends_with_its_image_ends_with_the_resized_one() -> None:
    for side in range(1, 300):
        for new in (1, 8, 28, 224, 1001):
            assert moved_box((0.0, 0.0, side, side), (side, side), (new, new)) == (0.0, 0.0, new, new)
            assert box_faults([moved_box((0.1, 0.3, side - 0.1, side), (side, side), (new, new))], (new, new)) == []


def test_a_resized_image_is_bright_where_its_moved_box_is(tmp_path: Path) -> None:
    pixels = np.zeros((12, 30), np.uint8)
    pixels[3:9, 20:30] = 255
    write_image(tmp_path / "x.png", pixels)
    images = Images([ImageCase("x", tmp_path / "x.png", lesion_boxes=((3, 20, 9, 30),))], channels=1, size=24)
    case = images.case_on_grid(0)
    assert images.sides(0) == (12, 30) and case.lesion_boxes == ((6.0, 16.0, 18.0, 24.0),)
    inside = np.zeros((24, 24), bool)
    inside[6:18, 16:24] = True
    assert images[0][0][inside].mean() > 240 and images[0][0][~inside].mean() < 10


def test_boxes_survive_an_array_of_images_and_the_commands_that_write_one(tmp_path: Path, cli: Cli) -> None:
    train = [boxed(tmp_path, [[2, 5, 8, 15]], name="a.png"), boxed(tmp_path, [], target=0, name="b.png")]
    write_manifest(tmp_path, train, test=[boxed(tmp_path, [[0, 0, 5, 4]], name="c.png")])
    done = cli("data", "degrade", tmp_path / "m.json", "-o", tmp_path / "d", "--kind", "xray", "--size", 8)
    assert done.code == 0, done.err
    written = load_image_manifest(tmp_path / "d/manifest.json")
    assert [case.lesion_boxes for case in written.cases("train")] == [((1.6, 2.0, 6.4, 6.0),), ()]
    assert [case.lesion_boxes for case in written.cases("test")] == [((0.0, 0.0, 4.0, 1.6),)] * 2
    assert check_image_manifest(written, splits=["train"]).ok
    done = cli("data", "scanners", tmp_path / "m.json", "-o", tmp_path / "s", "--size", 8)
    assert done.code == 0, done.err
    seen = load_image_manifest(tmp_path / "s/manifest.json").cases("train")
    assert [case.lesion_boxes for case in seen] == [((1.6, 2.0, 6.4, 6.0),), ()]
    without = image_table("x.npz", "p", np.zeros((1, 1, 4, 4), np.uint8), [ImageCase("x", tmp_path)], ())
    assert "lesion_boxes" not in without[1]


# --- drawing


def draws(folder: Path, boxes: Any, **keys: Any) -> LesionBoxes:
    cases = write_manifest(folder, [boxed(folder, boxes), boxed(folder, [], name="y.png")]).cases("train")
    images = Images(cases, channels=1, size=8, keep=keys.pop("keep", True))
    return LesionBoxes(images, ["healthy", "ill"], seed=keys.pop("seed", 0), where="m.json: train")


def test_each_box_of_an_image_is_as_likely_and_the_key_decides(tmp_path: Path) -> None:
    found = draws(tmp_path, [[0, 0, 5, 10], [5, 0, 10, 10], [0, 10, 5, 20]])
    rows = [found.drawn(RowKey(3, row, 0, True)) for row in range(300)]
    kinds = {tuple(row.tolist()): 0 for row in rows}
    for row in rows:
        kinds[tuple(row.tolist())] += 1
    assert set(kinds) == {(0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0)}
    assert all(75 <= count <= 125 for count in kinds.values())
    again = [
        draws(tmp_path, [[0, 0, 5, 10], [5, 0, 10, 10], [0, 10, 5, 20]]).drawn(RowKey(3, row, 0, True))
        for row in (7, 8)
    ]
    assert np.array_equal(again, rows[7:9])
    other = draws(tmp_path, [[0, 0, 5, 10], [5, 0, 10, 10], [0, 10, 5, 20]], seed=1)
    assert not np.array_equal([other.drawn(RowKey(3, row, 0, True)) for row in range(20)], rows[:20])
    assert not np.array_equal([found.drawn(RowKey(4, row, 0, True)) for row in range(20)], rows[:20])
    assert np.isnan(found.drawn(RowKey(3, 0, 1, True))).all()


def test_boxes_that_cannot_be_used(tmp_path: Path) -> None:
    outside = r"m\.json: train: image x\.png: lesion box \[0, 0, 11, 2\] reaches beyond the image's 10 x 20 pixels\."
    with pytest.raises(InputError, match=outside):
        draws(tmp_path, [[0, 0, 2, 2], [0, 0, 11, 2]])
    late = draws(tmp_path, [[0, 0, 11, 2]], keep=False)
    with pytest.raises(InputError, match=outside):
        late.drawn(RowKey(0, 0, 0, True))
    with pytest.raises(
        InputError,
        match=r"train: no image has lesion boxes \(they have [a-z_, ]+\), but a view's crop is around them; make",
    ):
        draws(tmp_path, [])
    healthy = write_manifest(tmp_path, [boxed(tmp_path, [[0, 0, 2, 2]], target=0)]).cases("train")
    with pytest.raises(InputError, match=r"image x\.png: is of the healthy class fine \(target 0\), but has 1"):
        LesionBoxes(Images(healthy, channels=1, size=8), ["fine", "ill"], seed=0, where="m")


# --- a recipe


def lesion_recipe(tiny: SimpleNamespace, **views: Any) -> Any:
    view = {"crop": {"kind": "lesion", "area": [0.05, 0.1]}, "photometric": {"jitter_probability": 0.0}}
    tree = tiny.pretrain_tree(rows=4)
    tree["augment"] = {"views": {"query_high": view, "key_high": view}}
    for quality in ("query", "key"):
        tree["augment"]["views"][f"{quality}_low"] = {"same_crop_as": f"{quality}_high", "degrade": {"kind": "xray"}}
    tree["method"] = {"name": "multi_level", "queue": 8, "embedding_channels": 8}
    tree["augment"]["views"].update(views)
    tree["data"].update(mean=0.0, std=1.0)
    return tiny.recipe_from(tree)


def squares(folder: Path, *, boxes: bool = True) -> ImageManifest:
    """Eight black images of 32 x 64; half of them have a white square of 8 x 16 pixels, and its box."""
    train = []
    for number in range(8):
        pixels, top, left = np.zeros((32, 64), np.uint8), 3 * number, 6 * number
        entry = {"image": f"{number}.png", "target": number % 2}
        if number % 2:
            pixels[top : top + 8, left : left + 16] = 255
            entry["lesion_boxes"] = [[top, left, top + 8, left + 16]] if boxes else []
        write_image(folder / f"{number}.png", pixels)
        train.append(entry)
    return write_manifest(folder, train)


def test_patches_of_lesion_images_hold_the_lesion_in_every_view(tmp_path: Path, tiny: SimpleNamespace) -> None:
    recipe, manifest = lesion_recipe(tiny), squares(tmp_path)
    assert recipe.needs_lesion_boxes
    job, (loader, _) = Pretraining(recipe, manifest), make_image_loader(recipe, manifest)
    seen = 0
    for step, batch in enumerate(loader):
        views = job.with_views(batch, StepInfo(step, 2, 0, recipe.seed))["views"]
        for row, target in enumerate(batch["target"].tolist()):
            assert bool(batch["lesion_box"][row].isnan().all()) == (target == 0)
            # the square is a sixteenth of the image, the patch a twentieth or more: most of the patch is white
            for name in ("query_high", "key_high"):
                white = float(views[name][row].mean())
                assert white == 0.0 if target == 0 else white > 0.4
            seen += 1
    assert seen == 8


def test_a_recipe_whose_crops_are_around_boxes_needs_some(tmp_path: Path, tiny: SimpleNamespace) -> None:
    with pytest.raises(
        InputError, match=r"m\.json: train: no image has lesion boxes \(they have target\), but a view's"
    ):
        make_image_loader(lesion_recipe(tiny), squares(tmp_path, boxes=False))
    plain = tiny.recipe_from({**tiny.pretrain_tree(rows=4)})
    loader, _ = make_image_loader(plain, squares(tmp_path))
    assert "lesion_box" not in next(iter(loader)) and not plain.needs_lesion_boxes


def test_a_batch_is_the_same_for_every_number_of_loaders(tmp_path: Path, tiny: SimpleNamespace) -> None:
    recipe, manifest = lesion_recipe(tiny), squares(tmp_path)
    more = replace_workers(recipe, 1)
    first, second = (next(iter(make_image_loader(each, manifest)[0])) for each in (recipe, more))
    assert first["case"] == second["case"]
    torch.testing.assert_close(first["lesion_box"], second["lesion_box"], rtol=0, atol=0, equal_nan=True)


def replace_workers(recipe: Any, workers: int) -> Any:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": workers})})


def test_boxes_of_a_case_are_part_of_it() -> None:
    case = ImageCase("x", Path("x.png"))
    assert case.lesion_boxes == () and replace(case, lesion_boxes=BOXES) != case
