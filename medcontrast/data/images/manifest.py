"""A manifest of images: train, validation and test sets with targets, domains and qualities, as JSON.

A split is a list of sources: one file with what is known of it, or a file or folder that holds many images.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from medcontrast.data.images.lesion_boxes import Box, parse_boxes
from medcontrast.data.images.sources import SOURCES, ImageCase, expand, source_kind
from medcontrast.data.manifest import KIND, root_advice, root_folder
from medcontrast.errors import ManifestError
from medcontrast.files import read_object

IMAGE_SPLITS = ("train", "validation", "test")
BOXES, MADE_BY = "lesion_boxes", "lesion_boxes_made_by"
"""A table of boxes by name of the image, for sources of every kind, and how it came about."""
CONTAINS = "contains"
"""Class -> the labels that an image of it holds, for classes that are sets of labels."""
_KEYS = {"kind", "name", "description", "source", "licence", "root", "classes", CONTAINS, BOXES, MADE_BY, *IMAGE_SPLITS}


@dataclass(frozen=True)
class ImageManifest:
    """Which images there are and what each is for.

    Attributes:
        path: The JSON file it came from.
        name: Short name of the data set and its split.
        root: Folder that relative paths in the file started from.
        classes: Names of the targets, target 0 first; empty where no image has one.
        sources: Split -> its sources as they stand in the file.
        lesion_boxes: Image -> its lesion boxes, of those in the manifest's own table.
        contains: Class -> the labels that an image of it holds; empty where a class is all there is to tell.
        raw: What stands in the file.
        advice: What to do where files are not there.
    """

    path: Path
    name: str
    root: Path
    classes: tuple[str, ...]
    sources: dict[str, tuple[dict[str, Any], ...]]
    lesion_boxes: dict[str, tuple[Box, ...]] = field(default_factory=dict)
    contains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    advice: str = field(default="", repr=False, compare=False)
    _cases: dict[str, tuple[ImageCase, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that classes contain, in order of their first class."""
        return tuple(dict.fromkeys(label for name in self.classes for label in self.contains.get(name, ())))

    def splits(self) -> Iterator[str]:
        """Names of the splits that hold something."""
        for name in IMAGE_SPLITS:
            if self.sources[name]:
                yield name

    def cases(self, split: str) -> tuple[ImageCase, ...]:
        """Every image of a split; opens lists and headers once, and no image.

        Raises:
            ManifestError: No such split, nothing in it, or a source that cannot be used.
        """
        if split not in IMAGE_SPLITS:
            raise ManifestError(f"{self.path}: there is no split {split!r}; choose one of {', '.join(IMAGE_SPLITS)}.")
        if not self.sources[split]:
            filled = ", ".join(self.splits())
            raise ManifestError(f"{self.path}: the split {split!r} is empty; it has {filled}.")
        if split in self._cases:
            return self._cases[split]
        found: list[ImageCase] = []
        for number, source in enumerate(self.sources[split]):
            place = f"{self.path}: {split}[{number}]"
            found += expand(source, self.root, self.classes, where=place, advice=self.advice)
        twice = [name for name, count in Counter(case.name for case in found).items() if count > 1]
        if twice:
            raise ManifestError(f"{self.path}: image {twice[0]} stands in {split} more than once.")
        self._cases[split] = tuple(self._with_boxes(case) for case in found)
        return self._cases[split]

    def _with_boxes(self, case: ImageCase) -> ImageCase:
        boxes = self.lesion_boxes.get(case.name)
        if boxes is None:
            return case
        if case.lesion_boxes:
            raise ManifestError(
                f"{self.path}: image {case.name} has boxes of its own and in the table {BOXES}; keep one of them."
            )
        return replace(case, lesion_boxes=boxes)

    def originals(self, split: str) -> tuple[ImageCase, ...]:
        """Every image of a split that is not another's counterfactual.

        Raises:
            ManifestError: As for `cases`, or there are counterfactuals alone.
        """
        found = tuple(case for case in self.cases(split) if case.of is None)
        if not found:
            raise ManifestError(f"{self.path}: every image of {split} is the counterfactual of another (of).")
        return found

    def files(self, split: str) -> list[Path]:
        """The files and folders that a split's sources name."""
        return [self.root / source[key] for source in self.sources[split] for key in SOURCES if key in source]


