"""Tests of the views of a batch: property."""

from __future__ import annotations

import pytest
import torch

from medcontrast.settings.data import AugmentSettings, IntensityViewSettings, SpatialSettings
from medcontrast.transforms.views import Views

STRONG = IntensityViewSettings(probability=0.7, gamma=0.3, contrast=0.25, brightness=0.1, noise_std=0.1, blur_sigma=1.0)
STILL = SpatialSettings(flip_axes=(), rotation_degrees=0.0, scale=0.0)


def batch(rows=6, channels=2):
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(rows, channels, 12, 16, 10, generator=generator)
    label = torch.randint(0, 3, (rows, 1, 12, 16, 10), generator=generator)
    label[rows // 2 :] = -1
    spacing_mm = torch.tensor([[1.0, 1.0, 2.5]]).repeat(rows, 1)
    return image, label, spacing_mm


def make(settings=None, *, rows=range(6), seed=0, step=3, cut=slice(None)):
    image, label, spacing_mm = batch()
    views = Views(settings or AugmentSettings(weak=STRONG))
    return views(image[cut], label[cut], seed=seed, step=step, rows=rows, spacing_mm=spacing_mm[cut])


def test_all_settings_zero_give_the_image_itself():
    image, label, spacing_mm = batch()
    settings = AugmentSettings(spatial=STILL, strong=IntensityViewSettings())
    views, moved = Views(settings)(image, label, seed=0, step=0, rows=range(6), spacing_mm=spacing_mm)
    assert set(views) == {"weak", "strong"}
    assert torch.equal(views["weak"], image)
    assert torch.equal(views["strong"], image)
    assert torch.equal(moved, label)


@pytest.mark.parametrize("cut", [slice(0, 3), slice(2, 5), slice(5, 6)])
def test_a_row_does_not_depend_on_its_neighbours(cut):
    views, label = make()
    part, part_label = make(rows=torch.arange(6)[cut], cut=cut)
    for name in views:
        assert torch.equal(part[name], views[name][cut])
    assert torch.equal(part_label, label[cut])


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 4}, {"rows": range(6, 12)}])
def test_seed_step_and_row_all_matter(other):
    views, label = make()
    changed, changed_label = make(**other)
    assert not torch.allclose(views["strong"], changed["strong"])
    assert not torch.equal(label, changed_label)


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 4}, {"rows": range(6, 12)}])
def test_intensities_alone_depend_on_them_too(other):
    settings = AugmentSettings(spatial=STILL, weak=STRONG, strong=STRONG)
    views, changed = make(settings)[0], make(settings, **other)[0]
    for name in ("weak", "strong"):
        assert not torch.allclose(views[name], changed[name])


def test_two_calls_are_equal_and_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = make()[0], make()[0]
    assert torch.equal(first["strong"], second["strong"])
    assert torch.equal(torch.get_rng_state(), before)


def test_both_views_share_the_geometry_and_draw_their_intensities_apart():
    settings = AugmentSettings(weak=IntensityViewSettings(probability=1.0, brightness=0.5), strong=STRONG)
    plain, _ = make(AugmentSettings(strong=IntensityViewSettings()))
    views, _ = make(settings)
    shift = views["weak"] - plain["weak"]
    assert shift.std((2, 3, 4)).max() < 1e-5
    same = AugmentSettings(weak=STRONG, strong=STRONG)
    views, _ = make(same)
    assert not torch.allclose(views["weak"], views["strong"])


def test_unlabeled_rows_stay_ignored_and_labels_are_optional():
    views, label = make()
    assert (label[3:] == -1).all()
    assert label[:3].min() == 0
    image, _, spacing_mm = batch()
    alone, none = Views(AugmentSettings(weak=STRONG))(image, None, seed=0, step=3, rows=range(6), spacing_mm=spacing_mm)
    assert none is None
    assert torch.equal(alone["strong"], views["strong"])


def test_mixed_precision_changes_no_bit():
    views, label = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, mixed_label = make()
    assert mixed["strong"].dtype == torch.float32
    assert torch.equal(mixed["strong"], views["strong"])
    assert torch.equal(mixed_label, label)


def test_views_do_not_share_memory_with_the_batch():
    image, label, _ = batch()
    before = image.clone()
    settings = AugmentSettings(spatial=STILL, strong=IntensityViewSettings())
    views, _ = Views(settings)(image, label, seed=0, step=0, rows=range(6))
    views["weak"].zero_()
    assert torch.equal(image, before)
