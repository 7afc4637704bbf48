"""Tests of Grad-CAM: reference (plain loops in float64, gradient by differences), by hand, property, geometry."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcontrast.networks.encoders2d import build_encoder
from medcontrast.networks.grad_cam import grad_cam, on_pixels


def tiny_head(maps):
    """Logits (b, 3) that are not linear in the maps, so that the gradient differs from place to place."""
    weight = torch.linspace(-1.0, 1.5, 3 * maps.shape[1], dtype=maps.dtype).view(3, -1)
    return (maps.square().mean((-2, -1)) + maps[:, :, 0, 0].sin()) @ weight.T


def reference(maps, target, step=1e-6):
    """Equations 1 and 2, number by number."""
    out = []
    for row, number in enumerate(target):
        channels, height, width = maps[row].shape
        weights = []
        for k in range(channels):
            total = 0.0
            for x in range(height):
                for y in range(width):
                    up, down = maps[row].clone(), maps[row].clone()
                    up[k, x, y] += step
                    down[k, x, y] -= step
                    scores = [float(tiny_head(each[None])[0, number]) for each in (up, down)]
                    total += (scores[0] - scores[1]) / (2 * step)
            weights.append(total / (height * width))
        out.append(
            [
                [max(0.0, sum(weights[k] * float(maps[row, k, x, y]) for k in range(channels))) for y in range(width)]
                for x in range(height)
            ]
        )
    return torch.tensor(out, dtype=torch.float64)


def noise(rows=3, channels=4, height=3, width=5, seed=0):
    return torch.randn(rows, channels, height, width, generator=torch.Generator().manual_seed(seed)).double()


def test_it_equals_plain_loops_row_by_row():
    maps, target = noise(), torch.tensor([2, 0, 1])
    expected = reference(maps, target.tolist())
    assert 0.2 < float((expected > 0).double().mean()) < 0.8
    torch.testing.assert_close(grad_cam(maps, tiny_head, target), expected, rtol=1e-7, atol=1e-7)


def test_of_a_linear_classifier_of_means_it_is_its_weights():
    # y_1 = mean(3 a - 2 b): the gradient is 3/4 and -2/4 at each of four places, and so are its means
    maps = torch.tensor([[[[1.0, 2.0], [0.0, 4.0]], [[2.0, 1.0], [1.0, 6.0]]]])
    weight = torch.tensor([[-9.0, 9.0], [3.0, -2.0]])
    found = grad_cam(maps, lambda stage: stage.mean((-2, -1)) @ weight.T, torch.tensor([1]))
    assert found.tolist() == [[[0.0, 1.0], [0.0, 0.0]]]
    other = grad_cam(maps, lambda stage: stage.mean((-2, -1)) @ weight.T, torch.tensor([0]))
    assert other.tolist() == [[[2.25, 0.0], [2.25, 4.5]]]


def test_rows_do_not_see_each_other_and_nothing_learns():
    head = nn.Linear(4, 3).double()
    maps, target = noise().requires_grad_(True), torch.tensor([2, 0, 1])

    def logits(stage):
        return head(stage.mean((-2, -1)))

    with torch.no_grad():  # as in evaluation
        together = grad_cam(maps, logits, target)
    alone = torch.cat([grad_cam(maps[row : row + 1], logits, target[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(together, alone)
    assert maps.grad is None and head.weight.grad is None and not together.requires_grad


def test_a_class_without_support_gives_zeros():
    maps = torch.ones(1, 2, 3, 3)
    assert not grad_cam(maps, lambda stage: -stage.mean((-2, -1)), torch.tensor([0])).any()


@pytest.mark.parametrize(("name", "plain"), [("resnet20", {}), ("resnet18", {"small_stem": True}), ("resnet18", {})])
def test_a_place_of_the_last_stage_looks_at_pixel_stride_times_its_number(name, plain):
    torch.manual_seed(0)
    encoder = build_encoder(name, in_channels=1, width=2, norm="batch", **plain).eval()
    stride = encoder.stage_strides[-1]
    side = 448 if stride == 32 else 256
    image = torch.rand(1, 1, side, side, requires_grad=True)
    number = side // stride // 2
    encoder.stages(image)[-1][:, :, number, number].sum().backward()
    weight = image.grad[0, 0].abs().double()
    rows = weight.sum(1)
    middle = stride * number
    seen = rows.nonzero()[:, 0]
    # every kernel is odd: as many pixels before the middle as behind it
    assert int(seen.min()) > 0 and int(seen.max()) < side - 1
    assert abs(int(seen.min()) + int(seen.max()) - 2 * middle) <= stride // 2


def test_places_lie_on_their_pixels():
    maps = torch.tensor([[[0.0, 4.0], [8.0, 4.0]]])
    found = on_pixels(maps, 4, (8, 8))[0]
    assert found.shape == (8, 8)
    assert found[0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0]
    assert found[:, 0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 8.0, 8.0, 8.0]
    assert float(found[2, 2]) == 4.0
    assert torch.equal(on_pixels(maps, 4, (5, 7))[0], found[:5, :7])
    assert torch.equal(on_pixels(maps, 1, (2, 2)), maps)
