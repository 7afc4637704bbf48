"""Cases as a folder on disk shows them, before they are split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class SourceCase:
    """Files of one case.

    Attributes:
        name: Case name.
        images: One file (or DICOM folder) a channel.
        label: The label file, or None.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        cases: Scans, with their labels.
        orphans: Labels without a scan.
        aside: What else looks like data, and is not taken.
        notes: Further words on what is not taken.
        warnings: Words on what is, and may not be meant to.
        advice: How a label finds its scan in this layout.
        channels: Names of the channels in each case's files, where the files tell them.
    """

    cases: list[SourceCase] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    advice: str = "a label is called what its scan is called, without the channel's _0000"
    channels: tuple[str, ...] = ()
