"""Scores of a generator: a predictor of the parents, learned from real images, looks at its counterfactuals.

Letters: b rows, p numbers of the parents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medcontrast.data.images.images import Images
from medcontrast.data.images.manifest import ImageManifest
from medcontrast.data.sampler import BalancedSampler
from medcontrast.engine.fit_briefly import fit_briefly
from medcontrast.engine.generator.counterfactuals import ROWS
from medcontrast.engine.generator.generator import Action, Generator
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.losses.parents import parent_losses
from medcontrast.metrics.counterfactual import MeanDifference, category_effect, number_effect
from medcontrast.networks.modes import evaluating
from medcontrast.networks.parents import Parent
from medcontrast.networks.predictor import PREDICTOR_SHIFT, Predictor
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.shift import shifted

SCORES = "metrics.json"
PREDICTOR_ROWS = 64
_LR = 0.002


def train_predictor(
    generator: Generator,
    manifest: ImageManifest,
    *,
    steps: int,
    seed: int,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Predictor:
    """A ResNet-20 that learns every parent from the training images, moved by a few pixels.

    Its rows are drawn uniform over domains, as interventions are: a predictor that learned how often domains occur
    would take a rare one for a common one that looks like it.

    Raises:
        InputError: An image lacks a parent.
        NonFiniteLossError: The loss became NaN or infinite.
    """
    cases = manifest.originals("train")
    numbers = generator.numbers(cases, manifest.classes, where=f"{manifest.path}: train")
    data, device = generator.recipe.data, generator.device
    widths = [parent.width for parent in generator.parents]
    images = Images(cases, channels=data.channels, size=data.size)
    torch.manual_seed(seed)
    predictor = Predictor(data.channels, numbers.shape[1]).to(device).train()
    domains = [case.domain or "" for case in cases]
    rows = iter(BalancedSampler(domains, 1.0, PREDICTOR_ROWS, seed, steps=steps))

    def loss_at(step: int) -> Tensor:
        places = [key.case_index for key in next(rows)]
        draws = [row_generator(seed, step, row, "predictor's shift") for row in range(len(places))]
        found = predictor(shifted(images.load(places), PREDICTOR_SHIFT, draws).to(device))
        return torch.stack(parent_losses(found, numbers[places].to(device), widths)).sum()

    def tell_some(step: int, loss: Tensor) -> None:
        if (step + 1) % 100 == 0:
            tell(f"predictor, step {step + 1} of {steps}: loss {float(loss):.3f}")

    fit_briefly(
        predictor,
        loss_at,
        steps=steps,
        lr=_LR,
        what="The predictor of the parents",
        advice="look for numbers among the parents that are far from the others",
        tell=tell_some,
    )
    return predictor


def score_generator(
    generator: Generator,
    predictor: nn.Module,
    manifest: ImageManifest,
    split: str,
    wanted: Sequence[Action],
    *,
    tell: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Effectiveness, composition and reversibility on one split.

    Args:
        generator: Makes counterfactuals.
        predictor: From `train_predictor`.
        manifest: Of the images.
        split: Scored.
        wanted: Interventions; those that leave an image as it is do not count.
        tell: Called with the first image's name of every pass.

    Returns:
        `images`, `counterfactuals`; by parent `effectiveness` (where the parent was changed), `preservation` (where it
        was not) and, as what the predictor reaches on real images, `on_images`; `composition`, `reversibility` and
        `reconstruction` as mean absolute differences in 0..1.

    Raises:
        InputError: An image lacks a parent, or the interventions change no image.

    Paper: Monteiro 2023, section 3; De Sousa Ribeiro 2023, section 5.
    """
    cases = manifest.originals(split)
    numbers = generator.numbers(cases, manifest.classes, where=f"{manifest.path}: {split}")
    images = Images(cases, channels=generator.recipe.data.channels, size=generator.recipe.data.size)
    composition, reversibility, reconstruction = MeanDifference(), MeanDifference(), MeanDifference()
    real: list[tuple[Tensor, Tensor]] = []
    made: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluating(predictor), torch.no_grad():
        for start in range(0, len(cases), ROWS):
            places = range(start, min(start + ROWS, len(cases)))
            tell(cases[start].name)
            image, own = images.load(places), numbers[start : places.stop]
            real.append((_predicted(predictor, image, generator), own))
            composition.add(image.numpy(), generator.counterfactual(image, own, own).numpy())
            reconstruction.add(image.numpy(), generator.reconstruction(image, own).numpy())
            for action in wanted:
                changed = action.on_numbers(generator, own)
                rows = (changed != own).any(dim=1).nonzero()[:, 0]
                if len(rows):
                    there = generator.counterfactual(image[rows], own[rows], changed[rows])
                    made.append((_predicted(predictor, there, generator), changed[rows], own[rows]))
                    back = generator.counterfactual(there, changed[rows], own[rows])
                    reversibility.add(image[rows].numpy(), back.numpy())
    if not made:
        raise InputError(f"{manifest.path}: the intervention leaves every image of {split} as it is.")
    found, intended, before = _joined(made)
    same = _unchanged(intended, before, generator)
    predicted, actual = _joined(real)
    return {
        "images": len(cases),
        "counterfactuals": len(found),
        "effectiveness": _effects(found, intended, {name: ~rows for name, rows in same.items()}, generator),
        "preservation": _effects(found, intended, same, generator),
        "on_images": _effects(predicted, actual, _unchanged(actual, actual, generator), generator),
        "composition": composition.mean,
        "reversibility": reversibility.mean,
        "reconstruction": reconstruction.mean,
    }


