"""From class indices to a finished label map: the largest-component rule and the values of label files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medcontrast.components import keep_largest
from medcontrast.labels import LabelTable
from medcontrast.transforms.volume3d import to_label_values


def finish(indices: NDArray[np.integer], labels: LabelTable, rule: str) -> NDArray[np.uint16]:
    """What is written: class indices (x, y, z) after the rule, as label-file values."""
    return to_label_values(keep_largest(indices, rule), labels)
