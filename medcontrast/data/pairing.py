"""Folders of scans: which image and label files belong together, and what lies there and is not taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from medcontrast.data.beside import CHANNEL_NAME, DRAWN, LABEL_ENDING, is_own_output, masks_beside, without_channel
from medcontrast.data.case_folders import cases_in_folders
from medcontrast.data.folders import entries_of, holds_scans, listed, named, only_series, scans_in
from medcontrast.data.found import Found, SourceCase
from medcontrast.errors import ManifestError
from medcontrast.volume_names import output_stem, volume_suffix

_LAYOUTS = (("imagesTr", "labelsTr", "imagesTs"), ("images", "labels", "unlabeled"))
"""Folders of scans, of their labels, and of further scans without labels."""
_TEST_IMAGES, _TEST_LABELS = "imagesTs", "labelsTs"
_EXPECTED = (
    "expected imagesTr/ and labelsTr/, or images/ and labels/, or one folder a case with image.nii.gz and "
    "label.nii.gz in it (or CASE_flair.nii.gz, CASE_t1.nii.gz and CASE_seg.nii.gz)"
)
_DEEPER = (
    "a case's folder holds one DICOM series and nothing beside it; take out what is not meant, or move the scan up"
)


def find_cases(folder: Path) -> Found:
    """The cases of a folder in one of the known layouts; opens no volume.

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
    if found.aside:
        found.notes.insert(0, f"not taken: {listed(found.aside, folder)}")
    if found.orphans:
        raise ManifestError(_orphaned(found, folder))
    return found


def seen_in_training(count: int, place: str) -> str:
    """Words on test images without labels that are taken."""
    return (
        f"{count} scan(s) of {place} are taken as unlabeled ones, which training sees; take them away if they are to "
        "be scored"
    )


def unlisted_scans(folder: Path, cases: Iterable[SourceCase]) -> list[Path]:
    """Scans of imagesTr/ that are of none of these cases."""
    known = {image.resolve() for case in cases for image in case.images}
    try:
        place = named(entries_of(folder), _LAYOUTS[0][0])
        scans = _images(place)[0] if place is not None else []
    except OSError:  # what may not be entered cannot be told
        return []
    return [path for path in scans if (only_series(path) or path).resolve() not in known]


def _by_layout(folder: Path) -> Found:
    entries = entries_of(folder)
    for images, labels, further in _LAYOUTS:
        place = named(entries, images)
        if place is not None:
            return _of_folders(entries, place, named(entries, labels), named(entries, further))
    return cases_in_folders(entries)


def _of_folders(entries: list[Path], images: Path, labels: Path | None, further: Path | None) -> Found:
    masks, no_masks = scans_in(labels) if labels is not None else ([], [])
    scans, aside, notes = _images(images, masks)
    further, kept = _kept_from_training(further, entries)
    more, no_more, more_notes = _images(further) if further is not None else ([], [], [])
    tested = further is not None and further.name.lower() == _TEST_IMAGES.lower()
    warnings = [seen_in_training(len(more), f"{_TEST_IMAGES}/")] if more and tested else []
    numbered, ending = _reading([output_stem(path) for path in scans or more], [output_stem(path) for path in masks])
    cases, orphans = _pair(_by_case(scans, numbered), _by_stem(masks, ending))
    cases += [SourceCase(name, paths) for name, paths in _by_case(more, numbered).items()]
    others = [path for path in entries if path not in (images, labels, further) and holds_scans(path)]
    aside = [*aside, *no_masks, *no_more, *others]
    found = Found(cases, orphans, aside, [*kept, *notes, *more_notes], warnings)
    bare = [path for path in scans if not CHANNEL_NAME.fullmatch(output_stem(path))]
    bases = {_case_name(output_stem(path), numbered=True) for path in scans if path not in bare}
    if bare and not bases.isdisjoint(output_stem(path) for path in orphans):
        found.advice = (
            f"either all scans end in a channel's number such as _0000 or none, but not {listed(bare, images)}"
        )
    return found


def _kept_from_training(further: Path | None, entries: list[Path]) -> tuple[Path | None, list[str]]:
    """No further scans, and words on it, where they are test images with labels of their own."""
    labels = named(entries, _TEST_LABELS)
    tested = further is not None and further.name.lower() == _TEST_IMAGES.lower()
    if further is None or labels is None or not tested or not holds_scans(labels):
        return further, []
    return None, [
        f"{further.name}/ has labels of its own in {labels.name}/ and is kept from training; to score its scans, list "
        'them under "test" in the manifest'
    ]


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
        cases[name] = (*cases.get(name, ()), only_series(path) or path)
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
    found, others = scans_in(folder)
    series = {path for path in others if only_series(path)}
    others = [path for path in others if path not in series]
    labeled = {output_stem(path).lower() for path in labels}
    own = {path for path in found if is_own_output(path)}
    drawn = {path for path in masks_beside([*found, *series]) if output_stem(path).lower() not in labeled} - own
    deep = [path for path in others if path.is_dir() and holds_scans(path)]
    said = (("not taken, as `infer` wrote them", sorted(own)), (DRAWN, sorted(drawn)), (_DEEPER, deep))
    notes = [f"{words}: {listed(paths, folder.parent)}" for words, paths in said if paths]
    return sorted({*found, *series} - own - drawn), others, notes


def _held(folder: Path) -> str:
    entries = entries_of(folder)
    if not entries:
        return "it is empty"
    inside = next((path for path in entries if path.is_dir() and entries_of(path)), None)
    held = f"it holds {listed(entries, folder)}"
    if inside is not None:
        held += f", and {inside.name}/ holds {listed(entries_of(inside), inside)}"
    loose = any(volume_suffix(path) for path in entries)
    return f"{held}; move the scans into images/ and their labels into labels/" if loose else held


def _orphaned(found: Found, folder: Path) -> str:
    count = len(found.orphans)
    alone = [case.images[0] for case in found.cases if case.label is None]
    parts = [
        f"{count} label file{' matches' if count == 1 else 's match'} no scan: {listed(found.orphans, folder)}",
        *([f"scans without a label: {listed(alone, folder)}"] if alone else []),
        *found.notes,
        f"{found.advice}: rename, or take the label away",
    ]
    return f"{folder}: {'; '.join(parts)}."
