"""What files of one folder are to each other: channels of a scan, its mask, maps of it; told by names alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from medcontrast.volume_names import output_stem

CHANNEL_NAME = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
LABEL_ENDING = re.compile(r"[_.\- ](seg|segmentation|labels?|mask|pred|prediction)$", re.IGNORECASE)
DRAWN = "not taken, as their names say masks of the scans beside them"
"""What is said of masks that `masks_beside` finds."""
CALLED_MASKS = "not taken, as their names say masks"
"""What is said of files that are called as masks and nothing else."""
IMAGE_NAMES = ("image", "imaging")
LABEL_NAMES = ("label", "labels", "seg", "segmentation", "mask")
"""What the scan and the label in the folder of a case are called, best first."""
_OUTPUT_ENDINGS = ("_seg", "_prob", "_entropy")


def is_own_output(path: Path) -> bool:
    """Whether it is a mask or a map that `infer` wrote: its record lies beside it."""
    stem = output_stem(path)
    ending = next((ending for ending in _OUTPUT_ENDINGS if stem.endswith(ending)), None)
    return ending is not None and (path.parent / f"{stem.removesuffix(ending)}_seg.json").exists()


def masks_beside(scans: Sequence[Path], channels: Sequence[str] = ()) -> list[Path]:
    """Those of one folder that are called X_seg, X_label, X_mask or so where another is called X, or is a channel of X.

    Args:
        scans: Files of one folder.
        channels: Names of channels, for `channel_of`.
    """
    names = [output_stem(path) for path in scans]
    placed = [channel_of(name, channels) for name in names]
    cases = {name.lower() for name in (*names, *(place[0] for place in placed if place))}
    found = [(path, LABEL_ENDING.search(name)) for path, name in zip(scans, names, strict=True)]
    return [path for path, end in found if end and end.string[: end.start()].lower() in cases]


def channel_of(stem: str, channels: Sequence[str] = ()) -> tuple[str, int] | None:
    """Case and channel of a file called CASE_0001, as nnU-Net writes it, or CASE_NAME; None where it says no channel.

    Args:
        stem: Its name without suffix.
        channels: Names of channels in order; letters count whatever their case.
    """
    if match := CHANNEL_NAME.fullmatch(stem):
        return match["case"], int(match["channel"])
    for number, name in sorted(enumerate(channels), key=lambda each: -len(each[1])):  # ce_t1 ends in t1 too
        if match := re.fullmatch(rf"(?P<case>.+)[_.\- ]{re.escape(name)}", stem, re.IGNORECASE):
            return match["case"], number
    return None


def without_channel(stem: str, channels: Sequence[str] = ()) -> str:
    """The name of a case without what `channel_of` finds behind it."""
    place = channel_of(stem, channels)
    return place[0] if place else stem
