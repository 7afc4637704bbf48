"""Fine-tuning: encoder and linear head trained together on some of the labels, for a fixed number of steps.

Letters: n images, b rows, k classes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medcontrast.engine.fit_briefly import WEIGHT_DECAY, fit_briefly
from medcontrast.engine.probe.embed import ROWS, ImageSet
from medcontrast.networks.encoders2d import SplitBatchNorm2d
from medcontrast.networks.modes import evaluating
from medcontrast.transforms.draws import row_generator


@dataclass(frozen=True)
class FineTuning:
    """How long and how fast; the same for every share of the labels, and for weights that were not pre-trained.

    Attributes:
        steps: Optimiser steps; the last weights are scored, nothing is chosen.
        rows: Images a step.
        lr: Of AdamW, at the end of the warm-up (a tenth of the steps); half a cosine takes it to 0.
        weight_decay: Of AdamW.
        mirror_axis: Of the image, 0 or 1: along it rows are mirrored at random; None where a mirrored image means
            something else, as a digit does.
    """

    steps: int = 300
    rows: int = 32
    lr: float = 0.001
    weight_decay: float = WEIGHT_DECAY
    mirror_axis: int | None = 1


class Classifier(nn.Module):
    """An encoder and a linear head; the encoder given is copied and stays as it is.

    The copy normalises whole batches: parts of a batch (norm: split_batch) are for telling keys from queries.
    """

    def __init__(self, encoder: nn.Module, feature_channels: int, classes: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(True)
        for module in self.encoder.modules():
            if isinstance(module, SplitBatchNorm2d):
                module.splits = 1
        self.head = nn.Linear(feature_channels, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (b, k)."""
        logits: Tensor = self.head(self.encoder(image))
        return logits


def fine_tune(
    encoder: nn.Module,
    images: ImageSet,
    chosen: NDArray[np.int64],
    *,
    feature_channels: int,
    classes: int,
    settings: FineTuning,
    seed: int,
    device: torch.device,
) -> Classifier:
    """Trains a copy of the encoder with a head; every row is a function of (seed, step).

    Args:
        encoder: Where training starts; left as it is.
        images: Training images.
        chosen: Places of those whose labels may be used.
        feature_channels: Of the encoder.
        classes: k.
        settings: How long and how fast.
        seed: Of the rows and of the augmentation.
        device: Where to compute.

    Raises:
        NonFiniteLossError: The loss became NaN or infinite.
    """
    torch.manual_seed(seed)  # dropout, where an encoder has any
    classifier = Classifier(encoder, feature_channels, classes).to(device).train()

    def loss_at(step: int) -> Tensor:
        rows = chosen[rows_of_step(len(chosen), settings.rows, seed, step)]
        image = images.load(rows.tolist()).to(device)
        if settings.mirror_axis is not None:
            image = mirrored(image, step, seed, axis=settings.mirror_axis)
        return functional.cross_entropy(classifier(image).float(), torch.from_numpy(images.targets[rows]).to(device))

    fit_briefly(
        classifier,
        loss_at,
        steps=settings.steps,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        what="Fine-tuning",
        advice="try a smaller learning rate",
    )
    return classifier


def classify(classifier: nn.Module, images: ImageSet, device: torch.device) -> NDArray[np.float64]:
    """Probabilities (n, k) of every image, in evaluation mode."""
    parts = []
    with evaluating(classifier), torch.no_grad():
        for start in range(0, len(images), ROWS):
            rows = images.load(range(start, min(start + ROWS, len(images))))
            parts.append(classifier(rows.to(device)).cpu().double().softmax(dim=1).numpy())
    return np.concatenate(parts)


def rows_of_step(count: int, rows: int, seed: int, step: int) -> NDArray[np.int64]:
    """Places in a list of `count`: each stands once in every pass over it; no batch has fewer than `rows`."""
    places = np.arange(step * rows, (step + 1) * rows)
    orders = {
        number: row_generator(seed, int(number), 0, "rows of fine-tuning").permutation(count)
        for number in np.unique(places // count)
    }
    return np.array([orders[place // count][place % count] for place in places], dtype=np.int64)


def mirrored(image: Tensor, step: int, seed: int, *, axis: int = 1) -> Tensor:
    """Each row (b, c, x, y) mirrored along x (axis 0) or y (axis 1) with probability 1/2."""
    draws = [row_generator(seed, step, row, "mirrored").random() < 0.5 for row in range(len(image))]
    chosen = torch.tensor(draws, device=image.device)[:, None, None, None]
    return torch.where(chosen, image.flip(2 + axis), image)
