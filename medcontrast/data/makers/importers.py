"""Brings the left-atrium benchmark's two public forms into NIfTI files and a manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.listing import Tree
from medcontrast.data.makers.phantom import LEFT_ATRIUM
from medcontrast.errors import InputError, VolumeError
from medcontrast.files import require_free
from medcontrast.volume import Grid, read_volume, write_image, write_label

LA_SPACING_MM = 0.625
LA_DESCRIPTION = {
    "la-h5": (
        "Gadolinium-enhanced cardiac MR, left atrium cavity; the community's form: cropped to the atrium with a "
        "margin in x and y and z-scored before the crop, so intensities are used as stored."
    ),
    "la-nrrd": (
        "Gadolinium-enhanced cardiac MR, left atrium cavity; the challenge's own scans brought into the community's "
        "form: z-scored, then cropped to the atrium with a margin in x and y, so intensities are used as stored."
    ),
}
LA_WHOLE = "Gadolinium-enhanced cardiac MR, left atrium cavity; the challenge's own whole scans with their own values."
LA_MARGIN = 14
"""Voxels that stay around the atrium in x and y; the public files have 10 to 19, drawn for each scan."""
LA_LEAST = 112
"""Voxels that a crop has at least in x and y, where the scan has them: the patch of the published settings."""
LA_SOURCE = (
    "2018 Atrial Segmentation Challenge (Xiong et al., Medical Image Analysis 2021); splits and processed form of "
    "UA-MT (Yu et al., MICCAI 2019)"
)
LA_LICENCE = "research use, cite both"


@dataclass(frozen=True)
class Imported:
    """One case as read: arrays (x, y, z), the label of 0 and 1."""

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    grid: Grid


def import_la(
    form: str,
    source: Path,
    out: Path,
    *,
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    whole: bool = False,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda name: None,
) -> list[str]:
    """Converts every case, or the named ones, to `out`/CASE/{image,label}.nii.gz.

    With names, cases go to `out`/train/CASE and `out`/test/CASE. Every input is looked for before anything is
    written. Both forms come out alike, as the recipes la_* and la125_* take them: z-scored over the whole scan, then
    cropped around the atrium in x and y.

    Args:
        form: la-h5 (CASE/mri_norm2.h5 with the data sets image and label, the form of the UA-MT authors, which
            holds no geometry: 0.625 mm isotropic is written) or la-nrrd (CASE/lgemri.nrrd and CASE/laendo.nrrd,
            the challenge's own form, whose voxels stay where they lie in the world and whose label 255 becomes 1).
        source: Folder of case folders.
        out: Folder to write to.
        train: Names of training cases.
        test: Names of test cases.
        whole: Of la-nrrd leave scans whole and their values as they are.
        overwrite: Write over existing cases.
        tell: Called with each name that is done.

    Returns:
        The names.

    Raises:
        InputError: The form is unknown, a case is missing or not of this form, or an output exists.
        VolumeError: A file cannot be used, or a label to crop by is empty.
    """
    _require_form(form, whole)
    files, read = _READERS[form]
    places = {name: out / "train" / name for name in train} | {name: out / "test" / name for name in test}
    if not places:
        places = {path.parent.name: out / path.parent.name for path in sorted(source.glob(f"*/{files[0]}"))}
    missing = [source / name / file for name in places for file in files if not (source / name / file).is_file()]
    if missing or not places:
        first = missing[0] if missing else source / "CASE" / files[0]
        raise InputError(
            f"{source}: {form} needs CASE/{' and CASE/'.join(files)}; the first that is missing is {first}."
        )
    outputs = [place / file for place in places.values() for file in ("image.nii.gz", "label.nii.gz")]
    require_free(*outputs, overwrite=overwrite)
    for name, place in places.items():
        case = read(source / name)
        if form == "la-nrrd" and not whole:
            case = _as_published(case, source / name / files[1])
        write_image(place / "image.nii.gz", case.image, case.grid, overwrite=overwrite)
        write_label(place / "label.nii.gz", case.label, case.grid, overwrite=overwrite)
        tell(name)
    return list(places)


def la_tree(
    train: Sequence[str],
    test: Sequence[str],
    *,
    labeled: int,
    name: str,
    prefix: str = "",
    form: str = "la-h5",
    whole: bool = False,
) -> Tree:
    """The benchmark's manifest: the training names in the given order, the first `labeled` labeled; no validation.

    Args:
        train: Training names in their public order.
        test: Test names.
        labeled: How many of the training cases are labeled.
        name: Of the manifest.
        prefix: Put before every path, for example "la2018/".
        form: As for `import_la`.
        whole: As for `import_la`.

    Raises:
        InputError: There are fewer training cases than `labeled`, or the form is unknown.
    """
    _require_form(form, whole)
    if not 0 < labeled <= len(train):
        raise InputError(f"--labeled {labeled} must lie between 1 and the {len(train)} names of the training list.")
    splits = {"labeled": train[:labeled], "unlabeled": train[labeled:], "test": test}
    lists = {
        split: [_la_entry(case, f"{prefix}{'test' if split == 'test' else 'train'}/{case}") for case in cases]
        for split, cases in splits.items()
        if cases
    }
    return {
        "name": name,
        "description": LA_WHOLE if whole else LA_DESCRIPTION[form],
        "source": LA_SOURCE,
        "licence": LA_LICENCE,
        "channels": {"0": "MRI"},
        "labels": {"0": "background", "1": LEFT_ATRIUM},
        **lists,
    }


def _require_form(form: str, whole: bool) -> None:
    if form not in _READERS:
        raise InputError(f"there is no importer {form!r}; choose one of {', '.join(_READERS)}.")
    if whole and form != "la-nrrd":
        raise InputError("--whole goes with la-nrrd: the files of la-h5 are crops already.")


def _la_entry(case: str, folder: str) -> dict[str, str]:
    return {"case": case, "image": f"{folder}/image.nii.gz", "label": f"{folder}/label.nii.gz"}


def _read_h5(folder: Path) -> Imported:
    try:
        import h5py
    except ImportError:
        raise InputError("la-h5 needs the package h5py, which is not installed: pip install h5py") from None
    path = folder / "mri_norm2.h5"
    try:
        with h5py.File(path, "r") as file:
            if "image" not in file or "label" not in file:
                raise VolumeError(f"{path}: expected the data sets image and label, but it holds {sorted(file)}.")
            image, label = np.asarray(file["image"]), np.asarray(file["label"])
    except OSError as error:
        raise VolumeError(f"{path}: not a readable HDF5 file ({error}).") from None
    if image.ndim != 3 or image.shape != label.shape:
        raise VolumeError(f"{path}: image {image.shape} and label {label.shape} must be 3D and of one shape.")
    affine = np.diag([LA_SPACING_MM] * 3 + [1.0])
    grid = Grid((image.shape[0], image.shape[1], image.shape[2]), affine)
    return Imported(image.astype(np.float32), _binary(label, path), grid)


def _read_nrrd(folder: Path) -> Imported:
    image, label = read_volume(folder / "lgemri.nrrd", "image"), read_volume(folder / "laendo.nrrd", "label")
    difference = label.grid.difference(image.grid, tolerance_mm=0.05)
    if difference is not None:
        raise VolumeError(f"{label.path} does not lie on the grid of {image.path}: {difference}.")
    return Imported(image.array, _binary(label.array, label.path), image.grid)


def _as_published(case: Imported, label: Path) -> Imported:
    """A whole scan as the public files have it: z-scored, then cropped around the label in x and y; no voxel moves."""
    if not case.label.any():
        raise VolumeError(f"{label}: is empty, so that there is nothing to crop around; import with --whole.")
    values = case.image.astype(np.float64)
    image = ((values - values.mean()) / (values.std() or 1.0)).astype(np.float32)
    start, stop = [0, 0, 0], list(image.shape)
    for axis in (0, 1):
        held = np.flatnonzero(case.label.any(axis=tuple({0, 1, 2} - {axis})))
        first, end = int(held[0]), int(held[-1]) + 1
        margin = LA_MARGIN + max(0, LA_LEAST - (end - first)) // 2
        start[axis], stop[axis] = max(0, first - margin), min(image.shape[axis], end + margin)
    box = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
    affine = case.grid.affine.copy()
    affine[:, 3] = affine @ [*start, 1]
    cropped = image[box]
    return Imported(cropped, case.label[box], Grid((cropped.shape[0], cropped.shape[1], cropped.shape[2]), affine))


def _binary(label: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    values = np.unique(label)
    if not set(values.tolist()) <= {0, 1, 255}:
        raise VolumeError(f"{path}: expected a label of 0 and 1 (or 255), but it holds {values[:6].tolist()}.")
    return (label > 0).astype(np.uint8)


_READERS: dict[str, tuple[tuple[str, ...], Callable[[Path], Imported]]] = {
    "la-h5": (("mri_norm2.h5",), _read_h5),
    "la-nrrd": (("lgemri.nrrd", "laendo.nrrd"), _read_nrrd),
}
