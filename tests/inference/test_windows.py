"""Kinds: reference (MONAI's sliding window as the witness), by hand, property."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from medcontrast.inference import windows
from medcontrast.inference.windows import mirrored, window_slabs, window_starts, window_weights
from medcontrast.transforms.crop import PAD_VALUE


def sine_image(channels: int, *size: int) -> Tensor:
    count = channels * int(np.prod(size))
    return torch.sin(torch.arange(count, dtype=torch.float32) * 0.37).reshape(1, channels, *size)


def position_logits(image: Tensor) -> Tensor:
    """Logits that depend on the place in the window, so that a wrong window position shows."""
    x, y, z = (torch.linspace(-1, 1, side) for side in image.shape[2:])
    place = x[:, None, None] + 2 * y[None, :, None] - 0.5 * z[None, None, :]
    first = image.sum(dim=1)
    return torch.stack([first * 0.3, first * place, place - first], dim=1)


def averaged(image: Tensor, patch: tuple[int, ...], logits_of: windows.WindowFunction, **settings: Any) -> Tensor:
    """The slabs of an image, put together."""
    return torch.cat(list(window_slabs(image, patch, logits_of, **settings)), dim=1)


@pytest.mark.parametrize(("weighting", "mode"), [("gaussian", "gaussian"), ("uniform", "constant")])
@pytest.mark.parametrize(
    ("size", "patch", "overlap", "channels"),
    [
        ((33, 21, 17), (16, 16, 8), 0.5, 1),
        ((31, 40, 9), (16, 16, 16), 0.25, 2),
        ((7, 5, 3), (16, 8, 8), 0.5, 1),
        ((16, 16, 16), (16, 16, 16), 0.75, 1),
        ((19, 18, 23), (8, 16, 8), 0.0, 1),
        ((18, 17, 12), (8, 8, 8), 0.9, 1),
    ],
)
def test_equals_monai(
    size: tuple[int, ...], patch: tuple[int, ...], overlap: float, channels: int, weighting: str, mode: str
) -> None:
    image = sine_image(channels, *size)
    ours = averaged(
        image,
        patch,
        position_logits,
        overlap=overlap,
        weighting=weighting,
        window_batch=3,
    )
    theirs = sliding_window_inference(image, patch, 3, position_logits, overlap=overlap, mode=mode, cval=PAD_VALUE)[0]
    assert ours.shape == (3, *size) and ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("weighting", ["gaussian", "uniform"])
@pytest.mark.parametrize("size", [(33, 21, 17), (5, 40, 16), (16, 16, 16)])
def test_every_voxel_gets_what_all_windows_agree_on(size: tuple[int, ...], weighting: str) -> None:
    image = sine_image(1, *size)
    out = averaged(image, (16, 16, 16), lambda each: torch.cat([each, 1 - each], dim=1), weighting=weighting)
    assert torch.allclose(out, torch.cat([image, 1 - image], dim=1)[0], atol=1e-5)


@pytest.mark.parametrize("window_batch", [2, 3, 100])
def test_the_batch_of_windows_changes_nothing(window_batch: int) -> None:
    image = sine_image(1, 20, 19, 18)
    run = position_logits
    one = averaged(image, (8, 8, 8), run, window_batch=1)
    assert torch.allclose(averaged(image, (8, 8, 8), run, window_batch=window_batch), one, atol=1e-6)


def test_a_small_image_is_padded_with_what_training_crops_are_padded_with() -> None:
    image = sine_image(1, 4, 8, 3)
    out = averaged(image, (8, 8, 8), lambda each: each.mean().expand(1, 2, 8, 8, 8))
    mean = (image.sum() + PAD_VALUE * (8**3 - image.numel())) / 8**3
    assert out.shape == (2, 4, 8, 3) and torch.allclose(out, mean)


def test_starts_by_hand() -> None:
    assert window_starts((10, 4, 9), (4, 4, 8), 0.5) == [(x, 0, z) for x in (0, 2, 4, 6) for z in (0, 1)]
    assert window_starts((14, 7, 7), (7, 7, 7), 0.5) == [(x, 0, 0) for x in (0, 3, 6, 7)]  # 3.5: at least that overlap


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.99])
def test_windows_cover_and_stay_inside(overlap: float) -> None:
    for size, patch in itertools.product([(8, 9, 17), (30, 8, 8)], [(8, 8, 8), (7, 3, 8)]):
        covered = np.zeros(size, bool)
        for start in window_starts(size, patch, overlap):
            assert all(s >= 0 and s + p <= n for s, p, n in zip(start, patch, size, strict=True))
            covered[tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))] = True
        assert covered.all()


def test_gaussian_weights_by_hand() -> None:
    weights = window_weights((4, 3, 16), "gaussian")
    assert weights.shape == (4, 3, 16)
    expected = np.exp(-(0.5**2) / (2 * 0.5**2)) * 1.0 * np.exp(-(0.5**2) / (2 * 2.0**2))
    assert weights[1, 1, 7].item() == pytest.approx(expected, rel=1e-6)
    assert weights.min().item() == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="gaussian or uniform"):
        window_weights((4, 4, 4), "triangle")


def test_mirroring_averages_eight_versions_turned_back() -> None:
    image = sine_image(1, 8, 8, 8)
    mean = mirrored(position_logits, (0, 1, 2))(image)
    total = torch.zeros_like(mean)
    for flips in itertools.product([False, True], repeat=3):
        dims = [axis + 2 for axis, flip in enumerate(flips) if flip]
        total += position_logits(image.flip(dims)).softmax(dim=1).flip(dims)
    assert torch.allclose(mean.exp(), total / 8, atol=1e-6)
    some = mirrored(position_logits, (1,))(image)
    by_hand = (position_logits(image).softmax(1) + position_logits(image.flip(3)).softmax(1).flip(3)) / 2
    assert torch.allclose(some.exp(), by_hand, atol=1e-6)
    assert torch.equal(mirrored(position_logits)(image), position_logits(image))


def test_mirrored_versions_that_rule_a_class_out_stay_finite() -> None:
    out = mirrored(lambda image: torch.cat([image, image + 500], dim=1), (0,))(torch.zeros(1, 1, 4, 4, 4))
    assert torch.allclose(out[:, 0], torch.tensor(-500.0)) and torch.allclose(out[:, 1], torch.tensor(0.0))


def test_half_precision_logits_are_averaged_in_float32() -> None:
    image = sine_image(1, 8, 8, 8)
    out = mirrored(lambda each: position_logits(each).to(torch.bfloat16), (1,))(image)
    assert out.dtype == torch.float32
    assert torch.allclose(out.exp().sum(dim=1), torch.ones(1, 8, 8, 8), atol=1e-6)
    assert averaged(image, (8, 8, 8), lambda each: position_logits(each).half()).dtype == torch.float32


def test_a_large_result_is_kept_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    slab = torch.zeros(3, 20, 9, 9, device="meta")  # any device that is not the CPU
    assert windows.joined(iter([slab]), (20, 9, 9)).device.type == "meta"
    monkeypatch.setattr(windows, "DEVICE_BYTES", 10_000)  # 4860 numbers: of 2 bytes they stay, of 4 they do not
    assert windows.joined(iter([slab]), (20, 9, 9), torch.float16).device.type == "meta"
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):  # it is on its way to the CPU
        windows.joined(iter([slab]), (20, 9, 9))


@pytest.mark.parametrize(("size", "overlap"), [((33, 12, 9), 0.5), ((40, 7, 9), 0.0), ((5, 12, 9), 0.5)])
def test_slabs_make_up_the_image_and_none_is_longer_than_a_window(size: tuple[int, ...], overlap: float) -> None:
    image = sine_image(1, *size)
    run = position_logits
    slabs = list(window_slabs(image, (8, 8, 8), run, overlap=overlap, window_batch=3))
    assert max(slab.shape[1] for slab in slabs) <= 8
    assert len(slabs) > 1 or size[0] <= 8
    theirs = sliding_window_inference(image, (8, 8, 8), 3, run, overlap=overlap, mode="gaussian", cval=PAD_VALUE)[0]
    assert torch.allclose(torch.cat(slabs, dim=1), theirs, atol=1e-5)
    even = list(windows.even_slabs(iter(slabs), 6))
    assert [slab.shape[1] for slab in even] == [6] * (size[0] // 6) + ([size[0] % 6] if size[0] % 6 else [])
    assert torch.equal(torch.cat(even, dim=1), torch.cat(slabs, dim=1))


def test_a_batch_of_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected an image of shape \(1, c, x, y, z\)"):
        averaged(torch.zeros(2, 1, 8, 8, 8), (8, 8, 8), position_logits)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_is_mirrored_alone(axis: int) -> None:
    image = sine_image(1, 8, 6, 4)
    versions = [position_logits(image), position_logits(image.flip(axis + 2)).flip(axis + 2)]
    by_hand = torch.stack([version.softmax(1) for version in versions]).mean(0)
    assert torch.allclose(mirrored(position_logits, (axis,))(image).exp(), by_hand, atol=1e-6)
