"""Opens every image that a manifest of images names and says what is wrong with it; `check.py` does so for volumes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.check import Finding
from medcontrast.data.images.arrays import csv_rows
from medcontrast.data.images.lesion_boxes import box_faults, healthy_fault
from medcontrast.data.images.manifest import ImageManifest, overlaps, spelled_alike
from medcontrast.data.images.pixels import read_pixels
from medcontrast.data.images.sources import CSV_COLUMNS, ImageCase, other_files, source_kind
from medcontrast.errors import ImageError, ManifestError, VolumeError

NONE = "(none)"
"""Stands for what is not known of an image."""
FLAT = "have one value everywhere"
DARK = "reach no more than a sixteenth of what 16 bits hold (12 bits in a 16-bit file?) and are read as nearly black"
_SHOWN = 5
_TWELVE_BITS = 255.0 * 4095 / 65535
"""The largest value of 12 bits, in 0..255 of 16."""


@dataclass(frozen=True)
class SeenImage:
    """What one readable image is.

    Attributes:
        split: The split it stands in.
        case: What the manifest knows of it.
        sides: Pixels along x and y, as stored.
        channels: 1, 3 or 4.
    """

    split: str
    case: ImageCase
    sides: tuple[int, int]
    channels: int


@dataclass
class ImageCheckReport:
    """Readable images, and what was found.

    Attributes:
        manifest: What was checked.
        cases: Checked split -> every image that its sources name.
        images: Those that could be read.
        faults: Training or a probe would fail or mislead.
        warnings: Worth a look.
        notes: Good to know.
    """

    manifest: ImageManifest
    cases: dict[str, tuple[ImageCase, ...]] = field(default_factory=dict)
    images: list[SeenImage] = field(default_factory=list)
    faults: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def counts(self, split: str) -> dict[str, dict[str, int]]:
        """Images of a split by class, domain and quality, as far as the manifest knows any of the kind."""
        found = {}
        for kind, values in _kinds(self.manifest, self.cases[split]).items():
            if any(value != NONE for value in values):
                found[kind] = dict(sorted(Counter(values).items()))
        return found


def check_image_manifest(
    manifest: ImageManifest,
    *,
    splits: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda case: None,
) -> ImageCheckReport:
    """Opens every image once.

    Args:
        manifest: As `load_image_manifest` gives it.
        splits: Only these splits; default all that hold something.
        tell: Called with each image's name before it is read.

    Raises:
        ManifestError: A split in `splits` does not exist or is empty.
    """
    report, seen = ImageCheckReport(manifest), dict[str, tuple[str, str]]()
    for split in splits or tuple(manifest.splits()):
        if split not in manifest.splits():
            manifest.cases(split)  # says which there are
        try:
            report.cases[split] = manifest.cases(split)
        except (ManifestError, VolumeError) as error:
            report.cases[split] = ()
            report.faults.append(Finding(split, "", str(error)))
            continue
        told = [(case, word) for case in report.cases[split] if (word := _check_image(split, case, report, seen, tell))]
        for word in (FLAT, DARK):
            found = [case for case, other in told if other == word]
            if found:
                text = f"{len(found)} of {len(report.cases[split])} images {word}, such as {found[0].name}"
                report.warnings.append(Finding(split, "", text))
        _check_masks(split, report)
        _check_facts(split, report)
        report.notes += [Finding(split, "", text) for text in _not_read(manifest, split)]
    report.faults += [Finding("splits", "", text) for text in overlaps(report.cases)]
    report.warnings += [Finding("splits", "", text) for text in spelled_alike(report.cases)]
    _check_table(report)
    return report


def _check_image(
    split: str,
    case: ImageCase,
    report: ImageCheckReport,
    seen: dict[str, tuple[str, str]],
    tell: Callable[[str], None],
) -> str:
    """Reads an image; gives FLAT or DARK where one of them is true of it."""
    tell(case.name)
    try:
        pixels = read_pixels(case)
    except (ImageError, ManifestError, VolumeError) as error:
        report.faults.append(Finding(split, case.name, str(error)))
        return ""
    sides = pixels.shape[0], pixels.shape[1]
    report.images.append(SeenImage(split, case, sides, pixels.shape[2]))
    healthy = healthy_fault(case.lesion_boxes, case.target, report.manifest.classes)
    faults = [*([healthy] if healthy else []), *box_faults(case.lesion_boxes, sides)]
    report.faults += [Finding(split, case.name, text) for text in faults]
    if pixels.min() == pixels.max():
        return FLAT  # two of them are alike without being one image
    _check_copies(split, case, pixels, report, seen)
    # of bytes, slices and DICOM the range of values is known or theirs to give; 16 bits of colour come as bytes too
    picture = case.index is None and case.file.suffix.lower() != ".dcm"
    doubtful = pixels.dtype != np.uint8 or pixels.shape[2] > 1
    return DARK if picture and doubtful and pixels.max() <= _TWELVE_BITS else ""


def _not_read(manifest: ImageManifest, split: str) -> list[str]:
    """Columns of a csv, and files of a folder, that nothing reads."""
    found = []
    for source in manifest.sources[split]:
        kind = source_kind(source)
        if kind == "csv":
            names = csv_rows(manifest.root / source["csv"], (), split)[0]
            alone = [name for name in names if name.strip().lower() not in CSV_COLUMNS]
            alone = [
                name for name in alone if name not in {*(source.get("attributes") or ()), *(source.get("only") or ())}
            ]
            if alone:
                found.append(f"columns of {source['csv']} that are not read: {', '.join(alone)}")
        if kind == "folder":
            others = other_files(manifest.root / source["folder"])
            if others:
                count = f"{len(others)} file{'s' if len(others) > 1 else ''} of {source['folder']}"
                found.append(
                    f"{count} that {'are' if len(others) > 1 else 'is'} no image as read here: {_some(others)}"
                )
    return found


def _some(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files[:_SHOWN]) + (", ..." if len(files) > _SHOWN else "")


def _check_masks(split: str, report: ImageCheckReport) -> None:
    """Whether the masks of slices fit; each is looked at once, with the first slice of its volume."""
    seen = set()
    for image in report.images:
        case = image.case
        volume = case.file, case.label, case.axis
        if image.split != split or case.label is None or case.axis is None or volume in seen:
            continue
        seen.add(volume)
        fault = _mask_fault(case.file, case.label, case.axis, image.sides)
        if fault is not None:
            report.faults.append(Finding(split, case.name, fault))


def _mask_fault(file: Path, mask: Path, axis: int, sides: tuple[int, int]) -> str | None:
    from medcontrast.data.images.slices import label_slice, slice_count
    from medcontrast.volume import read_grid

    try:
        found = slice_count(mask, axis), label_slice(mask, axis, 0).shape
        wanted = slice_count(file, axis), sides
    except VolumeError as error:
        return f"its mask cannot be used: {error}"
    if found == wanted:
        volume, own = read_grid(file), read_grid(mask)
        if volume.covers(own):
            return None
        return f"its mask {mask.name} lies elsewhere: {own.describe()}; the volume: {volume.describe()}"
    shapes = [f"{count} slices of {one} x {other}" for count, (one, other) in (found, wanted)]
    return f"its mask {mask.name} has {shapes[0]}, the volume {shapes[1]}"


def _check_copies(
    split: str, case: ImageCase, pixels: NDArray[Any], report: ImageCheckReport, seen: dict[str, tuple[str, str]]
) -> None:
    """The same pixels under two names: a fault across splits (leakage), a warning within one."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels, dtype=np.float32).tobytes())
    other_split, other = seen.setdefault(digest.hexdigest(), (split, case.name))
    if other_split != split:
        text = f"holds the same pixels as {other} of the split {other_split}; no image may stand in two splits"
        report.faults.append(Finding(split, case.name, text))
    elif other != case.name:
        report.warnings.append(Finding(split, case.name, f"holds the same pixels as {other}; one of them counts twice"))


