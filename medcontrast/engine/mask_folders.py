"""Which mask of a folder is scored against which label file, by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medcontrast.data.beside import LABEL_ENDING, LABEL_NAMES
from medcontrast.data.case_folders import part_of
from medcontrast.data.folders import entries_of, listed
from medcontrast.data.manifest import Case, Manifest
from medcontrast.errors import InputError
from medcontrast.volume import KNOWN_SUFFIXES, output_stem
from medcontrast.volume.segments import is_own_export
from medcontrast.volume_names import case_stem, volume_suffix

_BARE = (*LABEL_NAMES, "pred", "prediction")
"""What a mask in the folder of its case may be called."""
_RULE = (
    "a mask is called as its {}, CASE.nii.gz, or CASE_seg, CASE_label, CASE_mask, CASE_pred, or so in a folder CASE/"
)


class MaskPair(NamedTuple):
    """Files of one case."""

    case: str
    mask: Path
    label: Path


def folder_pairs(predictions: Path, labels: Path) -> list[MaskPair]:
    """Pairs files by name: `CASE.nii.gz` or `CASE_seg.nii.gz` with `CASE.nii.gz`, or in one folder a case.

    An ending such as _seg or _label that all labels have is no part of the cases' names.

    A `.seg.nrrd` beside a mask of its name is an export of that mask, and left aside, unless it was saved since.

    Raises:
        InputError: A folder is empty, two files stand for one case, be it a mask and its edited export, or a label has
            no prediction: a missing mask is an error, never skipped.
    """
    references = _found(labels)
    ends = {match.group().lower() if (match := LABEL_ENDING.search(name)) else "" for name in references}
    if len(ends) == 1:  # the case is called as where its scan is known
        cut = len(ends.pop())
        references = {name[: len(name) - cut]: files for name, files in references.items()}
    for name, files in references.items():
        _require_one(labels, files, f"a label of {name}")
    return _paired(predictions, {name: files[0] for name, files in references.items()}, "label")


def split_pairs(predictions: Path, manifest: Manifest, split: str) -> list[MaskPair]:
    """Pairs masks, as `folder_pairs` finds them by name, with the label files of a manifest's split.

    Raises:
        InputError: As `folder_pairs`, or a case has no label file.
    """
    cases = manifest.split(split, "name one whose cases have label files by --split")
    return _paired(predictions, {case.name: label_file(case, manifest, split) for case in cases}, "case")


def label_file(case: Case, manifest: Manifest, split: str) -> Path:
    """The label file of a case that is to be scored.

    Raises:
        InputError: It has none.
    """
    if case.label is None or not case.label.exists():
        named = "the manifest names none" if case.label is None else f"{case.label} is not there"
        raise InputError(f"{manifest.path}: case {case.name} of {split} has no label file to score against ({named}).")
    return case.label


def without_label(predictions: Path, pairs: Sequence[MaskPair]) -> list[str]:
    """Names of the masks of a folder that no pair takes; the maps that `infer` writes beside a mask are none."""
    found = _found(predictions)
    maps = {f"{stem.removesuffix('_seg')}_{kind}" for stem in found for kind in ("prob", "entropy")}
    taken = {output_stem(mask) if mask.parent == predictions else mask.parent.name for _, mask, _ in pairs}
    left = (files[0] for stem, files in found.items() if stem not in taken | maps)
    return [file.relative_to(predictions).as_posix() for file in left]


def _paired(predictions: Path, references: Mapping[str, Path], like: str) -> list[MaskPair]:
    """Pairs of the references' cases; `like` says whether a mask is called as its label or as its case."""
    masks: dict[str, list[list[Path]]] = {}
    every = _found(predictions)
    for stem, files in every.items():
        ending = None if stem in references else LABEL_ENDING.search(stem)
        masks.setdefault(stem if ending is None else stem[: ending.start()], []).append(files)
    pairs, missing = [], []
    for case, label in references.items():
        groups = masks.get(case) or masks.get(case_stem(case), [])
        found = [mask for files in groups for mask in _without_exports(files)]
        _require_one(predictions, found, f"a prediction of {case}")
        pairs += [MaskPair(case, mask, label) for mask in found]
        own = f"{case}/{label.name}" if label.parent.name == case else label.name
        missing += [] if found else [case if like == "case" else own]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        held = listed([files[0] for files in every.values()], predictions)
        way = "make it, or take its label away, or name the split that was predicted by --manifest and --split"
        raise InputError(
            f"{predictions}: no prediction for {len(missing)} of {len(references)} {like}s ({shown}); it holds {held}. "
            f"A missing mask is not skipped: {way if like == 'label' else 'make it'}; {_RULE.format(like)}."
        )
    return pairs


def _found(folder: Path) -> dict[str, list[Path]]:
    """Files by stem, or of folders of cases, where no file lies in the folder itself, by case."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder.")
    found: dict[str, list[Path]] = {}
    for path in _volumes(folder):
        found.setdefault(output_stem(path), []).append(path)
    if found:
        return found
    for case in entries_of(folder):
        masks = _masks_of(case) if case.is_dir() else []
        found |= {case.name: masks} if masks else {}
    if not found:
        raise InputError(
            f"{folder}: holds no volume ({', '.join(KNOWN_SUFFIXES)}) itself, nor folders CASE/ with label.nii.gz or "
            "CASE_seg.nii.gz; put the files of all cases into it, each called as its case."
        )
    return found


def _volumes(folder: Path) -> Iterator[Path]:
    return (path for path in entries_of(folder) if volume_suffix(path))


def _masks_of(case: Path) -> list[Path]:
    """The masks in the folder of a case: what is called so, or as the folder; never what names another case."""
    parts = {path: part_of(path, case) for path in _volumes(case)}
    called = [path for path, part in parts.items() if part in _BARE]
    return called or [path for path, part in parts.items() if not part and len(parts) == 1]


def _without_exports(masks: list[Path]) -> list[Path]:
    """Files of one stem; where there are others, without a .seg.nrrd that was exported from one of them."""
    others = [path for path in masks if not path.name.lower().endswith(".seg.nrrd")]
    edited = [path for path in masks if path not in others and not is_own_export(path)]
    if others and edited:
        raise InputError(
            f"{edited[0]}: was saved by 3D Slicer or another program and may hold corrections that {others[0].name} "
            "beside it lacks; keep the one of the two that shall be scored, and move the other away."
        )
    return others or masks


def _require_one(folder: Path, files: Sequence[Path], what: str) -> None:
    if len(files) > 1:
        raise InputError(f"{folder}: both {files[0].name} and {files[1].name} are {what}; keep one.")
