"""Where the slices of a DICOM series, or the frames of one file, say that they lie, and the stack that they form.

SimpleITK makes up what a file leaves out, passes over PixelSpacing in some kinds of files (CR, DX, XA), and takes the
frames of one file as evenly spaced in the order they are in.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import VolumeError
from medcontrast.volume.text_headers import without_directions, without_origin

if TYPE_CHECKING:
    import pydicom

_FRAMES = "PerFrameFunctionalGroupsSequence"
_SHARED = "SharedFunctionalGroupsSequence"
_SPACINGS = (
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
)  # the last: of scanned film
_THICKNESSES = ("SpacingBetweenSlices", "SliceThickness")
_PLACES = ("ImagePositionPatient", "ImageOrientationPatient")
# How far products of two directions may be from 0 and 1: those of cosines of two decimals are less than 0.018 off.
_ROUNDED_COSINES = 0.02
_PIXELS = ("Rows", "Columns", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation")
_OF_IMAGES = ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation")
_RESCALING = ("RescaleSlope", "RescaleIntercept")
TURNING_TAGS = (_FRAMES, _SHARED, *_PIXELS, *_RESCALING)
"""What `turned_sum` looks at."""
_READ = (_FRAMES, _SHARED, "NumberOfFrames", *_PIXELS, *_RESCALING, *_PLACES, *_SPACINGS, *_THICKNESSES)

# What is to be done about warnings is one setting of all threads: two that put it back in turn would leave it changed.
_one_at_a_time = threading.Lock()

Kind = Literal["slice", "frame"]
_COPY_AGAIN = {
    "slice": "copy the whole series",
    "frame": "export the whole scan again, or convert it, for example with dcm2niix",
}
_KEEP_ONE = {
    "slice": "keep one of them, or one time point only",
    "frame": "save each echo or time point as a file of its own, for example with dcm2niix",
}
_STATE = {
    "slice": "export the series again with it",
    "frame": "convert it to NIfTI or NRRD with a program that knows its maker, for example dcm2niix",
}


@dataclass(frozen=True, eq=False)
class Slice:
    """What a slice or a frame says of its place, in LPS and mm, and of its values; None where it does not say it.

    Attributes:
        size: Columns and rows.
        origin: (3,) the centre of its first pixel.
        directions: (3, 2) where the next column and the next row lie, of length 1.
        spacing_mm: (2,) from column to column, and from row to row.
        thickness_mm: From slice to slice, else of the slice; of a stack, positions say it.
        turned_sum: Of a slice whose large values are dark (MONOCHROME1), which SimpleITK turns round: what a value of
            the file and the one that SimpleITK makes of it add up to.
    """

    size: tuple[int, int]
    origin: NDArray[np.float64] | None
    directions: NDArray[np.float64] | None
    spacing_mm: NDArray[np.float64] | None
    thickness_mm: float | None = None
    turned_sum: float | None = None


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices or frames in order of their position, in LPS and mm.

    Attributes:
        order: Places in the list they came in.
        steps: (3, 3) the step to the next column, row and slice, as columns.
        origin: (3,) the centre of the first voxel.
        warnings: Sentences on what is made up.
    """

    order: list[int]
    steps: NDArray[np.float64]
    origin: NDArray[np.float64]
    warnings: tuple[str, ...] = ()


def read_frames(path: Path) -> list[Slice]:
    """Reads where the frames of one file lie; of a file without frames, where its one slice lies.

    Raises:
        VolumeError: Not readable, frames without a number each, or each with a slope of its own, directions that are
            not of length 1 and at a right angle, or values that SimpleITK turns round in a way of its own.
    """
    with dicom_header(path, _READ) as data:
        return _frames(data, path)


def without_pixels(paths: Sequence[Path], slices: Sequence[Path]) -> set[Path]:
    """Which of these DICOM files are no images but reports, contours or the like, and no slices that were cut off.

    Args:
        paths: The files that are asked for.
        slices: Files of images; a file of their kind that holds no pixels is damaged.
    """
    if not paths:
        return set()
    kinds = {_kind(path)[0] for path in slices} | {None}
    found = {path: _kind(path) for path in paths}
    return {path for path, (kind, has_pixels) in found.items() if kind not in kinds and not has_pixels}


def _kind(path: Path) -> tuple[str | None, bool]:
    """The SOP class of a file, None where it cannot be read, and whether it says that it holds pixels."""
    try:
        with dicom_header(path, ("SOPClassUID", *_OF_IMAGES)) as data:
            return data.get("SOPClassUID") or None, any(tag in data for tag in _OF_IMAGES)
    except VolumeError:
        return None, False


