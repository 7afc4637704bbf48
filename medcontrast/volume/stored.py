"""Voxels as a file holds them, and the arrays made of them, plane by plane to spare memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import VolumeError

_WHOLE_TOLERANCE = 1e-3  # a label file stored with a slope gives 0.99999 for 1


@dataclass(frozen=True, eq=False)
class Stored:
    """Voxels as stored, which mean array * slope + intercept.

    Attributes:
        array: (x, y, z) real numbers of any type.
        slope: 1 where values are stored as they are.
        intercept: 0 where values are stored as they are.
    """

    array: NDArray[Any]
    slope: float = 1.0
    intercept: float = 0.0

    def image(self) -> NDArray[np.float32]:
        """The values as float32, in C order."""
        if not self._scaled:
            return self.array.astype(np.float32, order="C")
        image = np.empty(self.array.shape, dtype=np.float32)
        for index, plane in enumerate(self._planes()):
            image[:, :, index] = plane
        return image

    def label_map(self, path: Path) -> NDArray[np.int32]:
        """The values as int32, in C order.

        Raises:
            VolumeError: A value is no whole number, or beyond int32.
        """
        if self._scaled or self.array.dtype.kind == "f":
            self._require_whole(path)
        label_map = np.empty(self.array.shape, dtype=np.int32)
        lowest, highest = [], []
        for index, plane in enumerate(self._planes()):
            values = np.rint(plane) if plane.dtype.kind == "f" else plane
            lowest.append(values.min())
            highest.append(values.max())
            label_map[:, :, index] = values
        limits, low, high = np.iinfo(np.int32), min(lowest), max(highest)
        if low < limits.min or high > limits.max:
            raise VolumeError(f"{path}: its label values reach from {low:g} to {high:g}, which no label file needs.")
        return label_map

    @property
    def _scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)

    def _planes(self) -> Iterator[NDArray[Any]]:
        """(x, y) for each z, with slope and intercept applied in float64."""
        wide = np.result_type(self.array.dtype, np.float64)
        for index in range(self.array.shape[2]):
            plane = self.array[:, :, index]
            yield plane.astype(wide) * self.slope + self.intercept if self._scaled else plane

    def _require_whole(self, path: Path) -> None:
        count, places = 0, []
        for index, plane in enumerate(self._planes()):
            bad = ~(np.abs(plane - np.rint(plane)) <= _WHOLE_TOLERANCE)  # NaN is bad too
            if bad.any():
                count += int(np.count_nonzero(bad))
                x, y = np.unravel_index(np.argmax(bad), bad.shape)
                places.append(((int(x), int(y), index), plane[x, y]))
        if places:
            first, value = min(places, key=lambda place: place[0])
            raise VolumeError(
                f"{path}: a label file holds whole numbers, but {count} voxels do not, the first with value {value:g} "
                f"at index {first}; if it was resampled, use nearest-neighbour interpolation."
            )
