"""From class indices to a finished label map: the largest-component rule and the values of label files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.components import largest_component
from medcontrast.labels import LabelTable
from medcontrast.transforms.volume3d import to_label_values

RULES = ("none", "each", "joint")


def keep_largest(label_map: NDArray[Any], rule: str) -> NDArray[Any]:
    """Sets everything outside the largest connected component to background.

    Args:
        label_map: (x, y, z) whole numbers, 0 is background.
        rule: "none" changes nothing; "each" works label by label; "joint" on all labels joined.
    """
    if rule not in RULES:
        raise ValueError(f"the rule is one of {', '.join(RULES)}, but got {rule!r}")
    return label_map if rule == "none" else largest_component(label_map, joined=rule == "joint")


def finish(indices: NDArray[np.integer], labels: LabelTable, rule: str) -> NDArray[np.uint16]:
    """What is written: class indices (x, y, z) after the rule, as label-file values."""
    return to_label_values(keep_largest(indices, rule), labels)
