"""Tests of the degradations: property (seeded, by row, identity, range) and by hand, JPEG beside Pillow."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from medcontrast.errors import InputError
from medcontrast.settings.degrade import FundusDegradeSettings, XrayDegradeSettings
from medcontrast.transforms.degrade import degrade
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.fundus_artefacts import blur, disc, illumination, spots
from medcontrast.transforms.intensity import blur as gaussian_blur
from medcontrast.transforms.jpeg import compress, quantisation_table
from medcontrast.transforms.xray_artefacts import exposure, noise

XRAY, FUNDUS = XrayDegradeSettings(kind="xray"), FundusDegradeSettings(kind="fundus")
EACH = [
    *(XrayDegradeSettings(kind="xray", effects=(effect,)) for effect in XRAY.effects),
    *(FundusDegradeSettings(kind="fundus", effects=(effect,)) for effect in FUNDUS.effects),
]


def images(rows=4, channels=1, side=40):
    """Smooth bright discs on a dark ground, different in every row."""
    generator = torch.Generator().manual_seed(2)
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    inside = (x.square() + y.square() < 0.8).float()
    wave = 0.5 + 0.2 * torch.sin(5 * x + torch.randn(rows, channels, 1, 1, generator=generator)) * torch.cos(7 * y)
    return wave * inside


def draws(rows, seed=0):
    return [np.random.default_rng([seed, row]) for row in range(rows)]


def run(image, settings, rows=None, **keys):
    rows = range(len(image)) if rows is None else rows
    return degrade(image, settings, **{"seed": 1, "step": 2, "rows": rows, **keys})


@pytest.mark.parametrize("settings", [XRAY, FUNDUS, *EACH])
@pytest.mark.parametrize("channels", [1, 3])
def test_seeded_by_row_in_range_and_changed(settings, channels):
    image = images(6, channels)
    before = image.clone()
    out = run(image, settings)
    assert torch.equal(image, before)
    assert out.shape == image.shape and out.dtype == image.dtype
    assert float(out.min()) >= 0 and float(out.max()) <= 1
    assert torch.equal(out, run(image, settings))
    order = [3, 0, 5]
    assert torch.equal(out[order], run(image[order], settings, rows=order))
    assert all(not torch.equal(new, old) for new, old in zip(out, image, strict=True))
    for other in ({"seed": 9}, {"step": 9}, {"rows": range(7, 13)}, {"stream": "other"}):
        assert not torch.equal(out, run(image, settings, **other))


@pytest.mark.parametrize("settings", [XRAY, FUNDUS, *EACH])
def test_severity_0_is_the_identity_bit_for_bit_and_more_severity_moves_further(settings):
    image = images(8, side=96)
    settings_of = [settings.model_copy(update={"severity": severity}) for severity in (0.0, 0.3, 0.6, 1.0)]
    assert torch.equal(run(image, settings_of[0]), image)
    distances = [float((run(image, each) - image).abs().mean()) for each in settings_of]
    assert distances == sorted(distances)
    assert 0 < distances[1] < 0.6 * distances[3]


def test_every_combination_but_none_occurs_equally_often():
    image = torch.full((700, 1, 8, 8), 0.5)
    out = run(image, XRAY.model_copy(update={"noise_std": (0.3, 0.3), "exposure_shift": (0.3, 0.3)}))
    moved = (out.mean((1, 2, 3)) - 0.5).abs() > 0.2
    rough = out.std((1, 2, 3)) > 0.02
    kinds = {(bool(a), bool(b)): int(((moved == a) & (rough == b)).sum()) for a in (False, True) for b in (False, True)}
    assert sum(kinds.values()) == 700
    # neither exposure nor noise: compression alone, one of 7; every other pair with and without compression, two of 7
    assert kinds[False, False] == pytest.approx(100, abs=35)
    assert kinds[True, False] == pytest.approx(200, abs=45)
    assert kinds[False, True] == pytest.approx(200, abs=45)
    assert kinds[True, True] == pytest.approx(200, abs=45)


def test_switching_an_effect_off_or_the_severity_does_not_change_what_others_draw():
    image = torch.full((1, 1, 16, 16), 0.5)
    whole = [noise(image, draws(1), XRAY.model_copy(update={"severity": severity})) - image for severity in (0.5, 1.0)]
    torch.testing.assert_close(2 * whole[0], whole[1], rtol=1e-4, atol=1e-6)
    alone = run(image, XrayDegradeSettings(kind="xray", effects=("noise",)))
    pair = XrayDegradeSettings(
        kind="xray", effects=("noise", "exposure"), exposure_shift=(0, 0), exposure_contrast=(1, 1)
    )
    rows = [row for row in range(30) if not torch.equal(run(image, pair, rows=[row]), image)]
    assert 10 < len(rows) < 30
    for row in rows:
        assert torch.equal(run(image, pair, rows=[row]), run(image, EACH[1], rows=[row]))
    assert not torch.equal(alone, image)


@pytest.mark.parametrize(
    ("kind", "order"), [("fundus", ("illumination", "spots", "blur")), ("xray", ("exposure", "noise", "compression"))]
)
def test_effects_happen_in_their_order_whatever_order_they_are_named_in(kind, order):
    settings = FundusDegradeSettings if kind == "fundus" else XrayDegradeSettings
    image = 0.3 + 0.4 * images(1, 3)  # the whole image is field of view
    one_by_one, several = 0, 0
    for row in range(40):
        steps = image
        for effect in order:
            steps = run(steps, settings(kind=kind, effects=(effect,)), rows=[row])
        found = run(image, settings(kind=kind, effects=order[::-1]), rows=[row])
        one_by_one += torch.allclose(found, steps, atol=1e-6)
        backwards = image
        for effect in order[::-1]:
            backwards = run(backwards, settings(kind=kind, effects=(effect,)), rows=[row])
        several += torch.allclose(found, backwards, atol=1e-6)
    assert one_by_one >= 2  # the rows that drew all three: one of seven combinations
    assert several == 0


@pytest.mark.parametrize("effects", [(), ("noise", "noise")])
def test_no_effect_is_not_a_type(effects):
    with pytest.raises(ValueError, match="effects names at least one effect, each once"):
        XrayDegradeSettings(kind="xray", effects=effects)


def test_a_range_rises():
    with pytest.raises(ValueError, match="a range goes from its smaller to its larger end"):
        FundusDegradeSettings(kind="fundus", spot_radius=(0.5, 0.1))


@pytest.mark.parametrize(
    "image", [torch.full((1, 1, 8, 8), 1.5), torch.full((1, 1, 8, 8), math.nan), torch.zeros(8, 8)]
)
def test_images_outside_the_range_are_refused(image):
    with pytest.raises(InputError, match="Degrade before intensities are normalised"):
        degrade(image, XRAY, seed=0, step=0, rows=[0])


def test_fundus_is_0_outside_the_field_of_view():
    image = images(6, 3)
    outside = image.amax(1, keepdim=True) == 0
    out = run(image, FUNDUS)
    assert bool(outside.any())
    assert float((out * outside).abs().max()) == 0.0


def test_exposure_by_hand():
    settings = XRAY.model_copy(update={"exposure_shift": (0.2, 0.2), "exposure_contrast": (0.5, 0.5)})
    image = torch.tensor([0.1, 0.5, 0.9]).reshape(1, 1, 1, 3).expand(40, 1, 1, 3)
    out = exposure(image, draws(40), settings)
    up = torch.tensor([0.5, 0.7, 0.9])
    kinds = {tuple(row.flatten().tolist()) for row in out}
    assert len(kinds) == 2
    brighter, darker = sorted(kinds, reverse=True)
    assert brighter == pytest.approx(up.tolist()) and darker == pytest.approx((up - 0.4).tolist())


def test_noise_grows_with_absorption():
    settings = XRAY.model_copy(update={"noise_std": (0.05, 0.05)})
    for value in (0.2, 0.5, 0.8):
        image = torch.full((1, 1, 200, 200), value)
        std = float((noise(image, draws(1), settings) - image).std())
        assert std == pytest.approx(0.05 * math.exp(value - 0.5), rel=0.02)


@pytest.mark.parametrize("quality", [1, 5, 20, 50, 75, 95])
@pytest.mark.parametrize("shape", [(48, 40), (28, 28)])
def test_compression_is_that_of_pillow(quality, shape):
    grid = np.random.default_rng(quality).normal(size=shape).cumsum(0).cumsum(1)
    grey = np.uint8(255 * (grid - grid.min()) / np.ptp(grid))
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "jpeg", quality=quality)
    expected = np.asarray(Image.open(file), np.float64)
    ours = compress(torch.from_numpy(grey)[None, None].float() / 255, torch.tensor([float(quality)]))
    difference = np.abs(255 * ours[0, 0].double().numpy() - expected)
    # Pillow rounds to whole grey levels (a quarter of one on average), and coefficients half way between two steps,
    # which whole grey levels often have, may go to the other side there
    assert np.median(difference) < 0.5
    assert difference.mean() < 0.7


def test_quantisation_table_by_hand():
    table = quantisation_table(torch.tensor([50.0, 100.0, 25.0, 1.0]))
    assert table[0, 0, :3].tolist() == [16, 11, 10]
    assert table[1].unique().tolist() == [1]
    assert table[2, 0, :3].tolist() == [32, 22, 20]
    assert table[3].unique().tolist() == [255]


def test_disc_and_spots_by_hand():
    image = torch.zeros(1, 1, 101, 101)
    found = disc(image, torch.tensor([[0.5, 0.5]]), torch.tensor([0.25]), torch.tensor([0.02]))[0, 0]
    assert float(found[50, 50]) == pytest.approx(1.0) and float(found[0, 0]) == pytest.approx(0.0)
    assert float(found[50, 75]) == pytest.approx(0.5, abs=0.15)  # 25 pixels of 101 away: just inside the edge
    assert float(found.mean()) == pytest.approx(math.pi * 0.25**2, rel=0.02)
    settings = FUNDUS.model_copy(update={"spots": (1, 1), "spot_radius": (0.1, 0.1), "spot_strength": (0.3, 0.3)})
    light = spots(image, draws(1), settings)
    assert 0.7 * 0.29 < float(light.max()) <= 0.3
    assert float(spots(image, draws(1), settings.model_copy(update={"spots": (0, 0)})).max()) == 0.0


def test_colour_and_hole_by_hand():
    plain = {"contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "halos": (0, 0)}
    dark = FUNDUS.model_copy(update={**plain, "brightness": (0.5, 0.5)})
    image = torch.full((1, 3, 64, 64), 0.4)
    torch.testing.assert_close(illumination(image, draws(1), dark), torch.full_like(image, 0.2))  # 0.2: no hole
    bright = dark.model_copy(update={"brightness": (1.0, 1.0)})
    taken = 0.4 - illumination(image, draws(1), bright)
    assert float(taken.max()) == pytest.approx(0.26, abs=0.02)
    assert float(taken.min()) < 0.01
    grey = bright.model_copy(update={"saturation": (0.0, 0.0), "hole_strength": 0.0})
    coloured = torch.tensor([0.9, 0.3, 0.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(illumination(coloured, draws(1), grey), torch.full((1, 3, 8, 8), 0.4))


def test_blur_keeps_the_mean_and_has_its_width():
    point = torch.zeros(2, 1, 65, 65)
    point[:, :, 32, 32] = 1.0
    out = gaussian_blur(point, torch.tensor([2.0, 4.0]).view(-1, 1, 1, 1), 4.0)
    places = torch.arange(65.0) - 32
    for row, sigma in ((0, 2.0), (1, 4.0)):
        profile = out[row, 0].sum(0)
        assert float(profile.sum()) == pytest.approx(1.0, abs=1e-5)
        assert math.sqrt(float((profile * places.square()).sum())) == pytest.approx(sigma, rel=0.03)
        torch.testing.assert_close(out[row, 0], out[row, 0].T)
    flat = torch.full((1, 1, 20, 20), 0.3)
    torch.testing.assert_close(blur(flat, draws(1), FUNDUS), flat)


def test_every_effect_draws_by_its_own_name():
    settings = XRAY.model_copy(update={"effects": ("exposure",)})
    image = images(1)
    expected = exposure(image, [row_generator(1, 2, 4, "degrade exposure")], settings).clamp(0.0, 1.0)
    assert torch.equal(run(image, settings, rows=[4]), expected)


def test_severity_is_also_that_of_the_lost_contrast():
    settings = XRAY.model_copy(update={"exposure_shift": (0.0, 0.0), "exposure_contrast": (0.5, 0.5), "severity": 0.5})
    image = torch.tensor([0.1, 0.5, 0.9]).reshape(1, 1, 1, 3)
    assert exposure(image, draws(1), settings).flatten().tolist() == pytest.approx([0.2, 0.5, 0.8])


@pytest.mark.parametrize("quality", [1, 7, 13, 26, 33, 49, 50, 51, 80, 99])
def test_quantisation_tables_are_those_of_pillow(quality):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, "jpeg", quality=quality)
    expected = Image.open(file).quantization[0]
    assert quantisation_table(torch.tensor([float(quality)])).flatten().tolist() == list(expected)