def write_scores(
    folder: Path,
    found: dict[str, Any],
    generator: Generator,
    manifest: ImageManifest,
    split: str,
    *,
    predictor: dict[str, int],
) -> None:
    """Writes SCORES: what `score_generator` found, and on what.

    Raises:
        OutputError: The file cannot be written.
    """
    facts = {
        "checkpoint": f"{generator.file.absolute().parent.name}/{generator.file.name}",
        "step": generator.step,
        "manifest": manifest.name,
        "split": split,
        "predictor": predictor,
    }
    write_text(folder / SCORES, json.dumps({**facts, **found}, indent=1) + "\n")


def _predicted(predictor: nn.Module, image: Tensor, generator: Generator) -> Tensor:
    found: Tensor = predictor(image.to(generator.device)).float().cpu()
    return found


def _joined(parts: Sequence[tuple[Tensor, ...]]) -> list[NDArray[np.float64]]:
    return [torch.cat(list(part)).double().numpy() for part in zip(*parts, strict=True)]


def _unchanged(
    intended: NDArray[np.float64], before: NDArray[np.float64], generator: Generator
) -> dict[str, NDArray[np.bool_]]:
    """Parent -> (n,) where its intended value is the image's own."""
    columns = {parent.name: generator.network.parents.columns(parent.name) for parent in generator.parents}
    return {name: (intended[:, part] == before[:, part]).all(axis=1) for name, part in columns.items()}


def _effects(
    found: NDArray[np.float64],
    intended: NDArray[np.float64],
    rows: dict[str, NDArray[np.bool_]],
    generator: Generator,
) -> dict[str, Any]:
    """Of every parent that has any rows: balanced accuracy and its shares, or the mean absolute error in its unit."""
    return {
        parent.name: _effect(parent, found[rows[parent.name]], intended[rows[parent.name]], generator)
        for parent in generator.parents
        if rows[parent.name].any()
    }


def _effect(
    parent: Parent, found: NDArray[np.float64], wanted: NDArray[np.float64], generator: Generator
) -> dict[str, Any]:
    columns = generator.network.parents.columns(parent.name)
    one, intended = found[:, columns], wanted[:, columns]
    if parent.values is not None:
        return asdict(category_effect(one.argmax(1), intended.argmax(1), parent.values))
    return {"mean_absolute_error": parent.std * number_effect(one[:, 0], intended[:, 0])}
