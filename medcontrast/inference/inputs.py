"""Which scans a command line means, and what their outputs are called; opens no volume."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcontrast.data.beside import (
    CALLED_MASKS,
    DRAWN,
    IMAGE_NAMES,
    LABEL_NAMES,
    channel_of,
    is_own_output,
    masks_beside,
    without_channel,
)
from medcontrast.data.folders import holds_dicom, listed
from medcontrast.data.manifest import Manifest, root_advice
from medcontrast.errors import ManifestError, VolumeError
from medcontrast.say import quoted
from medcontrast.volume import KNOWN_SUFFIXES, is_dicom, output_stem
from medcontrast.volume_names import case_stem, volume_suffix


@dataclass(frozen=True)
class Scan:
    """One scan to predict.

    Attributes:
        name: What its outputs are called, unique within one command.
        images: One file or DICOM folder a channel.
        shown: What the record calls them: as typed, or as the manifest has them.
    """

    name: str
    images: tuple[Path, ...]
    shown: tuple[str, ...]


def find_scans(
    inputs: Sequence[Path], channels: Sequence[str], tell: Callable[[str], None] = lambda sentence: None
) -> list[Scan]:
    """Resolves files and folders to scans, in the order given, each file once.

    A file that is named itself is always taken; in a folder, masks beside scans are left aside.

    Args:
        inputs: Volume files, DICOM files' folder, or folders of either.
        channels: Names of the checkpoint's channels. With several, files CASE_0000, CASE_0001, ... make one scan, or
            files that end in these names: CASE_flair, CASE_t1, ...
        tell: Called with a sentence on what a folder holds and is left aside.

    Raises:
        VolumeError: A path is missing, is no volume, or the channels of a scan do not add up; every fault at once.
    """
    faults: list[str] = []
    called: dict[Path, str] = {}
    for given in inputs:
        for path, stem in _expand(given, channels, faults, tell).items():
            called.setdefault(path, stem)
    groups = [(path,) for path in called] if len(channels) == 1 else _group_channels(list(called), channels, faults)
    if faults:
        raise VolumeError("\n".join(faults))
    stems = [called[group[0]] for group in groups]
    # of one channel nnU-Net's _0000 stands behind every name, or it is none; of a single file nobody can tell
    numbered = len(stems) > 1 and all(stem.endswith("_0000") for stem in stems)
    if len(channels) > 1 or numbered:
        stems = [without_channel(stem, channels) for stem in stems]
    # what is called after its folder already is told apart by the one above
    places = [path if called[path] == output_stem(path) else path.parent for path, *_ in groups]
    names = unique_names(stems, [_folder_name(place) for place in places])
    return [Scan(name, group, tuple(map(str, group))) for name, group in zip(names, groups, strict=True)]


def _folder_name(path: Path) -> str:
    """Name of the folder that a file is in, as typed."""
    return (path.resolve() if ".." in path.parts else path.absolute()).parent.name


def require_same_channels(listed: Sequence[str], wanted: Sequence[str], where: object) -> None:
    """Refuses a manifest whose channels are not those of a checkpoint; one alone may be called anything.

    Args:
        listed: Names of the manifest's channels, in order.
        wanted: Names of the checkpoint's.
        where: The manifest's path, for the sentence.

    Raises:
        ManifestError: Another number of channels, or several with other names or in another order.
    """
    if len(listed) != len(wanted):
        raise ManifestError(
            f"{where}: has {len(listed)} channel(s) ({', '.join(listed)}), but the checkpoint takes {len(wanted)} "
            f"({', '.join(wanted)})."
        )
    if len(wanted) > 1 and list(listed) != list(wanted):
        raise ManifestError(
            f"{where}: its channels are {', '.join(listed)}, but the checkpoint takes {', '.join(wanted)}, in this "
            "order; list each case's images so, or give the channels these names."
        )


def scans_of_split(manifest: Manifest, split: str) -> list[Scan]:
    """The cases of a manifest's split, called by their case names.

    Raises:
        ManifestError: No such split, or image files that are missing; every one at once.
    """
    cases = manifest.split(split)
    missing = [image for case in cases for image in case.images if not image.exists()]
    if missing:
        listed = "".join(f"\n  - {image}" for image in missing[:5]) + ("\n  - ..." if len(missing) > 5 else "")
        raise ManifestError(
            f"{manifest.path}: {len(missing)} image file(s) of the split {split} are not there; "
            f"{root_advice(manifest.raw)}:{listed}"
        )
    stems = [case_stem(case.name) for case in cases]
    names = unique_names(stems, ["" for _ in cases])
    shown = [tuple(_from_root(image, manifest.root) for image in case.images) for case in cases]
    return [Scan(name, case.images, paths) for name, case, paths in zip(names, cases, shown, strict=True)]


def unique_names(stems: Sequence[str], parents: Sequence[str]) -> list[str]:
    """Names that differ even where case does not count: the stem; else parent_stem; else a number after it.

    Args:
        stems: File names without suffix.
        parents: Name of each file's folder; "" for none.
    """
    count = Counter(stem.lower() for stem in stems)
    wanted = [
        f"{parent}_{stem}" if count[stem.lower()] > 1 and parent else stem
        for stem, parent in zip(stems, parents, strict=True)
    ]
    # a stem that is alone keeps its name, whatever the prefixed ones become
    taken = {stem.lower() for stem in stems if count[stem.lower()] == 1}
    names = []
    for stem, name in zip(stems, wanted, strict=True):
        candidate, number = name, 2
        while count[stem.lower()] > 1 and candidate.lower() in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate.lower())
        names.append(candidate)
    return names


def _expand(path: Path, channels: Sequence[str], faults: list[str], tell: Callable[[str], None]) -> dict[Path, str]:
    """Scans of a file or a folder, and what each is called."""
    try:
        if not path.exists():
            faults.append(f"{path}: there is no such file or folder.")
            return {}
        if path.is_file():
            return _of_file(path, faults)
        scans = _without_masks(path, _of_folder(path, faults), channels, tell)
    except VolumeError as error:
        faults.append(str(error))
        return {}
    except OSError as error:
        faults.append(
            f"{error.filename or path}: cannot be read ({error.strerror or error}); give the scans themselves, or "
            "allow reading it."
        )
        return {}
    if len(channels) == 1:
        _refuse_further_channels(path, scans, channels[0], faults)
    return {scan: _name_in(path, scan, alone=len(scans) == 1) for scan in scans}


def _of_file(path: Path, faults: list[str]) -> dict[Path, str]:
    if is_dicom(path):
        faults.append(f"{path}: one DICOM file is not a volume; give the folder of its series.")
    elif not _is_volume(path):
        faults.append(f"{path}: not a volume; expected {', '.join(KNOWN_SUFFIXES)} or a DICOM folder.")
    return {path: output_stem(path)}


def _without_masks(
    folder: Path, found: Sequence[Path], channels: Sequence[str], tell: Callable[[str], None]
) -> list[Path]:
    bare = [scan for scan in found if scan.is_file() and output_stem(scan).lower() in LABEL_NAMES]
    if bare and len(bare) == len(found):
        raise VolumeError(
            f"{folder}: no volume in this folder but masks ({listed(bare, folder)}); name the files themselves to have "
            "them segmented."
        )
    masks = [scan for scan in dict.fromkeys(masks_beside(found, channels)) if scan not in bare]
    for words, files in ((CALLED_MASKS, bare), (DRAWN, masks)):
        if files:
            tell(f"{folder}: {words}: {listed(files, folder)}; name the files themselves to have them segmented.")
    return [scan for scan in found if scan not in (*bare, *masks)]


def _name_in(folder: Path, scan: Path, *, alone: bool) -> str:
    """What a scan of a folder is called: as its file, but by the folder where that says nothing of the case."""
    stem = output_stem(scan)
    bare = without_channel(stem)
    if bare.lower() in IMAGE_NAMES:
        return output_stem(folder) + stem[len(bare) :]
    # scanners number their series: SE1 of one patient is not SE1 of the next
    return f"{output_stem(folder)}_{stem}" if alone and scan.is_dir() and scan != folder else stem


def _refuse_further_channels(folder: Path, scans: Sequence[Path], channel: str, faults: list[str]) -> None:
    """A second channel of a case is no scan for a network of one; more than ten such names number scans."""
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for scan in scans:
        if place := channel_of(output_stem(scan)):
            cases[place[0]][place[1]] = scan
    several = [found for found in cases.values() if {0, 1} <= set(found) and max(found) < 10]
    if several:
        first, second = several[0][0], several[0][1]
        faults.append(
            f"{folder}: shows further channels, such as {second.name} beside {first.name}, but the checkpoint takes "
            f"one ({channel}); give the files of that channel, for example {quoted(folder)}/*_0000"
            f"{volume_suffix(first) or ''}, or name every file where each is a scan of its own."
        )


def _of_folder(path: Path, faults: list[str]) -> list[Path]:
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    lost = [entry for entry in entries if _is_volume(entry) and entry.is_symlink() and not entry.exists()]
    if lost:
        faults.append(f"{lost[0]}: is a link to a file that is not there{_and_more(lost)}; fetch it, or take it away.")
        return []
    scans = [entry for entry in entries if _is_scan(entry)]
    slices = holds_dicom(path)
    if scans and slices:
        faults.append(
            f"{path}: holds DICOM slices beside other volumes, such as {scans[0].name}; give the files themselves, or "
            "move the slices into a folder of their own."
        )
        return []
    if not scans and not slices:
        faults.append(_no_volume(path, entries))
        return []
    return scans or [path]


def _no_volume(folder: Path, entries: Sequence[Path]) -> str:
    fault = f"{folder}: no volume in this folder; expected {', '.join(KNOWN_SUFFIXES)} files or a DICOM series"
    # as in the folders that `data split` takes: images/ and labels/, or one folder a case
    deeper = [entry for entry in entries if entry.is_dir() and any(map(_is_scan, sorted(entry.iterdir())))]
    own = [entry for entry in entries if entry.is_file() and _is_volume(entry) and is_own_output(entry)]
    if own and not deeper:
        return (
            f"{fault}, but {own[0].name}{_and_more(own)} were written by `infer`, whose masks and maps are passed over."
        )
    if not deeper:
        return f"{fault}."
    shown = ", ".join(map(str, deeper[:3])) + (f" and {len(deeper) - 3} more" if len(deeper) > 3 else "")
    return f"{fault}, but volumes lie deeper, in {shown}; give the folder or the files of the scans."


def _and_more(paths: Sequence[Path]) -> str:
    return f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""


def _is_scan(entry: Path) -> bool:
    if entry.is_dir():
        return holds_dicom(entry)
    # a second run on the same folder must not segment the masks of the first
    return _is_volume(entry) and entry.is_file() and not is_own_output(entry)


def _is_volume(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(KNOWN_SUFFIXES) and not name.endswith(".seg.nrrd")


def _group_channels(paths: list[Path], channels: Sequence[str], faults: list[str]) -> list[tuple[Path, ...]]:
    cases: dict[Path, dict[int, Path]] = defaultdict(dict)
    rule = f"the checkpoint takes {len(channels)} channels ({', '.join(channels)})"
    for path in paths:
        place = channel_of(output_stem(path), channels)
        if place is None:
            faults.append(
                f"{path}: {rule}, one file each; name them CASE_0000, CASE_0001, ... or CASE_{channels[0]}, "
                f"CASE_{channels[1]}, ... or use --manifest."
            )
            continue
        case, number = path.parent / place[0], place[1]
        if number in cases[case]:
            faults.append(f"{path}: {cases[case][number].name} is the same channel of the same case; keep one.")
        cases[case][number] = path
    for case, found in cases.items():
        if sorted(found) != list(range(len(channels))):
            names = ", ".join(found[number].name for number in sorted(found))
            faults.append(f"{case}: {rule}, _0000 to _{len(channels) - 1:04d} or by name, but this case has {names}.")
    return [tuple(found[number] for number in sorted(found)) for found in cases.values()]


def _from_root(image: Path, root: Path) -> str:
    return str(image.relative_to(root)) if image.is_relative_to(root) else image.name
