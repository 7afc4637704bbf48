"""The views of a batch: one geometry, two intensities, made on the device from draws a row.

Letters: b rows, c channels, x, y, z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medcontrast.settings.data import AugmentSettings
from medcontrast.transforms.geometry import apply_geometry, draw_geometry
from medcontrast.transforms.intensity import change_intensity


class Views:
    """Makes the weak and the strong view of every row.

    Every number is a function of (seed, step, row, what for): not of the other rows, of the number of processes
    or loader workers, or of the device. With all settings 0 both views are the image itself, bit for bit.

    Args:
        settings: Geometry and intensities.
        patch: Sides of a view, the middle of a larger image; by default the image's own.
    """

    def __init__(self, settings: AugmentSettings, patch: Sequence[int] | None = None) -> None:
        self.settings, self.patch = settings, patch

    @torch.no_grad()
    def __call__(
        self,
        image: Tensor,
        label: Tensor | None,
        *,
        seed: int,
        step: int,
        rows: Tensor | Sequence[int],
        spacing_mm: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Draws and applies.

        Args:
            image: (b, c, x, y, z) float32.
            label: (b, 1, x, y, z) int64 class indices, -1 where ignored; or None.
            seed: Seed of the run.
            step: Optimiser step.
            rows: (b,) global row numbers.
            spacing_mm: (b, 3) voxel sizes, so that rotations are rigid; None means cubic voxels.

        Returns:
            {"weak", "strong"}, each (b, c, *patch), and the label in the same geometry. From outside the image
            comes 0, and background; see `apply_geometry`.
        """
        numbers = [int(row) for row in rows]
        geometries = [draw_geometry(self.settings.spatial, seed, step, row) for row in numbers]
        # full float32 even where training runs under autocast: labels and noise must not depend on the precision
        with torch.autocast(image.device.type, enabled=False):
            image, label = apply_geometry(image, label, geometries, spacing_mm, self.patch)
            views = {
                name: change_intensity(image, intensity, seed=seed, step=step, rows=numbers, stream=name)
                for name, intensity in (("weak", self.settings.weak), ("strong", self.settings.strong))
            }
        return views, label