def _check_facts(split: str, report: ImageCheckReport) -> None:
    cases, kinds = report.cases[split], _kinds(report.manifest, report.cases[split])
    without = kinds["class"].count(NONE)
    if without == len(cases):
        # pre-training needs none of the images that it learns from
        where, use = (report.notes, "learn from") if split == "train" else (report.warnings, "use")
        where.append(Finding(split, "", f"no image has a target; a probe cannot {use} this split"))
    else:
        if without:
            text = f"{without} of {len(cases)} images have no target; a probe leaves them out"
            report.notes.append(Finding(split, "", text))
        absent = [name for name in report.manifest.classes if name not in kinds["class"]]
        if absent:
            text = f"the class {absent[0]} does not occur; a probe needs every class in train and in what it scores"
            report.warnings.append(Finding(split, "", text))
    made = sum(case.of is not None for case in cases)
    if made:
        report.notes.append(Finding(split, "", f"{made} of {len(cases)} images are counterfactuals of others"))
    nobody = sum(case.patient is None for case in cases)
    if 0 < nobody < len(cases):
        text = f"{nobody} of {len(cases)} images have no patient; whether theirs stand in another split is not known"
        report.notes.append(Finding(split, "", text))
    for name in sorted({name for case in cases for name in case.attributes}):
        lacking = sum(name not in case.attributes for case in cases)
        if lacking:
            text = f"{lacking} of {len(cases)} images have no {name}; a generator of images needs it of all"
            report.notes.append(Finding(split, "", text))
    _check_boxes(split, report)
    # counterfactuals hide how few images there are of a domain
    for kind, values in _kinds(report.manifest, [case for case in cases if case.of is None]).items():
        for value, count in sorted(Counter(values).items()):
            if count == 1 and value != NONE:
                report.warnings.append(Finding(split, "", f"{kind} {value} occurs once"))
    channels = Counter(image.channels for image in report.images if image.split == split)
    if len(channels) > 1:
        parts = ", ".join(f"{count} of {number}" for number, count in sorted(channels.items()))
        text = f"images differ in channels: {parts}; data.channels converts them"
        report.notes.append(Finding(split, "", text))


def _check_boxes(split: str, report: ImageCheckReport) -> None:
    cases = [case for case in report.cases[split] if case.target != 0]
    boxed = sum(bool(case.lesion_boxes) for case in cases)
    if boxed:
        count = sum(len(case.lesion_boxes) for case in cases)
        text = f"{boxed} of {len(cases)} images that are not of the healthy class have lesion boxes, {count} in all"
        rest = "" if boxed == len(cases) else "; crops around lesions are random in the others"
        report.notes.append(Finding(split, "", text + rest))


def _check_table(report: ImageCheckReport) -> None:
    """Boxes by name: each name is that of an image, as far as every split was looked at."""
    if set(report.cases) != set(report.manifest.splits()) or not all(report.cases.values()):
        return
    names = {case.name for cases in report.cases.values() for case in cases}
    lost = [name for name in report.manifest.lesion_boxes if name not in names]
    if lost:
        text = f"{len(lost)} of its names are of no image of the manifest, such as {lost[0]}"
        report.faults.append(Finding("lesion_boxes", "", text))


def _kinds(manifest: ImageManifest, cases: Sequence[ImageCase]) -> dict[str, list[str]]:
    return {
        "class": [NONE if case.target is None else manifest.classes[case.target] for case in cases],
        "domain": [case.domain or NONE for case in cases],
        "quality": [case.quality or NONE for case in cases],
    }
