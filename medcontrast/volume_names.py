"""Names of volume files: the known endings, and what is left of a name without its ending."""

from __future__ import annotations

import re
from pathlib import Path

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
KNOWN_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
"""Endings of the files that can be read; a folder holding one DICOM series can be read too."""


def volume_suffix(path: Path) -> str | None:
    """The known ending of a file name in lower case, or None."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(KNOWN_SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None)


def case_stem(case: str) -> str:
    """What files made of a case are called: its name, with _ for all that is no letter, digit, dot or dash."""
    return re.sub(r"[^\w.\-]+", "_", case)


def output_stem(path: Path) -> str:
    """What files made from a scan are named after.

    "scan.nii.gz" and "scan.seg.nrrd" give "scan", "a.b.nii.gz" gives "a.b", a DICOM folder its own name.
    """
    suffix = volume_suffix(path)
    if suffix is None or path.is_dir():
        return path.resolve().name if path.name in ("", "..") else path.name
    stem = path.name[: -len(suffix)]
    return stem[: -len(".seg")] if suffix == ".nrrd" and stem.lower().endswith(".seg") else stem
