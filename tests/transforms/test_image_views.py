"""Tests of the views of images: reference (plain loops in float64, box from the draws), by hand, geometry, property."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.settings import load_recipe
from medcontrast.settings.degrade import XrayDegradeSettings
from medcontrast.settings.images import CropSettings, ImageAugmentSettings, PhotometricSettings, ViewSettings
from medcontrast.settings.shipped import shipped_folder
from medcontrast.transforms.degrade import degrade
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.image_views import ImageViews, _boxes, crop_views

PLAIN = PhotometricSettings(jitter_probability=0.0)
STRONG = PhotometricSettings(
    brightness=0.4, contrast=0.4, saturation=0.3, hue=0.2, grayscale=0.3, blur=0.5, solarize=0.3
)
XRAY = XrayDegradeSettings(kind="xray")


def noise(rows=4, channels=1, sides=(16, 16), dtype=torch.float64):
    return torch.rand(rows, channels, *sides, generator=torch.Generator().manual_seed(1), dtype=dtype)


def make(image, *, seed=5, step=7, rows=None, quality=None, lesion_box=None, mean=0.0, std=1.0, **views):
    made = ImageViews(ImageAugmentSettings(views=views), mean=mean, std=std)
    rows = range(len(image)) if rows is None else rows
    return made(image, seed=seed, step=step, rows=rows, quality=quality, lesion_box=lesion_box)


def crop(flip=0.0, rotation=0.0, photometric=PLAIN, **keys):
    size = keys.pop("size", None)
    rest = {key: keys.pop(key) for key in ("same_crop_as", "degrade", "flip_axis") if key in keys}
    box = CropSettings(**keys)
    return ViewSettings(crop=box, flip=flip, rotation_degrees=rotation, photometric=photometric, size=size, **rest)


def drawn_box(view, sides, *, seed, step, row, name):
    """The part of the image that a row shows, in pixels: middle, half-sides, angle, mirrored."""
    generator = row_generator(seed, step, row, f"box {name}")
    mirrored = generator.random() < view.flip
    angle = math.radians(view.rotation_degrees) * (2 * generator.random() - 1)
    area, ratio, down, right = generator.random((4, 10)).tolist()
    height, width = float(sides[0]), float(sides[1])
    middle = [height / 2, width / 2]
    for attempt in range(10):
        share = view.crop.area[0] + (view.crop.area[1] - view.crop.area[0]) * area[attempt]
        low, high = math.log(view.crop.ratio[0]), math.log(view.crop.ratio[1])
        shape = math.exp(low + (high - low) * ratio[attempt])
        wide = math.sqrt(share * sides[0] * sides[1] * shape)
        tall = wide / shape
        if wide <= sides[1] and tall <= sides[0]:
            height, width = tall, wide
            middle = [
                height / 2 + (sides[0] - height) * down[attempt],
                width / 2 + (sides[1] - width) * right[attempt],
            ]
            break
    return middle, (height / 2, width / 2), angle, mirrored


def value_at(image, x, y):
    """Bilinear value of an image (lists) at a place in pixels, counted from the image's corner; 0 outside."""
    rows, columns = len(image), len(image[0])
    if not (0 <= x <= rows and 0 <= y <= columns):
        return 0.0
    x, y = min(max(x - 0.5, 0.0), rows - 1.0), min(max(y - 0.5, 0.0), columns - 1.0)
    x0, y0 = min(int(x), rows - 2), min(int(y), columns - 2)
    a, b = x - x0, y - y0
    top = image[x0][y0] * (1 - b) + image[x0][y0 + 1] * b
    return top * (1 - a) + (image[x0 + 1][y0] * (1 - b) + image[x0 + 1][y0 + 1] * b) * a


def reference(image, box, size):
    """One channel of a view, place by place."""
    (mx, my), (half_x, half_y), angle, mirrored = box
    out = []
    for s in range(size):
        for t in range(size):
            u = ((2 * s + 1) / size - 1) * half_x
            v = ((2 * t + 1) / size - 1) * half_y * (-1 if mirrored else 1)
            x = mx + math.cos(angle) * u - math.sin(angle) * v
            y = my + math.sin(angle) * u + math.cos(angle) * v
            out.append(value_at(image, x, y))
    return torch.tensor(out, dtype=torch.float64).view(size, size)


