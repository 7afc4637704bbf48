"""Opens everything a manifest names and says what is wrong with it, before a training run finds out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.orientations import aff2axcodes

from medcontrast.data.hounsfield import like_ct
from medcontrast.data.manifest import Case, Manifest
from medcontrast.data.outliers import unlike_others
from medcontrast.errors import VolumeError
from medcontrast.labels import LabelTable
from medcontrast.volume import Volume, far_values, read_volume, to_canonical, turns_onto
from medcontrast.volume.segments import how_to_place, read_label_map

_SHOWN = 3


@dataclass(frozen=True)
class ChannelValues:
    """Values of one channel of one case.

    Attributes:
        low: Smallest.
        high: Largest.
        mean: Of all voxels that are finite.
        like_ct: Whether they look like Hounsfield units.
    """

    low: float
    high: float
    mean: float
    like_ct: bool


@dataclass(frozen=True)
class CaseRow:
    """What one case is.

    Attributes:
        split: The split it stands in.
        case: Its name.
        shape: Voxels along the stored axes.
        spacing_mm: Voxel size along them.
        axes: Directions the stored axes run to, such as RAS.
        channels: Image values, channel by channel.
        volumes_ml: Millilitres by label name; empty where the label was not opened.
    """

    split: str
    case: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    axes: str
    channels: tuple[ChannelValues, ...]
    volumes_ml: dict[str, float]

    @property
    def low(self) -> float:
        """Smallest image value over all channels."""
        return min(channel.low for channel in self.channels)

    @property
    def high(self) -> float:
        """Largest."""
        return max(channel.high for channel in self.channels)


@dataclass(frozen=True)
class Finding:
    """One remark; `case` is empty when it is about a whole split."""

    split: str
    case: str
    text: str

    def __str__(self) -> str:
        return f"{self.split} {self.case}: {self.text}" if self.case else f"{self.split}: {self.text}"


@dataclass
class CheckReport:
    """Rows of readable cases, and what was found.

    Attributes:
        manifest: What was checked.
        splits: Names of the checked splits.
        rows: One a case that could be read.
        faults: Training or scoring would fail or mislead.
        warnings: Worth a look.
        notes: Good to know.
    """

    manifest: Manifest
    splits: tuple[str, ...]
    rows: list[CaseRow] = field(default_factory=list)
    faults: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults


def check_manifest(
    manifest: Manifest,
    *,
    splits: Sequence[str] | None = None,
    patch: Sequence[int] | None = None,
    tell: Callable[[str], None] = lambda case: None,
) -> CheckReport:
    """Opens the images of every case, and the labels of all but unlabeled cases, which are never opened.

    Args:
        manifest: As `load_manifest` gives it.
        splits: Only these splits; default all that have cases.
        patch: Patch of a recipe in voxels along the canonical axes; smaller images are noted.
        tell: Called with each case's name before it is read.

    Raises:
        ManifestError: A split in `splits` does not exist or is empty.
    """
    chosen = {name: manifest.split(name) for name in splits} if splits else dict(manifest.splits())
    report = CheckReport(manifest, tuple(chosen))
    seen: dict[str, tuple[str, str]] = {}
    for split, cases in chosen.items():
        missing = _missing(split, cases, manifest, report)
        for case in cases:
            tell(case.name)
            if case.name not in missing:
                _check_case(split, case, manifest, report, seen)
        if split == "labeled":
            _require_examples(report)
        if patch is not None:
            _note_small(split, patch, report)
    report.warnings += [Finding("splits", "", text) for text in unlike_others(report.rows, manifest.channels)]
    return report


def _require_examples(report: CheckReport) -> None:
    """A structure that no labeled case holds cannot be learned; most often its value is another one."""
    opened = [row.volumes_ml for row in report.rows if row.split == "labeled" and row.volumes_ml]
    never = [label for label in report.manifest.labels.labels if not any(volumes[label.name] for volumes in opened)]
    if opened and never:
        named = ", ".join(f"{label.name} (value {label.value})" for label in never)
        text = f"no case holds {named}, so that it cannot be learned; correct the table's value, or take it out"
        report.faults.append(Finding("labeled", "", text))


def _note_small(split: str, patch: Sequence[int], report: CheckReport) -> None:
    shapes = [_canonical_shape(row) for row in report.rows if row.split == split]
    small = sum(any(side < wanted for side, wanted in zip(shape, patch, strict=True)) for shape in shapes)
    if small:
        size = f"smaller than the patch {_voxels(patch)} along some axis"
        text = f"{small} of {len(shapes)} images are {size}; they are padded"
        report.notes.append(Finding(split, "", text))


def _canonical_shape(row: CaseRow) -> list[int]:
    """Voxels along x, y, z, wherever these axes are stored: a patch is cut out of a scan that was turned."""
    stored = dict(zip(row.axes, row.shape, strict=True))
    return [stored[one] if one in stored else stored[other] for one, other in ("RL", "AP", "SI")]


def _missing(split: str, cases: Sequence[Case], manifest: Manifest, report: CheckReport) -> set[str]:
    """Cases without their files; one finding for all of them, so that an absent folder is one sentence."""
    absent: dict[str, list[Path]] = {}
    for case in cases:
        wanted = [*case.images] if split == "unlabeled" or case.label is None else [*case.images, case.label]
        lost = [path for path in wanted if not path.exists()]
        if lost:
            absent[case.name] = lost
    if absent:
        paths = [path for lost in absent.values() for path in lost]
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        others = " ".join(f"--split {name}" for name, _ in manifest.splits() if name != split)
        hint = f"; to check only the others: {others}" if len(absent) == len(cases) and others else ""
        text = (
            f"{len(absent)} of {len(cases)} cases have no files under {manifest.root}: "
            f"{paths[0]}{more}. Put them there or name another root{hint}"
        )
        report.faults.append(Finding(split, "", text))
    return set(absent)


def _check_case(
    split: str,
    case: Case,
    manifest: Manifest,
    report: CheckReport,
    seen: dict[str, tuple[str, str]],
) -> None:
    try:
        channels = [read_volume(path, "image") for path in case.images]
    except VolumeError as error:
        report.faults.append(Finding(split, case.name, str(error)))
        return
    first = channels[0]
    values = tuple(_check_image(split, case, volume, report) for volume in channels)
    for volume in channels[1:]:
        _same_grid(split, case, first, volume, report)
    _content(split, case, channels, report, seen)
    volumes = (
        {} if split == "unlabeled" or case.label is None else _check_label(split, case, first, manifest.labels, report)
    )
    axes = "".join(aff2axcodes(first.grid.affine))
    report.rows.append(CaseRow(split, case.name, first.grid.shape, first.grid.spacing_mm, axes, values, volumes))


def _check_image(split: str, case: Case, volume: Volume, report: CheckReport) -> ChannelValues:
    array, path = volume.array, volume.path
    report.warnings += [Finding(split, case.name, text) for text in volume.grid.warnings]
    finite = np.isfinite(array)
    if not finite.all():
        text = f"{path}: {int((~finite).sum())} voxel(s) are NaN or infinite"
        report.faults.append(Finding(split, case.name, text))
        if not finite.any():
            return ChannelValues(*(float("nan"),) * 3, like_ct=False)
        array = array[finite]
    low, high = float(array.min()), float(array.max())
    if low == high:
        report.faults.append(
            Finding(split, case.name, f"{path}: every voxel has the value {low:g}; nothing can be seen")
        )
    elif finite.all() and (far := far_values(volume)):
        report.warnings.append(Finding(split, case.name, far))
    whole = bool((array == np.rint(array)).all())
    return ChannelValues(low, high, float(array.mean(dtype=np.float64)), like_ct(low, high, whole_numbers=whole))


def _check_label(split: str, case: Case, image: Volume, table: LabelTable, report: CheckReport) -> dict[str, float]:
    assert case.label is not None
    try:
        label, told = read_label_map(case.label, table)
    except VolumeError as error:
        report.faults.append(Finding(split, case.name, str(error)))
        return {}
    report.warnings += [Finding(split, case.name, text) for text in (*told, *label.grid.warnings)]
    _same_grid(split, case, image, label, report)
    values, counts = np.unique(label.array, return_counts=True)
    known = {*table.values, table.ignore_value}
    strange = [value for value in values.tolist() if value not in known]
    if strange:
        shown = ", ".join(f"{value:g}" for value in strange[:_SHOWN])
        text = (
            f"{case.label}: holds the value(s) {shown}, which the label table {list(table.values)} does not name; name "
            "them there (--label VALUE=NAME in `data split`), or make what nothing shall learn from the ignore_label "
            "(VALUE=ignore)"
        )
        report.faults.append(Finding(split, case.name, text))
    voxels = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    millilitre = label.grid.voxel_mm3 / 1000
    empty = [structure.name for structure in table.labels if not voxels.get(structure.value)]
    if empty:
        what = "is empty" if len(empty) == len(table.labels) else f"has no {', '.join(empty)}"
        report.warnings.append(Finding(split, case.name, f"{case.label}: {what}"))
    return {structure.name: voxels.get(structure.value, 0) * millilitre for structure in table.labels}


def _same_grid(split: str, case: Case, image: Volume, other: Volume, report: CheckReport) -> None:
    if turns_onto(other.grid, image.grid) is None:
        difference = other.grid.difference(image.grid)
        advice = how_to_place(other.path, other.grid, image.grid)
        text = f"{other.path} does not lie on the grid of {image.path}: {difference}; {advice}"
        report.faults.append(Finding(split, case.name, text))


def _content(
    split: str, case: Case, channels: list[Volume], report: CheckReport, seen: dict[str, tuple[str, str]]
) -> None:
    """The same voxels under two names: a fault across splits (leakage), a warning within one."""
    digest = hashlib.sha256()
    for volume in channels:
        array = to_canonical(volume.array, volume.grid)  # the same scan, its axes stored otherwise, is the same
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
    other_split, other = seen.setdefault(digest.hexdigest(), (split, case.name))
    if other == case.name:
        return
    if other_split == split:
        text = f"holds the same voxels as {other}; one of them counts twice"
        report.warnings.append(Finding(split, case.name, text))
    else:
        text = f"holds the same voxels as {other} of the split {other_split}; no scan may stand in two splits"
        report.faults.append(Finding(split, case.name, text))


def _voxels(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)
