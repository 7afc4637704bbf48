"""Tests of the random intensity changes: reference, by hand, property."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medcontrast.settings.data import IntensityViewSettings
from medcontrast.transforms.intensity import blur, change_intensity

ROWS = range(20)
ALL = {"gamma": 0.3, "contrast": 0.25, "brightness": 0.1, "noise_std": 0.1, "blur_sigma": 1.0}


def images(rows=20, channels=2):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(rows, channels, 9, 10, 11, generator=generator) * 3.0 + 5.0


def change(image, *, rows=ROWS, step=1, seed=0, stream="strong", probability=1.0, **settings):
    made = IntensityViewSettings(probability=probability, **settings)
    return change_intensity(image, made, seed=seed, step=step, rows=rows, stream=stream)


def test_nothing_set_is_the_same_tensor():
    image = images()
    assert change(image) is image
    assert change(image, probability=0.0, **ALL) is image


@pytest.mark.parametrize("effect", ALL)
def test_every_effect_changes_rows_and_leaves_the_input(effect):
    image = images()
    before = image.clone()
    out = change(image, **{effect: ALL[effect]})
    assert torch.equal(image, before)
    assert ((out - image).abs().amax((1, 2, 3, 4)) > 1e-4).sum() >= 15  # a blur below 0.2 voxels is none
    assert torch.isfinite(out).all()


def test_probability_is_the_share_of_rows_of_each_effect():
    image = images(300)
    changed = (change(image, rows=range(300), probability=0.3, brightness=1.0) != image).flatten(1).any(1)
    assert 0.22 < changed.float().mean() < 0.38


def test_rows_that_draw_nothing_keep_every_bit():
    image = images()
    out = change(image, probability=0.5, **ALL)
    same = [torch.equal(out[row], image[row]) for row in ROWS]
    assert 0 < sum(change(image, probability=0.2, **ALL).eq(image).flatten(1).all(1)) < 20
    assert sum(same) < 10


def test_gamma_keeps_order_and_range_and_bounds_the_exponent():
    image = images()
    out = change(image, gamma=0.4)
    low, high = image.amin((2, 3, 4)), image.amax((2, 3, 4))
    assert torch.allclose(out.amin((2, 3, 4)), low, atol=1e-4)
    assert torch.allclose(out.amax((2, 3, 4)), high, atol=1e-4)
    unit = (image - low[..., None, None, None]) / (high - low)[..., None, None, None]
    made = (out - low[..., None, None, None]) / (high - low)[..., None, None, None]
    middle = (unit > 0.2) & (unit < 0.8)
    exponents = made[middle].log() / unit[middle].log()
    assert exponents.min() >= 0.6 - 1e-3
    assert exponents.max() <= 1 / 0.6 + 1e-3
    assert exponents.max() > 1.1
    assert exponents.min() < 0.9


def test_gamma_of_a_constant_row_is_the_row():
    image = torch.full((1, 1, 4, 4, 4), -2.0)
    assert torch.allclose(change(image, rows=[0], gamma=0.5), image)


def test_contrast_keeps_the_mean_and_scales_about_it():
    image = images()
    out = change(image, contrast=0.25)
    assert torch.allclose(out.mean((2, 3, 4)), image.mean((2, 3, 4)), atol=1e-4)
    factors = out.std((2, 3, 4)) / image.std((2, 3, 4))
    assert torch.allclose(factors[:, 0], factors[:, 1], atol=1e-4)  # one factor a row
    assert 0.75 <= factors.min() < 0.85
    assert 1.15 < factors.max() <= 1.25


def test_brightness_shifts_by_a_share_of_the_standard_deviation():
    image = images()
    shift = change(image, brightness=0.5) - image
    assert shift.std((2, 3, 4)).max() < 1e-5
    shares = shift.mean((2, 3, 4)) / image.std((2, 3, 4), correction=0)
    assert torch.allclose(shares[:, 0], shares[:, 1], atol=1e-4)
    assert shares.abs().max() <= 0.5
    assert shares.min() < -0.2
    assert shares.max() > 0.2


def test_noise_is_scaled_by_the_row_and_differs_between_channels():
    image = images()
    image[:, 1] *= 10.0
    noise = (change(image, noise_std=0.2) - image) / image.std((2, 3, 4), correction=0, keepdim=True)
    assert noise.std((2, 3, 4)).max() < 0.22
    assert noise.std((2, 3, 4)).amax(0).min() > 0.12
    assert noise.mean().abs() < 0.01
    assert not torch.allclose(noise[:, 0], noise[:, 1], atol=0.05)


def test_noise_has_a_strength_a_row():
    image = images()
    noise = change(image, noise_std=0.2) - image
    shares = noise.std((2, 3, 4)) / image.std((2, 3, 4))
    assert torch.allclose(shares[:, 0], shares[:, 1], rtol=0.2)  # one strength a row
    assert shares[:, 0].min() < 0.04
    assert 0.16 < shares.max() < 0.22
    row = change(image[7:8], rows=[7], noise_std=0.2) - image[7:8]
    torch.testing.assert_close(row, noise[7:8])


def test_blur_agrees_with_scipy_and_has_a_width_a_row():
    image = images(3)
    sigmas = torch.tensor([0.0, 0.6, 1.5]).view(-1, 1, 1, 1, 1)
    out = blur(image, sigmas, 1.5)
    assert torch.equal(out[0], image[0])
    for row in (1, 2):
        for channel in range(2):
            expected = gaussian_filter(image[row, channel].numpy(), float(sigmas[row]), mode="nearest", radius=4)
            assert np.allclose(out[row, channel].numpy(), expected, atol=1e-4)


def test_turning_one_effect_off_moves_no_other_draw():
    image = images()
    both = change(image, brightness=0.3, noise_std=0.2)
    assert torch.allclose(both - change(image, brightness=0.3), change(image, noise_std=0.2) - image, atol=1e-5)


def test_draws_depend_on_seed_step_row_and_stream_alone():
    image = images()
    out = change(image, **ALL)
    assert torch.equal(change(image, **ALL), out)
    assert torch.equal(change(image[7:9], rows=[7, 8], **ALL), out[7:9])
    for other in ({"seed": 1}, {"step": 2}, {"stream": "weak"}, {"rows": range(20, 40)}):
        assert not torch.allclose(change(image, **ALL, **other), out)


def test_statistics_are_those_of_the_row_as_it_comes_in():
    image = images()
    shifted = change(image, contrast=0.5, brightness=0.3) - change(image, contrast=0.5)
    torch.testing.assert_close(shifted, change(image, brightness=0.3) - image, atol=1e-5, rtol=1e-4)
    mean, bent = image.mean((2, 3, 4), keepdim=True), change(image, gamma=0.4)
    factor = (change(image, contrast=0.25) - mean).std((2, 3, 4)) / image.std((2, 3, 4))
    expected = mean + factor[..., None, None, None] * (bent - mean)
    torch.testing.assert_close(change(image, gamma=0.4, contrast=0.25), expected, atol=1e-4, rtol=1e-4)