@pytest.mark.parametrize(("flip", "rotation"), [(0.0, 0.0), (0.5, 0.0), (0.5, 40.0)])
@pytest.mark.parametrize("sides", [(16, 16), (12, 20)])
def test_random_crops_equal_plain_loops_row_by_row(flip, rotation, sides):
    image, view = noise(6, 2, sides), crop(flip=flip, rotation=rotation, area=(0.1, 0.9), size=15)
    found = make(image, rows=range(3, 9), a=view)["a"]
    assert found.shape == (6, 2, 15, 15)
    for place, row in enumerate(range(3, 9)):
        box = drawn_box(view, sides, seed=5, step=7, row=row, name="a")
        for channel in range(2):
            expected = reference(image[place, channel].tolist(), box, 15)
            torch.testing.assert_close(found[place, channel], expected, rtol=0.0, atol=1e-9)


def test_shapes_that_never_fit_show_the_whole_image():
    view = crop(area=(0.9, 1.0), ratio=(3.0, 4.0))
    image = noise()
    assert torch.equal(make(image, a=view)["a"], image)


def test_a_whole_view_is_the_image_bit_for_bit_whatever_the_other_rows_do():
    image = noise(8, dtype=torch.float32)
    assert torch.equal(make(image, a=crop(kind="whole"))["a"], image)
    half = make(image, a=crop(kind="whole", flip=0.5))["a"]
    kept = [bool(torch.equal(one, other)) for one, other in zip(half, image, strict=True)]
    mirrored = [not each for each in kept]
    assert 0 < sum(kept) < 8
    torch.testing.assert_close(half[mirrored], image[mirrored].flip(-1), rtol=0.0, atol=1e-6)
    other = make(image, a=crop(kind="whole", flip=0.5, flip_axis=0))["a"]  # the same rows, along the other axis
    torch.testing.assert_close(other[mirrored], image[mirrored].flip(-2), rtol=0.0, atol=1e-6)


def test_coronal_slices_of_the_shipped_recipe_are_mirrored_left_and_right():
    """Canonical x runs to the right, and is the first of the axes that a coronal slice keeps."""
    recipe = load_recipe(shipped_folder("recipes") / "hippocampus_slices_simclr.yaml")
    assert {view.flip_axis for view in recipe.augment.views.values()} == {0}
    image = noise()
    views = {
        name: crop(kind="whole", flip=1.0, flip_axis=view.flip_axis) for name, view in recipe.augment.views.items()
    }
    for view in make(image, **views).values():
        torch.testing.assert_close(view, image.flip(2), rtol=0.0, atol=1e-6)


def test_the_centre_is_the_middle_box():
    view = make(noise(), a=crop(kind="centre", area=(0.25, 1.0), size=8))["a"]
    torch.testing.assert_close(view, noise()[:, :, 4:12, 4:12])


def test_a_crop_does_not_darken_at_the_images_edge():
    bright = torch.ones(16, 1, 16, 16)
    for view in (crop(area=(0.05, 1.0)), crop(kind="whole", size=40), crop(kind="whole", size=9)):
        found = make(bright, a=view)["a"]
        torch.testing.assert_close(found, torch.ones_like(found))


def test_what_a_turn_brings_in_from_outside_is_0():
    views = make(torch.ones(8, 1, 16, 16), a=crop(kind="whole", rotation=45.0))["a"]
    outside = views == 0.0
    assert bool(outside[:, 0, 0, 0].any()) and float(views[~outside].min()) > 1.0 - 1e-6
    assert bool((views[:, 0, 7:9, 7:9] == 1.0).all())