@contextmanager
def dicom_header(path: Path, tags: Sequence[str]) -> Iterator[pydicom.Dataset]:
    """Reads some tags; what they hold may be damaged too, which shows where it is used."""
    import pydicom

    try:
        with _one_at_a_time, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what breaks a rule of DICOM and can be read all the same
            yield pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=list(tags))
    except (VolumeError, OSError, MemoryError):
        raise
    except Exception as error:  # pydicom and numpy raise errors of any kind on a damaged header
        raise VolumeError(f"{path}: damaged: its DICOM header cannot be read ({error}); copy it again.") from None


def stack_of(slices: Sequence[Slice], where: Path, kind: Kind, names: Sequence[str] = ()) -> Stack:
    """Sorts slices or frames along their normal.

    Args:
        slices: In any order.
        where: The file or folder, for messages.
        kind: What they are called there.
        names: Of each slice, for messages; none where all lie in one file.

    Raises:
        VolumeError: Some do not say where they lie, differ in more than position, share one or are unevenly spaced.
    """
    if len(slices) == 1:
        return _lone(slices[0], where)
    origins = _stated([item.origin for item in slices], "ImagePositionPatient", where, kind)
    directions = _stated([item.directions for item in slices], "ImageOrientationPatient", where, kind)
    spacings = _stated([item.spacing_mm for item in slices], "PixelSpacing", where, kind)
    planes = directions * spacings[:, None]
    if any(item.size != slices[0].size for item in slices) or not np.allclose(planes, planes[0], atol=1e-4):
        raise VolumeError(f"{where}: its {kind}s differ in size, spacing or orientation; keep those of one stack only.")
    normal = _normal(planes[0])
    order = np.argsort(origins @ normal, kind="stable")
    origins = origins[order]
    _require_even_steps(origins, normal, where, kind, [names[index] for index in order] if names else [])
    step = (origins[-1] - origins[0]) / (len(slices) - 1)
    return Stack([int(index) for index in order], np.column_stack([planes[0], step]), origins[0])


def _lone(one: Slice, where: Path) -> Stack:
    """A stack of one slice: what its file leaves out is made up, as it is for other formats."""
    if one.spacing_mm is None:
        raise VolumeError(f"{where}: does not say how large its voxels are: its header has no PixelSpacing; add it.")
    made_up = []
    if one.directions is None:
        made_up.append(without_directions(where, "ImageOrientationPatient"))
    if one.origin is None:
        made_up.append(without_origin(where, "ImagePositionPatient"))
    if one.thickness_mm is None:
        made_up.append(
            f"{where}: does not say how thick its one slice is (its header has no SliceThickness); 1 mm is taken, for "
            "millilitres too."
        )
    plane = (np.eye(3, 2) if one.directions is None else one.directions) * one.spacing_mm
    step = _normal(plane) * (one.thickness_mm or 1.0)
    origin = np.zeros(3) if one.origin is None else one.origin
    return Stack([0], np.column_stack([plane, step]), origin, tuple(made_up))


def _stated(values: list[NDArray[np.float64] | None], tag: str, where: Path, kind: Kind) -> NDArray[np.float64]:
    stated = [value for value in values if value is not None]
    if len(stated) < len(values):
        raise VolumeError(
            f"{where}: does not say where its {kind}s lie: {len(values) - len(stated)} of {len(values)} have no {tag}; "
            f"{_STATE[kind]}."
        )
    return np.stack(stated)


