"""Turns of space, without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) that turns about x, then y, then z, by these angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