@pytest.mark.parametrize("sides", [(20, 44), (44, 20), (30, 30)])
def test_a_turn_is_rigid_in_pixels_on_images_of_any_shape(sides):
    view = crop(flip=0.5, rotation=60.0, area=(0.2, 0.6), ratio=(0.5, 2.0))
    boxes = _boxes(view, sides, range(10), "a", seed=1, step=2)
    half = torch.tensor(sides, dtype=torch.float64) / 2
    for row, box in enumerate(boxes):
        _, (half_x, half_y), angle, mirrored = drawn_box(view, sides, seed=1, step=2, row=row, name="a")
        down, right = (box[:, 0] * half, box[:, 1] * half)  # a step over half the view, in pixels of the image
        assert float(down.norm()) == pytest.approx(half_x) and float(right.norm()) == pytest.approx(half_y)
        assert float(down @ right) == pytest.approx(0.0, abs=1e-9)
        assert math.atan2(float(down[1]), float(down[0])) == pytest.approx(angle)
        turned = float(down[0] * right[1] - down[1] * right[0])
        assert (turned < 0) == mirrored


def test_boxes_stay_within_the_image_and_have_the_asked_area_and_shape():
    view = crop(area=(0.2, 0.5), ratio=(0.5, 2.0))
    boxes = _boxes(view, (32, 32), range(200), "a", seed=1, step=2)
    height, width = boxes[:, 0, 0], boxes[:, 1, 1]
    assert float((boxes[:, 0, 2].abs() + height).max()) <= 1.0 and float((boxes[:, 1, 2].abs() + width).max()) <= 1.0
    area, shape = height * width, width / height
    assert 0.2 <= float(area.min()) < 0.22 and 0.48 < float(area.max()) <= 0.5
    assert 0.5 <= float(shape.min()) < 0.55 and 1.8 < float(shape.max()) <= 2.0


def lesion(kind="lesion", **keys):
    return crop(kind=kind, area=(0.1, 0.3), ratio=(0.5, 2.0), **keys)


def edges(boxes):
    """Top, left, bottom, right of what a view shows, in shares of the image's sides."""
    half, middle = boxes[:, (0, 1), (0, 1)].abs() / 2, (boxes[:, :, 2] + 1) / 2
    return torch.cat([middle - half, middle + half], dim=1)


def test_a_patch_holds_its_lesion_or_lies_within_it_and_stays_in_the_image():
    small, large, corner = [0.45, 0.45, 0.55, 0.55], [0.1, 0.05, 0.9, 0.95], [0.0, 0.9, 0.1, 1.0]
    for box, holds in ((small, True), (corner, True), (large, False)):
        found = edges(_boxes(lesion(), (20, 20), range(300), "a", [box] * 300, seed=1, step=2))
        assert float(found.min()) >= -1e-12 and float(found.max()) <= 1 + 1e-12
        lesion_box = torch.tensor(box, dtype=torch.float64)
        outer, inner = (found, lesion_box.expand(300, 4)) if holds else (lesion_box.expand(300, 4), found)
        for axis in (0, 1):
            assert bool((outer[:, axis] <= inner[:, axis] + 1e-12).all())
            assert bool((outer[:, axis + 2] >= inner[:, axis + 2] - 1e-12).all())
        if box is not corner:
            # the place is drawn uniformly between its two ends, here alike on both sides of the box
            middle = (found[:, :2] + found[:, 2:]) / 2
            torch.testing.assert_close(middle.mean(0), (lesion_box[:2] + lesion_box[2:]) / 2, rtol=0.0, atol=0.04)
            assert float(middle.std(0).min()) > 0.03


def test_a_patch_that_holds_a_lesion_one_way_lies_within_it_the_other_way():
    strip = [0.45, 0.0, 0.5, 1.0]
    found = edges(_boxes(lesion(), (20, 20), range(100), "a", [strip] * 100, seed=1, step=2))
    assert bool((found[:, 0] <= 0.45 + 1e-12).all()) and bool((found[:, 2] >= 0.5 - 1e-12).all())
    assert float(found[:, 1].min()) < 0.1 and float(found[:, 3].max()) > 0.9


