"""Masks and maps that lie beside scans in one folder and are no scans; told by names alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from medcontrast.volume_names import output_stem

CHANNEL_NAME = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
LABEL_ENDING = re.compile(r"[_.\- ](seg|segmentation|labels?|mask)$", re.IGNORECASE)
DRAWN = "not taken, as their names say masks of the scans beside them"
"""What is said of masks that `masks_beside` finds."""
_OUTPUT_ENDINGS = ("_seg", "_prob", "_entropy")


def is_own_output(path: Path) -> bool:
    """Whether it is a mask or a map that `infer` wrote: its record lies beside it."""
    stem = output_stem(path)
    ending = next((ending for ending in _OUTPUT_ENDINGS if stem.endswith(ending)), None)
    return ending is not None and (path.parent / f"{stem.removesuffix(ending)}_seg.json").exists()


def masks_beside(scans: Sequence[Path]) -> list[Path]:
    """Those of one folder that are called X_seg, X_label, X_mask or so where another is called X, or X_0000."""
    names = [output_stem(path) for path in scans]
    cases = {case for name in names for case in (name.lower(), without_channel(name).lower())}
    found = [(path, LABEL_ENDING.search(name)) for path, name in zip(scans, names, strict=True)]
    return [path for path, end in found if end and end.string[: end.start()].lower() in cases]


def without_channel(stem: str) -> str:
    """The name of a case without the number of a channel behind it, as nnU-Net writes it."""
    match = CHANNEL_NAME.fullmatch(stem)
    return match["case"] if match else stem
