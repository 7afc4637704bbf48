"""Validation while training: sliding window over every validation case, Dice on the prepared grid."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medcontrast.data.manifest import Manifest
from medcontrast.data.prepared import PreparedCases
from medcontrast.inference.predict import naming, predict_case
from medcontrast.metrics.overlap import dice
from medcontrast.networks.modes import evaluating
from medcontrast.render import OverlayRow, overlay_grid_png
from medcontrast.settings import Recipe

_ADVICE = (
    "go on without validation (`--set train.validate_every=null`), or train anew with train.precision 32-true or a "
    "lower train.optimizer.lr"
)


@dataclass(frozen=True)
class ValidationReport:
    """What one validation found.

    Attributes:
        mean_dice: Over cases and labels; chooses `best`.
        by_target: Mean Dice of every label and region, by name.
        picture: PNG of the worst case.
    """

    mean_dice: float
    by_target: dict[str, float]
    picture: Path


class Validator:
    """Scores the inference network on the validation cases, which are read as often as `data.cache` asks for.

    The figures are those of the prepared grid, without largest component, and choose a checkpoint; the score to report
    comes from `medcontrast evaluate`, on the scan's own grid.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        manifest: Manifest,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.folder, self.recipe, self.device, self.autocast = folder, recipe, device, autocast
        self.cases = PreparedCases(manifest.validation, recipe.data, manifest.labels, read_labels=True)
        self.labels = manifest.labels
        self.names = [case.name for case in manifest.validation]

    def open(self) -> None:
        """Reads every case once, so that one that cannot be used is known before the first validation.

        Raises:
            VolumeError: A scan or label that cannot be used.
        """
        for _ in self.cases:
            pass

    @torch.no_grad()
    def __call__(self, network: nn.Module, step: int) -> ValidationReport:
        """Predicts and scores every case; leaves the network in the mode it was in.

        Raises:
            NonFiniteOutputError: The network says NaN or infinity of a case.
        """
        scores: dict[str, list[float]] = {name: [] for name in self.labels.targets}
        worst: tuple[float, OverlayRow] | None = None
        for index in range(len(self.cases)):
            case = self.cases[index]
            assert case.label is not None
            with evaluating(network), self.autocast(), naming(f"Validation case {case.name}", _ADVICE):
                prediction = predict_case(
                    network,
                    torch.from_numpy(case.image),
                    patch=self.recipe.data.patch,
                    settings=self.recipe.inference,
                    device=self.device,
                    flip_axes=self.recipe.augment.spatial.flip_axes,
                ).numpy()
            reference = case.label[0]
            prediction = np.where(reference < 0, 0, prediction)
            found = {
                name: self._dice(prediction, reference, values, case.lost)
                for name, values in self.labels.targets.items()
            }
            for name, value in found.items():
                scores[name].append(value)
            mean = float(np.mean([found[label.name] for label in self.labels.labels]))
            if worst is None or mean < worst[0]:
                shown = np.maximum(reference, 0)
                worst = (
                    mean,
                    OverlayRow(case.image[0], shown, prediction, case.spacing_mm, f"{case.name}: Dice {mean:.3f}"),
                )
        by_target = {name: float(np.mean(values)) for name, values in scores.items()}
        mean_dice = float(np.mean([by_target[label.name] for label in self.labels.labels]))
        assert worst is not None
        return ValidationReport(mean_dice, by_target, self._picture(worst[1], step))

    def _dice(
        self, prediction: np.ndarray, reference: np.ndarray, values: tuple[int, ...], lost: tuple[str, ...]
    ) -> float:
        """0 where the reference had the target until it was resampled: not finding it is no agreement."""
        predicted, there = self._masks(prediction, reference, values)
        gone = any(label.name in lost for label in self.labels.labels if label.value in values)
        return 0.0 if gone and not there.any() else dice(predicted, there)

    def _masks(
        self, prediction: np.ndarray, reference: np.ndarray, values: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        indices = [self.labels.values.index(value) for value in values]
        return np.isin(prediction, indices), np.isin(reference, indices)

    def _picture(self, row: OverlayRow, step: int) -> Path:
        path = self.folder / "overlays" / f"step_{step:06d}.png"
        colors = {index + 1: label.color for index, label in enumerate(self.labels.labels)}
        names = {index + 1: label.name for index, label in enumerate(self.labels.labels)}
        overlay_grid_png(path, [row], colors=colors, names=names, title=f"Worst validation case at step {step}")
        return path
