"""Test of what multi-level contrast does to an encoder: lesion and quality crossed, beside MoCo v2; whole, slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medcontrast.batch import StepInfo
from medcontrast.engine.probe.linear import fit_linear
from medcontrast.methods.moco import MoCo
from medcontrast.methods.multi_level import MultiLevel
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.settings.degrade import XrayDegradeSettings
from medcontrast.settings.multi_level import MultiLevelSettings
from medcontrast.settings.pretraining import MoCoSettings
from medcontrast.transforms.degrade import degrade

SIDE, ROWS, STEPS = 20, 64, 400
DEGRADED = XrayDegradeSettings(kind="xray")


def patches(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth textures, half of them with a small bright lesion, and whose quality is low in half of each."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 6, 6, generator=generator)
    images = 0.1 + 0.4 * functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    lesion, low = torch.arange(count) % 2, torch.arange(count) // 2 % 2
    centre = torch.rand(count, 2, generator=generator) * (SIDE - 8) + 4
    places = torch.arange(SIDE, dtype=torch.float32)
    squared = (places[:, None] - centre[:, 0, None, None]) ** 2 + (places[None] - centre[:, 1, None, None]) ** 2
    images = (images + 0.6 * lesion[:, None, None, None] * torch.exp(-squared / 8.0)[:, None]).clamp(0, 1)
    worse = degrade(images, DEGRADED, seed=seed, step=0, rows=range(count))
    return torch.where(low[:, None, None, None] == 1, worse, images), lesion, low


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to two pixels, mirrored at random, brighter or darker; the lesion stays inside."""
    padded = functional.pad(images, (2, 2, 2, 2), mode="replicate")
    shifts = torch.randint(0, 5, (len(images), 2), generator=generator)
    moved = torch.stack([row[:, x : x + SIDE, y : y + SIDE] for row, (x, y) in zip(padded, shifts, strict=True)])
    mirrored = torch.where(torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5, moved.flip(-1), moved)
    return (mirrored * (0.8 + 0.4 * torch.rand(len(images), 1, 1, 1, generator=generator))).clamp(0, 1)


def train(name: str, seed: int) -> Any:
    torch.manual_seed(seed)

    def encoder() -> Any:
        return build_encoder("resnet20", in_channels=1, width=8, norm="split_batch")

    queue = 512 if name == "moco_v2" else 256  # of each quality, healthy keys alone: eight steps of keys either way
    weights = dict.fromkeys(("high_weight", "low_weight", "cross_weight"), 1 / 3)  # as large a step as MoCo's
    shared = {"temperature": 0.1, "ema_decay": 0.99, "queue": queue, "embedding_channels": 32}
    method = (
        MoCo(MoCoSettings(name="moco_v2", **shared), encoder)
        if name == "moco_v2"
        else MultiLevel(MultiLevelSettings(name="multi_level", mine_negatives=None, **weights, **shared), encoder)
    ).train()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.06, 0.9, weight_decay=5e-4)
    images, lesion, low = patches(1024, seed=1)
    generator = torch.Generator().manual_seed(2 + seed)
    for step in range(STEPS):
        rows = torch.randperm(len(images), generator=generator)[:ROWS]
        first, second = view(images[rows], generator), view(images[rows], generator)
        views = {"query": first, "key": second}
        if name == "multi_level":
            worse = [
                torch.where(
                    low[rows, None, None, None] == 1,
                    clean,
                    degrade(clean, DEGRADED, seed=3, step=step, rows=rows.tolist(), stream=stream),
                )
                for clean, stream in ((first, "query"), (second, "key"))
            ]
            views = dict(zip(method.settings.views, (first, second, *worse), strict=True))
        batch = {
            "target": lesion[rows],
            "quality": low[rows],
            "views": {each: (image - 0.5) / 0.25 for each, image in views.items()},
        }
        info = StepInfo(step, STEPS, step // 16, 4)
        optimizer.zero_grad()
        method.losses(batch, info)["loss"].backward()
        optimizer.step()
        method.after_step(info)
    return method.inference_network().eval()


def features(encoder: Any, images: Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        found: NDArray[np.float64] = encoder((images - 0.5) / 0.25).double().numpy()
    return found


def accuracy(known: NDArray[Any], wanted: Tensor, seen: NDArray[Any], truth: Tensor) -> float:
    probe = fit_linear(known, wanted.numpy(), classes=2, strength=0.01)
    return float((probe.probabilities(seen).argmax(1) == truth.numpy()).mean())


def scores(encoder: Any) -> dict[str, float]:
    """Linear probes on new patches: lesion, quality, and what low quality costs a lesion probe of clean patches."""
    known, lesion, low = patches(1024, seed=1)
    test, truth, worse = patches(1024, seed=9)
    before, after = features(encoder, known), features(encoder, test)
    clean = low == 0
    high, degraded = (
        accuracy(before[clean], lesion[clean], after[worse == value], truth[worse == value]) for value in (0, 1)
    )
    return {
        "lesion": accuracy(before, lesion, after, truth),
        "quality": accuracy(before, low, after, worse),
        "drop": high - degraded,
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lesions_are_found_in_degraded_images_and_quality_is_harder_to_tell_than_with_moco(seed: int) -> None:
    moco, multi = (scores(train(name, seed)) for name in ("moco_v2", "multi_level"))
    print(moco, multi)
    assert multi["lesion"] > moco["lesion"]
    assert multi["quality"] < moco["quality"]
    assert multi["drop"] < moco["drop"] - 0.05
