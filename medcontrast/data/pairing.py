"""Folders of scans: which image and label files belong together, and what lies there and is not taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medcontrast.data.beside import CHANNEL_NAME, DRAWN, LABEL_ENDING, is_own_output, masks_beside, without_channel
from medcontrast.errors import ManifestError
from medcontrast.volume import is_dicom, output_stem
from medcontrast.volume.segments import is_own_export
from medcontrast.volume_names import volume_suffix

_LAYOUTS = (("imagesTr", "labelsTr", "imagesTs"), ("images", "labels", "unlabeled"))
"""Folders of scans, of their labels, and of further scans without labels."""
_TEST_IMAGES, _TEST_LABELS = "imagesTs", "labelsTs"
_EXPECTED = (
    "expected imagesTr/ and labelsTr/, or images/ and labels/, or one folder a case with image.nii.gz and "
    "label.nii.gz in it"
)
_DEEPER = (
    "a case's folder holds one DICOM series and nothing beside it; take out what is not meant, or move the scan up"
)


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
class _Found:
    """What a folder holds.

    Attributes:
        cases: Scans, with their labels.
        orphans: Labels without a scan.
        aside: What else looks like data, and is not taken.
        notes: Further words on what is not taken.
        warnings: Words on what is, and may not be meant to.
        advice: How a label finds its scan in this layout.
    """

    cases: list[SourceCase] = field(default_factory=list)
    orphans: list[Path] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    advice: str = "a label is called what its scan is called, without the channel's _0000"


def find_cases(folder: Path) -> tuple[list[SourceCase], list[str], list[str]]:
    """The cases of a folder in one of the known layouts; opens no volume.

    Beside them words on what was not taken, and on what was and may not be meant to.

    A name counts whatever the case of its letters, and an ending that all labels share (_seg, _label, _mask) does not
    count. Nothing is passed over in silence: a label without a scan is most often a name with a slip in it, and its
    scan would go among the unlabeled ones.

    Raises:
        ManifestError: There are no scans, two are called the same, or a label has no scan.
    """
    try:
        found = _by_layout(folder)
        if not found.cases and not found.orphans:
            raise ManifestError(f"{folder}: no scans found; {_EXPECTED}, but {_held(folder)}.")
    except OSError as error:
        raise ManifestError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error}); allow it, or move it elsewhere."
        ) from None
    notes = [*([f"not taken: {listed(found.aside, folder)}"] if found.aside else []), *found.notes]
    if found.orphans:
        raise ManifestError(_orphaned(found, folder, notes))
    return found.cases, notes, found.warnings


def seen_in_training(count: int, place: str) -> str:
    """Words on test images without labels that are taken."""
    return (
        f"{count} scan(s) of {place} are taken as unlabeled ones, which training sees; take them away if they are to "
        "be scored"
    )


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


def unlisted_scans(folder: Path, cases: Iterable[SourceCase]) -> list[Path]:
    """Scans of imagesTr/ that are of none of these cases."""
    known = {image.resolve() for case in cases for image in case.images}
    try:
        place = _named(_entries(folder), _LAYOUTS[0][0])
        scans = _images(place)[0] if place is not None else []
    except OSError:  # what may not be entered cannot be told
        return []
    return [path for path in scans if (_only_series(path) or path).resolve() not in known]


def _by_layout(folder: Path) -> _Found:
    entries = _entries(folder)
    for images, labels, further in _LAYOUTS:
        place = _named(entries, images)
        if place is not None:
            return _of_folders(entries, place, _named(entries, labels), _named(entries, further))
    return _of_case_folders(entries)


def _of_folders(entries: list[Path], images: Path, labels: Path | None, further: Path | None) -> _Found:
    masks, no_masks = _scans(labels) if labels is not None else ([], [])
    scans, aside, notes = _images(images, masks)
    further, kept = _kept_from_training(further, entries)
    more, no_more, more_notes = _images(further) if further is not None else ([], [], [])
    tested = further is not None and further.name.lower() == _TEST_IMAGES.lower()
    warnings = [seen_in_training(len(more), f"{_TEST_IMAGES}/")] if more and tested else []
    numbered, ending = _reading([output_stem(path) for path in scans or more], [output_stem(path) for path in masks])
    cases, orphans = _pair(_by_case(scans, numbered), _by_stem(masks, ending))
    cases += [SourceCase(name, paths) for name, paths in _by_case(more, numbered).items()]
    others = [path for path in entries if path not in (images, labels, further) and _holds_scans(path)]
    aside = [*aside, *no_masks, *no_more, *others]
    found = _Found(cases, orphans, aside, [*kept, *notes, *more_notes], warnings)
    bare = [path for path in scans if not CHANNEL_NAME.fullmatch(output_stem(path))]
    bases = {_case_name(output_stem(path), numbered=True) for path in scans if path not in bare}
    if bare and not bases.isdisjoint(output_stem(path) for path in orphans):
        found.advice = (
            f"either all scans end in a channel's number such as _0000 or none, but not {listed(bare, images)}"
        )
    return found


def _kept_from_training(further: Path | None, entries: list[Path]) -> tuple[Path | None, list[str]]:
    """No further scans, and words on it, where they are test images with labels of their own."""
    labels = _named(entries, _TEST_LABELS)
    tested = further is not None and further.name.lower() == _TEST_IMAGES.lower()
    if further is None or labels is None or not tested or not _holds_scans(labels):
        return further, []
    return None, [
        f"{further.name}/ has labels of its own in {labels.name}/ and is kept from training; to score its scans, list "
        'them under "test" in the manifest'
    ]


def _of_case_folders(entries: list[Path]) -> _Found:
    found = _Found(advice="a case is a folder with image and label in it")
    for folder in entries:
        if not folder.is_dir():
            found.aside += [folder] if volume_suffix(folder) else []
            continue
        scans, others = _scans(folder)
        image, label = (_only(scans, part) for part in ("image", "label"))
        if image is None and label is None:
            found.aside += [folder] if _holds_scans(folder) else []
            continue
        if image is not None:
            found.cases.append(SourceCase(folder.name, (image,), label))
        elif label is not None:
            found.orphans.append(label)
        found.aside += [path for path in scans if path not in (image, label)]
        found.aside += [path for path in others if path.is_dir() and _holds_scans(path)]
    return found


def _only(scans: list[Path], stem: str) -> Path | None:
    called = [path for path in scans if output_stem(path).lower() == stem]
    if len(called) > 1:
        raise ManifestError(f"{called[0].parent}: {called[0].name} and {called[1].name} are both its {stem}; keep one.")
    return called[0] if called else None


def _reading(images: list[str], labels: list[str]) -> tuple[bool, int]:
    """Whether scans end in a channel's number, and the length of an ending that all labels have in common.

    Names alone do not say it: case_0001 is a case of its own where a label is called so. Under the reading that is
    chosen the most labels have a scan.
    """
    ends = {match.group().lower() if (match := LABEL_ENDING.search(name)) else "" for name in labels}
    endings = (0, len(ends.pop())) if len(ends) == 1 else (0,)
    numbers = (True, False) if images and all(CHANNEL_NAME.fullmatch(name) for name in images) else (False,)

    def matched(reading: tuple[bool, int]) -> int:
        scans = {_case_name(name, reading[0]).lower() for name in images}
        return len(scans & {name[: len(name) - reading[1]].lower() for name in labels})

    return max(((number, ending) for ending in endings for number in numbers), key=matched)


def _case_name(stem: str, numbered: bool) -> str:
    return without_channel(stem) if numbered else stem


def _by_case(scans: list[Path], numbered: bool) -> dict[str, tuple[Path, ...]]:
    cases: dict[str, tuple[Path, ...]] = {}
    for stem, path in sorted(_by_stem(scans).items()):
        name = _case_name(stem, numbered)
        cases[name] = (*cases.get(name, ()), _only_series(path) or path)
    return cases


def _by_stem(paths: Iterable[Path], ending: int = 0) -> dict[str, Path]:
    out: dict[str, Path] = {}
    for path in paths:
        stem = output_stem(path)
        name = stem[: len(stem) - ending]
        if name in out:
            both = f"{out[name].name} and {path.name}"
            raise ManifestError(f"{path.parent}: two files are called {name}: {both}; keep one.")
        out[name] = path
    return out


def _pair(scans: dict[str, tuple[Path, ...]], labels: dict[str, Path]) -> tuple[list[SourceCase], list[Path]]:
    """Cases, and the labels that no scan is called like; the case of letters counts only where it must."""
    exact = {name: labels[name] for name in scans if name in labels}
    rest = {name.lower(): path for name, path in labels.items() if name not in exact}
    cases = []
    for name, images in scans.items():
        label = exact[name] if name in exact else rest.pop(name.lower(), None)
        cases.append(SourceCase(name, images, label))
    taken = {case.label for case in cases}
    return cases, [path for path in labels.values() if path not in taken]


def _images(folder: Path, labels: Sequence[Path] = ()) -> tuple[list[Path], list[Path], list[str]]:
    """Scans of a folder, what else lies there, and words on what is no scan; a scan may be called as its label is."""
    found, others = _scans(folder)
    series = {path for path in others if _only_series(path)}
    others = [path for path in others if path not in series]
    labeled = {output_stem(path).lower() for path in labels}
    own = {path for path in found if is_own_output(path)}
    drawn = {path for path in masks_beside([*found, *series]) if output_stem(path).lower() not in labeled} - own
    deep = [path for path in others if path.is_dir() and _holds_scans(path)]
    said = (("not taken, as `infer` wrote them", sorted(own)), (DRAWN, sorted(drawn)), (_DEEPER, deep))
    notes = [f"{words}: {listed(paths, folder.parent)}" for words, paths in said if paths]
    return sorted({*found, *series} - own - drawn), others, notes


def _scans(folder: Path) -> tuple[list[Path], list[Path]]:
    """Volumes and DICOM folders; and what lies beside them, but for files that belong to one of them."""
    entries = _entries(folder)
    scans = [path for path in entries if (holds_dicom(path) if path.is_dir() else volume_suffix(path) is not None)]
    masks = {output_stem(path) for path in scans if not _is_export(path)}
    # an export for 3D Slicer stands beside the mask it was made from; one that was saved since may hold corrections
    exports = [path for path in scans if _is_export(path) and output_stem(path) in masks]
    scans = [path for path in scans if path not in exports or not is_own_export(path)]
    # x.raw of x.mhd, x.json of x.nii.gz
    stems, taken = {output_stem(path) for path in scans}, set(scans)
    parts = {path for path in entries if not volume_suffix(path) and not stems.isdisjoint(_beginnings(path.name))}
    return scans, [path for path in entries if path not in taken and path not in parts]


def _only_series(folder: Path) -> Path | None:
    """The folder of slices in a folder that holds nothing else, such as PATIENT/STUDY/SERIES; else None."""
    entries = _entries(folder) if folder.is_dir() else []
    if len(entries) != 1 or not entries[0].is_dir():
        return None
    return entries[0] if holds_dicom(entries[0]) else _only_series(entries[0])


def _is_export(path: Path) -> bool:
    return path.name.lower().endswith(".seg.nrrd")


def _beginnings(name: str) -> set[str]:
    return {name[:place] for place, letter in enumerate(name) if letter == "."}


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _named(entries: list[Path], name: str) -> Path | None:
    """The folder of that name, else of that name in other letters, as systems that keep no case would find it."""
    folders = [path for path in entries if path.name.lower() == name.lower() and path.is_dir()]
    return next((path for path in folders if path.name == name), folders[0] if folders else None)


def _holds_scans(path: Path, deep: int = 2) -> bool:
    """Whether it is a volume, or such lie in it or in its folders; what may not be entered holds none that count."""
    if not path.is_dir():
        return volume_suffix(path) is not None
    try:
        return deep > 0 and (holds_dicom(path) or any(_holds_scans(entry, deep - 1) for entry in _entries(path)))
    except OSError:
        return False


def _held(folder: Path) -> str:
    entries = _entries(folder)
    if not entries:
        return "it is empty"
    inside = next((path for path in entries if path.is_dir() and _entries(path)), None)
    held = f"it holds {listed(entries, folder)}"
    if inside is not None:
        held += f", and {inside.name}/ holds {listed(_entries(inside), inside)}"
    loose = any(volume_suffix(path) for path in entries)
    return f"{held}; move the scans into images/ and their labels into labels/" if loose else held


def _orphaned(found: _Found, folder: Path, notes: list[str]) -> str:
    count = len(found.orphans)
    alone = [case.images[0] for case in found.cases if case.label is None]
    parts = [
        f"{count} label file{' matches' if count == 1 else 's match'} no scan: {listed(found.orphans, folder)}",
        *([f"scans without a label: {listed(alone, folder)}"] if alone else []),
        *notes,
        f"{found.advice}: rename, or take the label away",
    ]
    return f"{folder}: {'; '.join(parts)}."
