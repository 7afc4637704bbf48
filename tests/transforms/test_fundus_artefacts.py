"""Tests of what spoils fundus photographs: shapes and sizes by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcontrast.settings.degrade import FundusDegradeSettings
from medcontrast.transforms.fundus_artefacts import blur, disc, illumination, spots

UNCHANGED = {
    "brightness": (1.0, 1.0),
    "contrast": (1.0, 1.0),
    "saturation": (1.0, 1.0),
    "halos": (0, 0),
    "hole_strength": 0.0,
}


def changed(**settings):
    return FundusDegradeSettings(kind="fundus", **{**UNCHANGED, **settings})


def draws(rows=1):
    return [np.random.default_rng([5, row]) for row in range(rows)]


def centre_of(light):
    """Of mass, in pixels."""
    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in light.shape), indexing="ij")
    return float((light * rows).sum() / light.sum()), float((light * columns).sum() / light.sum())


def distances(middle):
    """Of the pixels of 200 x 200 from a place, in shares of a side."""
    places = (torch.arange(200.0) + 0.5) / 200
    return ((places[:, None] - middle[0]).square() + (places[None] - middle[1]).square()).sqrt()


def test_a_disc_is_round_in_an_oblong_image():
    found = disc(torch.zeros(1, 1, 50, 100), torch.tensor([[0.5, 0.5]]), torch.tensor([0.25]), torch.tensor([0.02]))
    assert centre_of(found[0, 0]) == pytest.approx((24.5, 49.5), abs=0.05)
    assert float(found.sum()) == pytest.approx(np.pi * 12.5**2, rel=0.02)
    across, down = found[0, 0].sum(1).max(), found[0, 0].sum(0).max()
    assert float(across) == pytest.approx(float(down), abs=0.2)


def test_a_halo_is_a_ring_as_wide_as_it_should_be():
    image = torch.zeros(1, 3, 200, 200)
    light = illumination(image, draws(), changed(halos=(1, 1), halo_strength=(0.4, 0.4), halo_diameter=(0.5, 0.5)))[0]
    tints = light.amax((1, 2)) / 0.4
    assert len(tints.unique()) == 3 and bool(((tints > 0.45) & (tints < 1.0)).all())
    middle = [(place + 0.5) / 200 for place in centre_of(light[0])]
    assert all(0.45 <= place <= 0.55 for place in middle)
    profile = light[0] / light[0].max()
    for at, expected in ((0.1, 0.0), (0.25, 0.53), (0.325, 1.0), (0.4, 0.53), (0.55, 0.0)):  # soft edges take 6 % away
        assert float(profile[(distances(middle) - at).abs() < 0.004].mean()) == pytest.approx(expected, abs=0.03)


def test_a_hole_has_its_diameter_and_its_depth():
    image = torch.full((1, 3, 200, 200), 0.6)
    settings = changed(hole_strength=0.3, hole_diameter=(0.5, 0.5))
    taken = (image - illumination(image, draws(), settings))[0]
    assert torch.equal(taken[0], taken[1])
    assert float(taken.max()) == pytest.approx(0.3, abs=0.01)
    deepest = [(int(place) + 0.5) / 200 for place in (taken[0] == taken[0].max()).nonzero().float().mean(0)]
    for at, expected in ((0.15, 0.84), (0.25, 0.5), (0.35, 0.16)):  # an edge of width 0.1
        assert float(taken[0][(distances(deepest) - at).abs() < 0.004].mean()) == pytest.approx(
            0.3 * expected, abs=0.01
        )
    dark = torch.full((1, 3, 64, 64), 0.05)
    torch.testing.assert_close(illumination(dark, draws(), settings), dark)  # nothing to see a hole in


def test_colour_by_hand():
    halves = torch.zeros(1, 3, 8, 8)
    halves[..., :4], halves[..., 4:] = (
        torch.tensor([0.9, 0.3, 0.0])[:, None, None],
        torch.tensor([0.6, 0.6, 0.9])[:, None, None],
    )
    grey = illumination(halves, draws(), changed(saturation=(0.0, 0.0)))
    torch.testing.assert_close(grey[..., :4], torch.full((1, 3, 8, 4), 0.4))
    torch.testing.assert_close(grey[..., 4:], torch.full((1, 3, 8, 4), 0.7))
    two = torch.zeros(1, 3, 8, 8)
    two[..., 4:] = 0.8
    flat = illumination(two, draws(), changed(contrast=(0.5, 0.5)))
    torch.testing.assert_close(flat[..., :4], torch.full((1, 3, 8, 4), 0.2))
    torch.testing.assert_close(flat[..., 4:], torch.full((1, 3, 8, 4), 0.6))


def test_spots_are_tinted_between_seven_tenths_and_all_of_their_strength():
    settings = changed(spots=(1, 1), spot_radius=(0.2, 0.2), spot_strength=(0.5, 0.5))
    light = spots(torch.zeros(60, 3, 64, 64), draws(60), settings).amax((2, 3)) / 0.5
    assert 0.65 < float(light.min()) < 0.76 and 0.94 < float(light.max()) <= 1.0


@pytest.mark.parametrize("shape", [(129, 129), (129, 65)])
@pytest.mark.parametrize("severity", [1.0, 0.5])
def test_blur_is_a_share_of_the_height(shape, severity):
    point = torch.zeros(1, 1, *shape)
    point[..., shape[0] // 2, shape[1] // 2] = 1.0
    found = blur(point, draws(), changed(blur_sigma=(0.05, 0.05), severity=severity))[0, 0]
    for axis, side in enumerate(shape):
        profile = found.sum(1 - axis)
        spread = float((profile * (torch.arange(float(side)) - side // 2).square()).sum()) ** 0.5
        assert spread == pytest.approx(severity * 0.05 * 129, rel=0.03)
