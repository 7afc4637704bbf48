"""Which values a label map holds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def voxels_by_value(label_map: NDArray[Any]) -> dict[int, int]:
    """How many voxels have each value; 0, the background, is left out, so that the bulk of a map need not be sorted."""
    values, counts = np.unique(label_map[label_map != 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
