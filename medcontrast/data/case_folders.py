"""Data sets with one folder a case: an image and a label in it, or one file a channel called as the folder is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcontrast.data.beside import IMAGE_NAMES, LABEL_ENDING, LABEL_NAMES, is_own_output
from medcontrast.data.folders import holds_scans, listed, scans_in
from medcontrast.data.found import Found, SourceCase
from medcontrast.errors import ManifestError
from medcontrast.volume_names import output_stem, volume_suffix

_IMAGES = (*IMAGE_NAMES, "")
"""The last is called as its folder alone."""
_ADVICE = "a case is a folder with image and label in it, or CASE/ with CASE_t1 (or other channels) and CASE_seg"


@dataclass(frozen=True)
class _Folder:
    """A case's folder.

    Attributes:
        path: Where it is.
        scans: Its volumes.
        others: What else lies in it.
        image: Its only scan, or None.
        label: Its label file, or None.
        channels: Names of what may be its channels, sorted, and the files that are called so.
    """

    path: Path
    scans: tuple[Path, ...]
    others: tuple[Path, ...]
    image: Path | None
    label: Path | None
    channels: dict[str, list[Path]]


def cases_in_folders(entries: Sequence[Path]) -> Found:
    """The cases of a data set's folders: CASE/{image,label}, or CASE/{CASE_flair,CASE_t1,CASE_seg}.

    Where no folder has an image, and one has a label, the other files whose names begin with their folder's are
    channels, in the order of their names.

    Args:
        entries: What the data set's folder holds.

    Raises:
        ManifestError: Two files of a case are called the same, or cases have unlike channels.
    """
    found = Found(advice=_ADVICE, aside=[path for path in entries if not path.is_dir() and volume_suffix(path)])
    folders = [_look(path) for path in entries if path.is_dir()]
    channels: dict[Path, dict[str, Path]] = {}
    if not any(folder.image for folder in folders) and any(folder.label and folder.channels for folder in folders):
        for folder in folders:
            if folder.channels:  # only now is a name that two files have a fault
                channels[folder.path] = {part: _one(part, paths) for part, paths in folder.channels.items()}
        found.channels = _agreed(channels)
    for folder in folders:
        images = tuple(channels.get(folder.path, {}).values()) or ((folder.image,) if folder.image else ())
        if images:
            found.cases.append(SourceCase(folder.path.name, images, folder.label))
        elif folder.label is not None:
            found.orphans.append(folder.label)
        elif holds_scans(folder.path):
            found.aside.append(folder.path)
            continue
        found.aside += [path for path in folder.scans if path not in (*images, folder.label)]
        found.aside += [path for path in folder.others if path.is_dir() and holds_scans(path)]
    found.aside.sort()
    return found


def _look(folder: Path) -> _Folder:
    scans, others = scans_in(folder)
    parts: dict[str, list[Path]] = {}
    for path in scans:
        if not is_own_output(path):
            parts.setdefault(part_of(path, folder), []).append(path)
    label = _first(parts, LABEL_NAMES)
    channels = {
        part: paths
        for part, paths in sorted(parts.items())
        if part not in (*LABEL_NAMES, *_IMAGES) and not LABEL_ENDING.search(part) and _begins(paths[0], folder)
    }
    return _Folder(folder, tuple(scans), tuple(others), _first(parts, _IMAGES), label, channels)


def _begins(path: Path, folder: Path) -> bool:
    """Whether a file is called as its folder, or so and further behind one of these marks."""
    stem, name = output_stem(path).lower(), folder.name.lower()
    return stem.startswith(name) and stem[len(name) :][:1] in ("", "_", "-", ".", " ")


def part_of(path: Path, folder: Path) -> str:
    """The name of a file in small letters, without its folder's where it begins so."""
    stem = output_stem(path).lower()
    return stem[len(folder.name) + 1 :] if _begins(path, folder) else stem


def _first(parts: Mapping[str, list[Path]], names: Sequence[str]) -> Path | None:
    return next((_one(name, parts[name]) for name in names if name in parts), None)


def _one(part: str, paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        first, second = paths[:2]
        raise ManifestError(f"{first.parent}: {first.name} and {second.name} are both its {part or 'scan'}; keep one.")
    return paths[0]


def _agreed(channels: Mapping[Path, Mapping[str, Path]]) -> tuple[str, ...]:
    """The channels that all folders have."""
    usual = Counter(map(tuple, channels.values())).most_common(1)[0][0]
    odd = {folder: files for folder, files in channels.items() if tuple(files) != usual}
    if odd:
        folder, files = next(iter(odd.items()))
        raise ManifestError(
            f"{folder.parent}: {len(odd)} of {len(channels)} cases have other channels than {', '.join(usual)}, such "
            f"as {listed(list(files.values()), folder.parent)}; add what is missing, or take away what is no channel."
        )
    return usual
