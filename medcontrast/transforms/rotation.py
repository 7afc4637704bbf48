"""Turns of space, without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3, 3) that turns about x, then y, then z, by these (..., 3) angles in radians."""
    about_x, about_y, about_z = (_about(axis, angles[..., axis]) for axis in range(3))
    return about_z @ about_y @ about_x


def _about(axis: int, angle: NDArray[np.float64]) -> NDArray[np.float64]:
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn = np.zeros((*angle.shape, 3, 3))
    turn[..., axis, axis] = 1.0
    turn[..., first, first] = turn[..., second, second] = np.cos(angle)
    turn[..., second, first] = np.sin(angle)
    turn[..., first, second] = -turn[..., second, first]
    return turn
