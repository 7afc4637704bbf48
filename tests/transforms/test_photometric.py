"""Tests of the photometric changes: reference (colorsys and plain loops in float64), by hand, property."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch

from medcontrast.settings.images import PhotometricSettings
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.photometric import change_photometry, grey, turn_hue

OFF = {"jitter_probability": 0.0, "brightness": 0.0, "contrast": 0.0}
NAMES = ("jitter", "brightness", "contrast", "saturation", "hue", "grayscale", "blur", "sigma", "solarize")
LUMA = (0.299, 0.587, 0.114)


def noise(rows=4, channels=3, side=6, dtype=torch.float64):
    return torch.rand(rows, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=dtype)


def change(image, *, rows=None, seed=5, step=7, stream="a", **keys):
    settings = PhotometricSettings(**{**OFF, **keys})
    rows = range(len(image)) if rows is None else rows
    return change_photometry(image, settings, seed=seed, step=step, rows=rows, stream=stream)


def drawn(row, seed=5, step=7, stream="a"):
    return dict(zip(NAMES, row_generator(seed, step, row, f"photometric {stream}").random(9).tolist(), strict=True))


def pixels(image):
    """Every pixel of an image (3, x, y) as a list of its channels, row after row."""
    return image.flatten(1).T.tolist()


def clipped(value):
    return min(max(value, 0.0), 1.0)


def grey_of(pixel):
    return sum(share * value for share, value in zip(LUMA, pixel, strict=True))


def jittered(image, draws, *, brightness, contrast, saturation, hue):
    """One row in the order brightness, contrast, saturation, hue, pixel by pixel."""
    factor = {
        name: 1 + largest * (2 * draws[name] - 1)
        for name, largest in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation))
    }
    rows = [[clipped(value * factor["brightness"]) for value in pixel] for pixel in pixels(image)]
    middle = sum(grey_of(pixel) for pixel in rows) / len(rows)
    rows = [[clipped(middle + factor["contrast"] * (value - middle)) for value in pixel] for pixel in rows]
    rows = [
        [clipped(grey_of(pixel) + factor["saturation"] * (value - grey_of(pixel))) for value in pixel] for pixel in rows
    ]
    out = []
    for pixel in rows:
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        out.append(colorsys.hsv_to_rgb((h + hue * (2 * draws["hue"] - 1)) % 1.0, s, v))
    return torch.tensor(out, dtype=torch.float64).T.view_as(image)


def test_jitter_equals_plain_loops_row_by_row():
    image, amounts = noise(), {"brightness": 0.6, "contrast": 0.7, "saturation": 0.8, "hue": 0.3}
    found = change(image, rows=range(10, 14), jitter_probability=1.0, **amounts)
    for place, row in enumerate(range(10, 14)):
        torch.testing.assert_close(found[place], jittered(image[place], drawn(row), **amounts), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_amount_alone_equals_plain_loops(name):
    image, amounts = noise(), dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    amounts[name] = 0.45
    found = change(image, jitter_probability=1.0, **amounts)
    for row in range(4):
        torch.testing.assert_close(found[row], jittered(image[row], drawn(row), **amounts), rtol=0.0, atol=1e-9)
    assert not torch.allclose(found, image)


@pytest.mark.parametrize("share", [-0.5, -0.21, 0.0, 1 / 3, 0.49])
def test_hue_turns_as_colorsys_does(share):
    image = noise(2)
    image[0, :, 0, 0], image[0, :, 0, 1], image[0, :, 0, 2] = 0.0, 1.0, 0.4  # black, white, grey
    image[0, :, 1] = torch.eye(3, dtype=torch.float64).repeat(1, 2)  # pure colours
    found = turn_hue(image, torch.tensor([share, -share], dtype=torch.float64))
    for row, turn in ((0, share), (1, -share)):
        expected = []
        for pixel in pixels(image[row]):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            expected.append(colorsys.hsv_to_rgb((h + turn) % 1.0, s, v))
        expected = torch.tensor(expected, dtype=torch.float64).T.view_as(image[row])
        torch.testing.assert_close(found[row], expected, rtol=0.0, atol=1e-9)


def test_hue_by_hand_a_third_of_the_circle_takes_red_to_green():
    red = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1)
    found = turn_hue(red, torch.tensor([1 / 3])).flatten()
    torch.testing.assert_close(found, torch.tensor([0.1, 0.8, 0.1]), rtol=0.0, atol=1e-6)


def test_grey_is_the_weighted_sum_and_fills_all_channels():
    image = noise()
    assert grey(noise(channels=1)).shape == (4, 1, 6, 6)
    for row in range(4):
        expected = torch.tensor([grey_of(pixel) for pixel in pixels(image[row])], dtype=torch.float64).view(6, 6)
        torch.testing.assert_close(grey(image)[row, 0], expected)
        found = change(image, grayscale=1.0)[row]
        for channel in range(3):
            torch.testing.assert_close(found[channel], expected)


def test_each_row_draws_for_itself():
    image = noise(60)
    chosen = (change(image, grayscale=0.3) != image).flatten(1).any(1)
    assert chosen.tolist() == [drawn(row)["grayscale"] < 0.3 for row in range(60)]
    assert 8 < int(chosen.sum()) < 30
    solarized = (change(image, solarize=0.5) != image).flatten(1).any(1)
    assert solarized.tolist() == [drawn(row)["solarize"] < 0.5 for row in range(60)]
    jittered_rows = (change(image, jitter_probability=0.4, brightness=0.5) != image).flatten(1).any(1)
    assert jittered_rows.tolist() == [drawn(row)["jitter"] < 0.4 for row in range(60)]


def test_solarisation_turns_bright_values_round():
    found = change(torch.tensor([0.0, 0.3, 0.49, 0.55, 0.8, 1.0]).view(1, 1, 1, 6), solarize=1.0)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 0.3, 0.49, 0.45, 0.2, 0.0]))


def test_blur_equals_plain_loops():
    image, spread = noise(2, 1, 8), (0.05, 0.2)
    found = change(image, blur=1.0, blur_sigma=spread)
    radius = round(3 * spread[1] * 8)
    for row in range(2):
        sigma = 8 * (spread[0] + (spread[1] - spread[0]) * drawn(row)["sigma"])
        weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(-radius, radius + 1)]
        total, values = sum(weights), image[row, 0].tolist()
        near = [[min(max(place + step, 0), 7) for step in range(-radius, radius + 1)] for place in range(8)]
        for x in range(8):
            for y in range(8):
                mean = 0.0
                for weight_x, at_x in zip(weights, near[x], strict=True):
                    for weight_y, at_y in zip(weights, near[y], strict=True):
                        mean += weight_x * weight_y * values[at_x][at_y]
                assert float(found[row, 0, x, y]) == pytest.approx(mean / total**2, abs=1e-9)


def test_all_settings_off_give_the_image_itself_and_grey_images_have_no_colour_to_change():
    assert torch.equal(change(noise()), noise())
    single = noise(channels=1)
    assert torch.equal(change(single, jitter_probability=1.0, saturation=0.5, hue=0.5, grayscale=1.0), single)


def test_one_setting_moves_no_other_draw():
    image = noise()
    both = change(image, jitter_probability=1.0, brightness=0.3, solarize=1.0, blur=0.5, blur_sigma=(0.0, 0.0))
    alone = change(change(image, jitter_probability=1.0, brightness=0.3), solarize=1.0)
    torch.testing.assert_close(both, alone)


def test_a_row_does_not_depend_on_the_others_nor_two_views_on_one_another():
    image = noise(6, dtype=torch.float32)
    keys = {"jitter_probability": 0.7, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2, "blur": 0.5}
    together = change(image, **keys)
    for row in range(6):
        assert torch.equal(change(image[row : row + 1], rows=[row], **keys)[0], together[row])
    assert not torch.allclose(change(image, stream="b", **keys), together)
    assert not torch.allclose(change(image, step=8, **keys), together)


def test_values_stay_in_0_to_1_and_the_image_is_not_changed():
    image = noise(60, side=9, dtype=torch.float32)
    image[:, :, :3] = image[:, :, :3].round()
    before = image.clone()
    found = change(
        image,
        jitter_probability=1.0, brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5,
        grayscale=0.2, blur=0.8, blur_sigma=(0.005, 0.2), solarize=0.3,
    )  # fmt: skip
    assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0
    assert torch.equal(image, before)
