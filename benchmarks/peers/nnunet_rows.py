"""Training rows with nnU-Net's kinds of augmentation; every number is a function of (seed, step, row).

Paper: Isensee et al. 2021, supplement; ranges and probabilities are those of nnU-Net 2.8.1's default 3D trainer.
Deviation: the geometry samples the image linearly, not by cubic splines; blur, noise and low resolution are MONAI's.
Letters: c channels, x, y, z voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandSimulateLowResolution,
)
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

FOREGROUND_SHARE = 0.33
_TURN, _SCALES, _GEOMETRY_PROBABILITY = math.radians(30.0), (0.7, 1.4), 0.2


class Rows:
    """Batches of patches from labeled scans.

    Args:
        images: (c, x, y, z) float32, normalised, at the plan's spacing.
        labels: (x, y, z) int64 class indices.
        patch: Voxels of a row.
        seed: Seed of the run.
        mirror_axes: Axes along which a row may be mirrored.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        labels: Sequence[Tensor],
        patch: Sequence[int],
        seed: int,
        mirror_axes: Sequence[int] = (0, 1, 2),
    ) -> None:
        self.images, self.labels, self.patch, self.seed = images, labels, np.asarray(patch), seed
        self.mirror_axes = mirror_axes
        # per class: where it is, so that a row can be centred on it
        self.places = [
            {value: np.argwhere(label.numpy() == value) for value in torch.unique(label).tolist() if value > 0}
            for label in labels
        ]
        self.intensity = Compose(
            [
                RandGaussianNoise(prob=0.1, mean=0.0, std=0.1),  # its "variance" is drawn and used as a deviation
                RandGaussianSmooth(prob=0.1, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)),
                RandScaleIntensity(factors=0.25, prob=0.15),
                RandScaleIntensityFixedMean(prob=0.15, factors=0.25, preserve_range=True),
                RandSimulateLowResolution(prob=0.125, zoom_range=(0.5, 1.0)),
                RandAdjustContrast(prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
                RandAdjustContrast(prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            ]
        )

    def batch(self, step: int, rows: int) -> tuple[Tensor, Tensor]:
        """(rows, c, x, y, z) images and (rows, 1, x, y, z) labels; the last third of the rows holds foreground."""
        first_forced = round(rows * (1 - FOREGROUND_SHARE))
        made = [self.row(step, row, foreground=row >= first_forced) for row in range(rows)]
        return torch.stack([image for image, _ in made]), torch.stack([label for _, label in made])

    def row(self, step: int, row: int, *, foreground: bool) -> tuple[Tensor, Tensor]:
        """One patch and its label.

        Args:
            step: Optimiser step.
            row: Number within the step.
            foreground: Centre it on a voxel of a class that the scan has.
        """
        random = np.random.default_rng([self.seed, step, row])
        number = int(random.integers(len(self.images)))
        image, label = self.images[number], self.labels[number]
        centre = self._centre(np.asarray(label.shape), number if foreground else None, random)
        image, label = sample(image, label, self.patch, centre, draw_matrix(random))
        axes = [axis + 1 for axis in self.mirror_axes if random.random() < 0.5]
        self.intensity.set_random_state(seed=int(random.integers(2**31)))
        image = convert_to_tensor(self.intensity(image), dtype=torch.float32)
        return image.flip(axes), label.flip(axes)

    def _centre(self, shape: NDArray[np.int_], case: int | None, random: np.random.Generator) -> NDArray[np.float64]:
        """Of a patch that lies in the scan where it fits, and around it where it does not."""
        spare = shape - self.patch
        low = np.where(spare < 0, spare // 2, 0)
        high = np.where(spare < 0, low, spare)
        start = random.integers(low, high + 1)
        if case is not None and self.places[case]:
            places = self.places[case][int(random.choice(sorted(self.places[case])))]
            start = np.clip(places[random.integers(len(places))] - self.patch // 2, low, high)
        return start + (self.patch - 1) / 2


def draw_matrix(random: np.random.Generator) -> NDArray[np.float64]:
    """(3, 3) from a patch's voxels to the scan's: turned by up to 30 degrees about each axis, scaled by 0.7 to 1.4."""
    matrix = np.eye(3)
    turns, turned = random.uniform(-_TURN, _TURN, 3), random.random() < _GEOMETRY_PROBABILITY
    scale, scaled = random.uniform(*_SCALES), random.random() < _GEOMETRY_PROBABILITY
    if turned:
        for axis, turn in enumerate(turns):
            first, second = (other for other in range(3) if other != axis)
            plane = np.eye(3)
            plane[[first, second], [first, second]] = math.cos(turn)
            plane[first, second], plane[second, first] = -math.sin(turn), math.sin(turn)
            matrix = matrix @ plane
    return matrix * scale if scaled else matrix


def sample(
    image: Tensor, label: Tensor, patch: NDArray[np.int_], centre: NDArray[np.float64], matrix: NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """The patch around a point of the scan; 0 and background from outside it.

    Args:
        image: (c, x, y, z).
        label: (x, y, z).
        patch: Voxels of the result.
        centre: (3,) in the scan's voxels.
        matrix: (3, 3) from the patch's voxels, about its centre, to the scan's.

    Returns:
        (c, *patch) float32 and (1, *patch) int64.
    """
    axes = [np.arange(edge) - (edge - 1) / 2 for edge in patch]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    places = centre + offsets @ matrix.T
    unit = 2 * places / np.maximum(np.asarray(label.shape) - 1, 1) - 1
    grid = torch.as_tensor(unit[..., ::-1].copy(), dtype=torch.float32)[None]
    found = torch.nn.functional.grid_sample(image[None], grid, mode="bilinear", align_corners=True)[0]
    classes = torch.nn.functional.grid_sample(label[None, None].float(), grid, mode="nearest", align_corners=True)[0]
    return found, classes.round().long()