@pytest.mark.parametrize("side", [0.04, 0.1, 0.2])
@pytest.mark.parametrize("place", [0.5, 0.25, 0.1])
def test_a_turned_patch_holds_its_lesion_too(side, place):
    """Corners of the box, seen from the view, lie in -1..1; upright nothing has changed."""
    box = [place - side / 2, 0.3, place + side / 2, 0.3 + side]
    corners = torch.tensor([[x, y] for x in box[::2] for y in box[1::2]], dtype=torch.float64) * 2 - 1
    shares = {}
    for turn in (0.0, 180.0):
        boxes = _boxes(lesion(flip=0.5, rotation=turn), (20, 30), range(500), "a", [box] * 500, seed=1, step=2)
        away = (corners - boxes[:, None, :, 2]) @ torch.linalg.inv(boxes[:, :, :2]).mT
        reach = away.amax(1) - away.amin(1)
        held = (away.abs().amax(1) <= 1 + 1e-9) | (reach > 2)  # along an axis where it is larger, the patch lies in it
        assert bool(held.all())
        shares[turn] = float((reach <= 2).all(1).double().mean())
    assert shares[180.0] > 0.7


def test_patches_of_lesions_are_as_large_as_others_and_without_boxes_they_are_random_crops():
    some = [[0.3, 0.6, 0.4, 0.7], None] * 10
    found = _boxes(lesion(flip=0.5, rotation=20.0), (20, 30), range(20), "a", some, seed=1, step=2)
    plain = _boxes(lesion("random", flip=0.5, rotation=20.0), (20, 30), range(20), "a", seed=1, step=2)
    assert torch.equal(found[:, :, :2], plain[:, :, :2])  # size, turn and mirroring
    assert torch.equal(found[1::2], plain[1::2]) and bool((found[::2] != plain[::2]).any(2).any(1).all())


def test_a_lesion_is_seen_in_every_patch_and_each_view_draws_its_own():
    image, boxes = torch.zeros(6, 1, 16, 16), torch.full((6, 4), torch.nan)
    image[:, :, 4:6, 10:12] = 1.0
    boxes[:3] = torch.tensor([4, 10, 6, 12]) / 16
    views = make(image, lesion_box=boxes, a=lesion(size=32), b=lesion(size=32), c=lesion(size=32, same_crop_as="a"))
    seen = {name: view.amax((1, 2, 3)) > 0.5 for name, view in views.items()}
    assert bool(seen["a"][:3].all()) and bool(seen["b"][:3].all())
    assert not torch.equal(views["a"][:3], views["b"][:3]) and torch.equal(views["a"], views["c"])
    alone = make(image[2:], rows=[2, 3, 4, 5], lesion_box=boxes[2:], a=lesion(size=32))["a"]
    assert torch.equal(alone, views["a"][2:])
    for keys in ({"step": 8}, {"seed": 6}):
        assert not torch.equal(make(image, lesion_box=boxes, a=lesion(size=32), **keys)["a"][:3], views["a"][:3])


def test_a_crop_around_lesions_needs_a_batch_with_boxes():
    with pytest.raises(InputError, match="view a is cropped around lesion boxes, but the batch has none"):
        make(noise(), a=lesion())


def test_shrinking_averages_blocks():
    image = noise(2, 1, (16, 16))
    half = make(image, a=crop(kind="whole", size=8))["a"]
    torch.testing.assert_close(half, image.view(2, 1, 8, 2, 8, 2).mean((3, 5)))
    image = noise(2, 1, (64, 64))
    eighth = make(image, a=crop(kind="whole", size=8))["a"]
    torch.testing.assert_close(eighth, image.view(2, 1, 8, 8, 8, 8).mean((3, 5)))


def test_no_pixel_is_skipped_when_a_part_shrinks():
    for size in (9, 12, 16, 21):
        image = noise(1, 1, (48, 48)).requires_grad_()
        part = crop_views(image, torch.eye(2, 3, dtype=torch.float64)[None], size)
        part.sum().backward()
        assert float(image.grad.min()) > 0


def test_views_that_share_a_crop_show_the_same_part():
    views = make(
        noise(6),
        a=crop(area=(0.1, 0.8), flip=0.5, rotation=30.0),
        b=ViewSettings(same_crop_as="a", photometric=PLAIN),
        c=crop(area=(0.1, 0.8), flip=0.5, rotation=30.0),
    )
    assert torch.equal(views["a"], views["b"])
    assert not torch.allclose(views["a"], views["c"])


def settings():
    return {
        "a": crop(area=(0.1, 0.8), flip=0.5, rotation=30.0, photometric=STRONG, size=12),
        "b": crop(kind="whole", flip=0.5, photometric=STRONG, degrade=XRAY),
    }


