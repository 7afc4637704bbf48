"""Curves and pictures for TensorBoard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


class Curves:
    """Writes into a folder for TensorBoard.

    Args:
        folder: Of one writer at a time: what another writes beside it is not shown any more.
        resumed: The step that training goes on from; what an earlier process wrote of later ones is hidden.
    """

    def __init__(self, folder: Path, *, resumed: int | None = None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=None if resumed is None else resumed + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds one point to each named curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        """Adds a PNG file."""
        self._writer.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flushes everything to disk."""
        self._writer.close()
