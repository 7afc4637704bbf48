"""What lies in a folder: scans, series, and what belongs to them; opens no volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medcontrast.volume import is_dicom, output_stem
from medcontrast.volume.segments import is_own_export
from medcontrast.volume_names import volume_suffix


def entries_of(folder: Path) -> list[Path]:
    """Its files and folders, without hidden ones."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def listed(paths: Sequence[Path], folder: Path, most: int = 3) -> str:
    """The first of them from the folder on, and how many there are where that is more."""
    places = [path.relative_to(folder) if path.is_relative_to(folder) else path for path in paths]
    names = [f"{place.as_posix()}{'/' if path.is_dir() else ''}" for place, path in zip(places, paths, strict=True)]
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, ... ({len(names)} in all)"


def holds_dicom(folder: Path) -> bool:
    """Whether slices lie in the folder itself."""
    # a DICOMDIR begins as slices do, and lists those of the folders beside it
    files = (path for path in sorted(folder.iterdir()) if path.name.upper() != "DICOMDIR")
    return any(is_dicom(path) for path in files if volume_suffix(path) is None and path.is_file())


def scans_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Volumes and DICOM folders; and what lies beside them, but for files that belong to one of them."""
    entries = entries_of(folder)
    scans = [path for path in entries if (holds_dicom(path) if path.is_dir() else volume_suffix(path) is not None)]
    masks = {output_stem(path) for path in scans if not _is_export(path)}
    # an export for 3D Slicer stands beside the mask it was made from; one that was saved since may hold corrections
    exports = [path for path in scans if _is_export(path) and output_stem(path) in masks]
    scans = [path for path in scans if path not in exports or not is_own_export(path)]
    # x.raw of x.mhd, x.json of x.nii.gz
    stems, taken = {output_stem(path) for path in scans}, set(scans)
    parts = {path for path in entries if not volume_suffix(path) and not stems.isdisjoint(_beginnings(path.name))}
    return scans, [path for path in entries if path not in taken and path not in parts]


def only_series(folder: Path) -> Path | None:
    """The folder of slices in a folder that holds nothing else, such as PATIENT/STUDY/SERIES; else None."""
    entries = entries_of(folder) if folder.is_dir() else []
    if len(entries) != 1 or not entries[0].is_dir():
        return None
    return entries[0] if holds_dicom(entries[0]) else only_series(entries[0])


def _is_export(path: Path) -> bool:
    return path.name.lower().endswith(".seg.nrrd")


def _beginnings(name: str) -> set[str]:
    return {name[:place] for place, letter in enumerate(name) if letter == "."}


def named(entries: list[Path], name: str) -> Path | None:
    """The folder of that name, else of that name in other letters, as systems that keep no case would find it."""
    folders = [path for path in entries if path.name.lower() == name.lower() and path.is_dir()]
    return next((path for path in folders if path.name == name), folders[0] if folders else None)


def holds_scans(path: Path, deep: int = 2) -> bool:
    """Whether it is a volume, or such lie in it or in its folders; what may not be entered holds none that count."""
    if not path.is_dir():
        return volume_suffix(path) is not None
    try:
        return deep > 0 and (holds_dicom(path) or any(holds_scans(entry, deep - 1) for entry in entries_of(path)))
    except OSError:
        return False