def is_image_manifest(path: Path) -> bool:
    """Whether the JSON file says that it lists images; what cannot be read is answered by the one who loads it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND


def load_image_manifest(path: Path, root: Path | None = None) -> ImageManifest:
    """Reads and checks a manifest of images; opens none of the files it names.

    Args:
        path: The JSON file.
        root: Folder for relative paths; default: as for a manifest of volumes.

    Raises:
        ManifestError: With every fault found, one a line.
    """
    raw = read_object(path)
    if raw.get("kind") != KIND:
        what = f"of the kind {raw['kind']!r}" if "kind" in raw else "a manifest of volumes"
        raise ManifestError(
            f'{path}: a pre-training recipe and a probe take a manifest of images, with "kind": "{KIND}" and the '
            f"splits {', '.join(IMAGE_SPLITS)}; this is {what}."
        )
    faults = [f"unknown key {key!r}; known: {', '.join(sorted(_KEYS))}" for key in sorted(set(raw) - _KEYS)]
    classes = raw.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        faults.append(f"classes: expected a list of names, target 0 first, but got {classes!r}")
        classes = []
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        faults.append(f"classes: {twice[0]!r} stands in it more than once")
    sources = {split: _sources(raw.get(split, []), split, faults) for split in IMAGE_SPLITS}
    boxes = _boxes(raw.get(BOXES, {}), faults)
    contains = _contains(raw.get(CONTAINS, {}), classes, faults)
    if not any(raw.get(split) for split in IMAGE_SPLITS):
        faults.append(f"no images: at least one of {', '.join(IMAGE_SPLITS)} is needed")
    if faults:
        raise ManifestError("\n".join([f"{path}: {len(faults)} fault(s):", *(f"  - {fault}" for fault in faults)]))
    name = str(raw.get("name") or path.stem)
    advice = root_advice(raw) if root is None else f"correct {root}, the folder that was given for its paths"
    return ImageManifest(
        path, name, root_folder(raw, path, root), tuple(classes), sources, boxes, contains, raw, advice
    )


def overlaps(splits: Mapping[str, Sequence[ImageCase]]) -> list[str]:
    """What stands in two splits: the first image and the first patient of each pair of splits, in words."""
    faults = []
    for word, named in (("image", _image), ("patient", _patient)):
        found = {split: dict(each for case in cases if (each := named(case))) for split, cases in splits.items()}
        for first, second in combinations(found, 2):
            both = found[first].keys() & found[second].keys()
            if both:
                faults.append(f"{word} {min(found[first][key] for key in both)} stands in {first} and in {second}")
    return faults


def spelled_alike(splits: Mapping[str, Sequence[ImageCase]]) -> list[str]:
    """Patients of two splits whose names differ in leading zeros or in capitals alone, in words; the first of each."""
    doubts = []
    for first, second in combinations(splits, 2):
        names = [{case.patient for case in splits[split]} - {None} for split in (first, second)]
        plain = [{_plain(str(name)): str(name) for name in sorted(map(str, some))} for some in names]
        both = [key for key in plain[0] if key in plain[1] and plain[0][key] != plain[1][key]]
        if both:
            pair = f"{plain[0][both[0]]} of {first} and {plain[1][both[0]]} of {second}"
            doubts.append(f"patients {pair} differ in leading zeros or capitals alone; are they one?")
    return doubts


def _plain(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", name.casefold())


def training_digest(manifest: ImageManifest) -> str:
    """Short name of all that training may take from the manifest of its images and counterfactuals, but their pixels.

    Raises:
        ManifestError: As for `ImageManifest.cases`.
    """
    digest = hashlib.sha256()
    for case in manifest.cases("train"):
        known = case.name, case.of, case.target, case.domain, case.quality
        digest.update(json.dumps([*known, sorted(case.attributes.items()), case.lesion_boxes]).encode("utf-8"))
    return digest.hexdigest()[:16]


def image_identity(case: ImageCase) -> Hashable:
    """Where an image's pixels lie, the same for every spelling of the path."""
    return _resolved(case.file), case.key, case.index, case.axis