def test_a_row_does_not_depend_on_the_others_and_two_processes_share_the_rows():
    image = noise(8, 3, dtype=torch.float32)
    together = make(image, **settings())
    parts = [make(image[cut], rows=range(8)[cut], **settings()) for cut in (slice(0, 4), slice(4, 8), slice(6, 7))]
    for name, view in together.items():
        assert torch.equal(torch.cat([parts[0][name], parts[1][name]]), view)
        assert torch.equal(parts[2][name], view[6:7])


def test_views_differ_by_seed_step_row_and_name():
    image = noise(1, 3)
    base = make(image, rows=[2], a=settings()["a"])["a"]
    assert torch.equal(make(image, rows=[2], a=settings()["a"])["a"], base)
    others = [
        make(image, rows=[2], seed=6, a=settings()["a"])["a"],
        make(image, rows=[2], step=8, a=settings()["a"])["a"],
        make(image, rows=[3], a=settings()["a"])["a"],
        make(image, rows=[2], z=settings()["a"])["z"],
    ]
    assert not any(torch.allclose(other, base) for other in others)


def test_one_setting_moves_no_other_draw():
    image = noise(5, 1)
    plain = make(image, a=crop(area=(0.1, 0.8)))["a"]
    mirrored = make(image, a=crop(area=(0.1, 0.8), flip=1.0))["a"]
    torch.testing.assert_close(mirrored, plain.flip(-1))
    assert make(image, a=crop(area=(0.1, 0.8), rotation=1e-9))["a"].sub(plain).abs().max() < 1e-6


def test_degradation_comes_before_the_crop():
    image = noise(4, dtype=torch.float32)
    view = crop(area=(0.1, 0.5), degrade=XRAY)
    worse = degrade(image, XRAY, seed=5, step=7, rows=range(4), stream="degrade a")
    assert not torch.allclose(worse, image, atol=0.01)
    assert torch.equal(make(image, a=view)["a"], make(worse, a=crop(area=(0.1, 0.5)))["a"])


def test_rows_of_low_quality_are_not_degraded_further():
    image = noise(4, dtype=torch.float32)
    quality = torch.tensor([0, 1, 0, 1])
    found = make(image, quality=quality, a=crop(kind="whole", degrade=XRAY))["a"]
    assert torch.equal(found[1], image[1]) and torch.equal(found[3], image[3])
    assert not torch.allclose(found[0], image[0], atol=0.01) and not torch.allclose(found[2], image[2], atol=0.01)
    assert torch.equal(found[0], make(image, a=crop(kind="whole", degrade=XRAY))["a"][0])


def test_the_units_of_a_view_are_those_of_the_recipe():
    image = noise(3)
    torch.testing.assert_close(make(image, mean=0.5, std=0.25, a=crop(kind="whole"))["a"], (image - 0.5) / 0.25)


def test_values_stay_in_0_to_1_and_the_image_is_not_changed():
    image = noise(40, 3, dtype=torch.float32)
    image[:, :, :8] = image[:, :, :8].round()  # black and white too
    before = image.clone()
    for view in make(image, **settings()).values():
        assert float(view.min()) >= -1e-6 and float(view.max()) <= 1.0 + 1e-6
    assert torch.equal(image, before)


def test_numbers_are_the_same_on_every_machine():
    box = _boxes(crop(flip=0.5, rotation=30.0), (32, 32), [3], "a", seed=1, step=2)[0].numpy()
    expected = [
        [0.5266769956250403, -0.1181344033581361, -0.0016648230936921477],
        [-0.10771693389900147, -0.5776127335647878, 0.06018523570206912],
    ]
    np.testing.assert_allclose(box, expected, rtol=1e-9)


def test_an_oblong_image_is_averaged_along_its_longer_side():
    image = torch.zeros(1, 1, 64, 16, dtype=torch.float64)
    image[:, :, ::4] = 1.0
    found = crop_views(image, torch.eye(2, 3, dtype=torch.float64)[None], 16)
    torch.testing.assert_close(found, torch.full((1, 1, 16, 16), 0.25, dtype=torch.float64))