def _normal(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    normal = np.cross(plane[:, 0], plane[:, 1])
    return np.asarray(normal / np.linalg.norm(normal))


def _require_even_steps(
    origins: NDArray[np.float64], normal: NDArray[np.float64], where: Path, kind: Kind, names: Sequence[str]
) -> None:
    steps = np.diff(origins, axis=0)
    heights = steps @ normal
    if heights.min() < 1e-3:
        both = " and ".join(names[int(heights.argmin()) :][:2])
        raise VolumeError(
            f"{where}: two {kind}s lie at the same position{f', {both}' if both else ''}; {_KEEP_ONE[kind]}."
        )
    usual = np.median(heights)
    worst = int(np.argmax(np.linalg.norm(steps - np.median(steps, axis=0), axis=1)))
    if np.linalg.norm(steps[worst] - np.median(steps, axis=0)) > max(0.01 * usual, 0.01):
        raise VolumeError(
            f"{where}: {kind}s are missing or unevenly spaced: {heights[worst]:.4g} mm between {kind}s {worst + 1} and "
            f"{worst + 2} in order of position, {usual:.4g} mm elsewhere; {_COPY_AGAIN[kind]}."
        )


def _frames(data: pydicom.Dataset, path: Path) -> list[Slice]:
    count = int(data.get("NumberOfFrames") or 1)
    own, shared = list(data.get(_FRAMES) or []), list(data.get(_SHARED) or [])
    if own and len(own) != count:
        raise VolumeError(
            f"{path}: damaged: it has {count} frames, but says of {len(own)} where they lie; copy it again."
        )
    # what stands outside of groups holds for a file of one slice; of several frames it cannot place each
    outside = [data] if count == 1 else []
    groups = [[*group, *shared] for group in ([[item] for item in own] or [[]] * count)]
    scalings = {_scaling(group) for group in groups}
    if len(scalings) > 1:
        # SimpleITK would scale all of them as the first
        raise VolumeError(
            f"{path}: its frames are scaled by {len(scalings)} pairs of RescaleSlope and RescaleIntercept, of which "
            "one alone would be read; convert it to NIfTI or NRRD, for example with dcm2niix."
        )
    size = (int(data.Columns), int(data.Rows))
    ends = turned_sum(data, path)
    return [replace(_slice(group, outside, size, path), turned_sum=ends) for group in groups]


def turned_sum(data: pydicom.Dataset, path: Path) -> float | None:
    """What a value of MONOCHROME1 and the value that SimpleITK makes of it add up to; None where it turns none round.

    Args:
        data: With TURNING_TAGS.
        path: Named in messages.

    Raises:
        VolumeError: A file of which SimpleITK does not say what it makes.
    """
    if data.get("PhotometricInterpretation") != "MONOCHROME1":
        return None
    allocated, stored, signed = int(data.BitsAllocated), int(data.BitsStored), bool(data.PixelRepresentation)
    # of 32 bits, and of values scaled by groups, SimpleITK does not say what it makes; of the third it reads none
    if allocated not in (8, 16) or _FRAMES in data or _SHARED in data or (signed and stored != allocated):
        raise VolumeError(
            f"{path}: its large values are dark (PhotometricInterpretation MONOCHROME1), which in a file of its kind "
            "cannot be read for certain; store it as MONOCHROME2 with the same values."
        )
    slope, intercept = float(data.get("RescaleSlope") or 1), float(data.get("RescaleIntercept") or 0)
    return slope * (-1 if signed else 2**stored - 1) + 2 * intercept


def _slice(groups: list[pydicom.Dataset], outside: list[pydicom.Dataset], size: tuple[int, int], path: Path) -> Slice:
    def numbers(sequence: str, keywords: tuple[str, ...], count: int) -> NDArray[np.float64] | None:
        for keyword in keywords:
            for place in [*_items(groups, sequence), *outside]:
                if (value := place.get(keyword)) not in (None, ""):
                    array = np.atleast_1d(np.array(value, dtype=np.float64))
                    if array.shape != (count,):
                        raise ValueError(f"{keyword} holds {array.size} numbers, not {count}")
                    return array
        return None

    cosines = numbers("PlaneOrientationSequence", ("ImageOrientationPatient",), 6)
    spacing = numbers("PixelMeasuresSequence", _SPACINGS, 2)
    thicknesses = [numbers("PixelMeasuresSequence", (keyword,), 1) for keyword in _THICKNESSES]
    return Slice(
        size,
        numbers("PlanePositionSequence", ("ImagePositionPatient",), 3),
        None if cosines is None else _directions(cosines, path),
        None if spacing is None else spacing[::-1],  # DICOM names the step from row to row first
        next((float(value[0]) for value in thicknesses if value is not None and value[0] > 0), None),
    )


def _directions(cosines: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """(3, 2) of length 1; what rounding leaves of it would make voxels larger or smaller."""
    axes = cosines.reshape(2, 3).T
    if not np.abs(axes.T @ axes - np.eye(2)).max() <= _ROUNDED_COSINES:  # NaN is no direction either
        raise VolumeError(
            f"{path}: its ImageOrientationPatient ({', '.join(f'{value:g}' for value in cosines)}) is no two "
            "directions of length 1 at a right angle; correct its header."
        )
    return np.asarray(axes / np.linalg.norm(axes, axis=0))


def _items(groups: list[pydicom.Dataset], sequence: str) -> list[pydicom.Dataset]:
    return [item for group in groups for item in group.get(sequence) or []]


def _scaling(groups: list[pydicom.Dataset]) -> tuple[float, float]:
    for item in _items(groups, "PixelValueTransformationSequence"):
        return float(item.get("RescaleSlope", 1)), float(item.get("RescaleIntercept", 0))
    return 1.0, 0.0