def _image(case: ImageCase) -> tuple[Hashable, str]:
    return image_identity(case), case.name


def _patient(case: ImageCase) -> tuple[Hashable, str] | None:
    return None if case.patient is None else (case.patient, case.patient)


@lru_cache(maxsize=1024)
def _resolved(path: Path) -> Path:
    return path.resolve()


def require_apart(manifest: ImageManifest) -> None:
    """Refuses an image or a patient that stands in two splits.

    Raises:
        ManifestError: With the first of each kind for each pair of splits.
    """
    faults = overlaps({split: manifest.cases(split) for split in manifest.splits()})
    if faults:
        raise ManifestError("\n".join([f"{manifest.path}: splits must not overlap:", *(f"  - {f}" for f in faults)]))


def _boxes(table: Any, faults: list[str]) -> dict[str, tuple[Box, ...]]:
    if not isinstance(table, dict):
        faults.append(f"{BOXES}: expected boxes by name of the image, but got {type(table).__name__}")
        return {}
    found = {}
    for name, boxes in table.items():
        try:
            found[name] = parse_boxes(boxes, f"{BOXES}: {name}")
        except ManifestError as error:
            faults.append(str(error).removesuffix("."))
    return found


def _contains(table: Any, classes: list[str], faults: list[str]) -> dict[str, tuple[str, ...]]:
    """Labels by class, of a table that names every class or none, and labels that tell classes apart."""
    if table == {}:
        return {}
    if not isinstance(table, dict):
        faults.append(f"{CONTAINS}: expected labels by name of the class, but got {type(table).__name__}")
        return {}
    before = len(faults)
    for name in sorted(set(table) ^ set(classes)):
        faults.append(f"{CONTAINS}: {name!r} is " + ("no class" if name in table else "a class, but not in it"))
    for name, labels in table.items():
        words = isinstance(labels, list) and all(isinstance(label, str) and label for label in labels)
        if not words or not labels or len(set(labels)) < len(labels):
            faults.append(f"{CONTAINS}: {name}: expected a list of different labels, but got {labels!r}")
    if len(faults) > before:
        return {}
    found = {name: tuple(labels) for name, labels in table.items()}
    everywhere = set.intersection(*map(set, found.values()))
    if everywhere:
        faults.append(f"{CONTAINS}: every class contains {min(everywhere)}, so that it tells no images apart")
    return found


def _sources(entries: Any, split: str, faults: list[str]) -> tuple[dict[str, Any], ...]:
    if not isinstance(entries, list):
        faults.append(f"{split}: expected a list of sources, but got {type(entries).__name__}")
        return ()
    found = []
    for number, entry in enumerate(entries):
        kind = source_kind(entry) if isinstance(entry, dict) else None
        if kind is None:
            faults.append(f"{split}[{number}]: expected one of the keys {', '.join(SOURCES)}, but got {entry!r}")
            continue
        unknown = sorted(set(entry) - {kind} - set(SOURCES[kind].keys))
        if unknown:
            faults.append(
                f"{split}[{number}]: unknown key {unknown[0]!r}; {kind} knows {', '.join(SOURCES[kind].keys)}"
            )
        elif not isinstance(entry[kind], str):
            faults.append(f"{split}[{number}]: {kind} is a path, but got {entry[kind]!r}")
        else:
            found.append(entry)
    return tuple(found)
