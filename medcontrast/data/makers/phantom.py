"""A left-atrium-like GE-MRI generator: scans with known truth, for the quickstart and for tests; no data needed.

Every case is a function of (seed, case index) alone.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medcontrast.data.listing import write_manifest
from medcontrast.data.makers.anatomy import Anatomy, draw_anatomy
from medcontrast.data.manifest import SPLITS
from medcontrast.errors import InputError
from medcontrast.files import require_free, write_atomically
from medcontrast.transforms.rotation import rotation

Array = NDArray[np.float32]
LEFT_ATRIUM = {
    "name": "left atrium",
    "color": [203, 108, 81],
    "category": ["SCT", "123037004", "Anatomical Structure"],
    "type": ["SCT", "82471001", "Left atrium"],
}


@dataclass(frozen=True)
class PhantomCase:
    """One scan with its truth.

    Attributes:
        image: (x, y, z) int16, arbitrary MR units.
        label: (x, y, z) uint8, 1 in the left atrium.
        affine: (4, 4), voxel index to world RAS+ in mm.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]


def make_phantom(
    seed: int,
    index: int,
    *,
    shape: tuple[int, int, int] = (64, 64, 40),
    spacing_mm: tuple[float, float, float] = (2.2, 2.2, 2.8),
) -> PhantomCase:
    """Makes one case.

    Args:
        seed: Of the whole data set.
        index: Of the case in it; a case does not depend on how many others there are.
        shape: Voxels along x, y, z; a case differs from it by up to 4, 4 and 2.
        spacing_mm: Voxel size; a case differs from it by up to 8 %, in plane and through plane apart.
    """
    random = np.random.default_rng([seed, index])
    size = [side + int(random.integers(-reach, reach + 1)) for side, reach in zip(shape, (4, 4, 2), strict=True)]
    in_plane, through = random.uniform(0.92, 1.08, 2)
    spacing = np.array([spacing_mm[0] * in_plane, spacing_mm[1] * in_plane, spacing_mm[2] * through])
    anatomy = draw_anatomy(random, (size[0], size[1], size[2]), spacing)
    image = _scan(random, anatomy, spacing)
    return _store(random, image, anatomy.atrium.astype(np.uint8), spacing)


def write_phantom(
    folder: Path,
    *,
    cases: int | None = None,
    seed: int = 0,
    labeled: int = 4,
    unlabeled: int | None = None,
    validation: int = 8,
    test: int = 8,
    shape: tuple[int, int, int] = (64, 64, 40),
    spacing_mm: tuple[float, float, float] = (2.2, 2.2, 2.8),
    name: str | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda case: None,
) -> Path:
    """Writes images/, labels/ and manifest.json; returns the manifest's path.

    Cases 0, 1, ... go to labeled, unlabeled, validation and test in this order.

    Args:
        folder: Made when it is not there.
        cases: How many in all; default the sum of the splits.
        seed: Of the whole data set.
        labeled: Cases with labels to learn from.
        unlabeled: Cases without; default what `cases` leaves, else 36. Their label files are written too, for
            scoring afterwards; training never opens them.
        validation: Cases to watch.
        test: Cases to report.
        shape: See `make_phantom`.
        spacing_mm: See `make_phantom`.
        name: Of the manifest; default phantom_NofM, with N labeled cases out of M training cases.
        overwrite: Write over what is there.
        tell: Called with each case's name that is done.

    Raises:
        InputError: The numbers do not fit together.
        OutputError: There is a manifest in the folder already, or the folder cannot be written to.
    """
    counts = _counts(cases, labeled, unlabeled, validation, test)
    if min(shape) < 16:
        raise InputError(f"the phantom needs at least 16 voxels along each axis, but got {list(shape)}.")
    path = folder / "manifest.json"
    require_free(path, overwrite=overwrite)
    splits: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
    order = [split for split in SPLITS for _ in range(counts[split])]
    for index, split in enumerate(order):
        entry = _write_case(folder, index, make_phantom(seed, index, shape=shape, spacing_mm=spacing_mm))
        splits[split].append(entry)
        tell(entry["case"])
    training = counts["labeled"] + counts["unlabeled"]
    tree = {
        "name": name or f"phantom_{counts['labeled']}of{training}",
        "description": f"Synthetic left-atrium-like GE-MRI, seed {seed}; no patient's.",
        "source": "medcontrast data phantom",
        "licence": "none needed",
        "root": ".",
        "channels": {"0": "MRI"},
        "labels": {"0": "background", "1": LEFT_ATRIUM},
        **{split: entries for split, entries in splits.items() if entries},
    }
    write_manifest(path, tree, overwrite=overwrite)
    return path


def _counts(cases: int | None, labeled: int, unlabeled: int | None, validation: int, test: int) -> dict[str, int]:
    rest = labeled + validation + test
    if unlabeled is None:
        unlabeled = 36 if cases is None else cases - rest
    counts = dict(zip(SPLITS, (labeled, unlabeled, validation, test), strict=True))
    total = sum(counts.values())
    if min(counts.values()) < 0 or total < 1 or (cases is not None and total != cases):
        shown = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise InputError(
            f"the splits must be 0 or more each and add up to the number of cases ({cases}), but got {shown}."
        )
    return counts


def _write_case(folder: Path, index: int, case: PhantomCase) -> dict[str, str]:
    name = f"phantom_{index:03d}"
    entry = {"case": name, "image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}
    for key, array in (("image", case.image), ("label", case.label)):
        _write_nifti(folder / entry[key], array, case.affine)
    return entry


def _write_nifti(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> None:
    file = nibabel.Nifti1Image(array, affine)
    file.header.set_xyzt_units("mm")
    file.set_sform(affine, code="scanner")
    file.set_qform(affine, code="scanner")
    packed = gzip.compress(file.to_bytes(), compresslevel=1, mtime=0)
    write_atomically(path, lambda stream: stream.write(packed))


def _scan(random: np.random.Generator, anatomy: Anatomy, spacing: NDArray[np.float64]) -> Array:
    """The scanner: coil falloff, blur, breathing ghosts, Rician noise; and units that differ from scan to scan."""
    image = anatomy.signal * _bias(random, anatomy.signal.shape)
    sharpness = random.uniform(1.0, 2.2)  # mm, standard deviation of the point spread
    image = ndimage.gaussian_filter(image, sharpness / spacing, mode="nearest")
    ghost, shift = random.uniform(0.0, 0.07), int(random.integers(7, 19))
    image = image + ghost * (np.roll(image, shift, axis=1) + np.roll(image, -shift, axis=1))
    sigma = random.uniform(0.03, 0.09)
    noise = random.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sigma)
    image = np.hypot(image + noise[0], noise[1])
    gain = np.exp(random.uniform(np.log(150.0), np.log(900.0)))
    scanned: Array = (image * gain + random.uniform(0.0, 0.05) * gain).astype(np.float32)
    return scanned


def _bias(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij", sparse=True)
    a, b, c, d, e = random.normal(0.0, 0.16, 5).astype(np.float32)
    falloff = np.float32(random.uniform(0.0, 0.35))  # the array coil lies on the chest, so the back is darker
    bias: Array = np.exp(a * x + b * z + c * x * y + d * (x * x - y * y) + e * z * y + falloff * y)
    return bias


def _store(
    random: np.random.Generator, image: Array, label: NDArray[np.uint8], spacing: NDArray[np.float64]
) -> PhantomCase:
    """Chooses an oblique frame and, in a third of the cases, mirrors stored axes; the anatomy stays where it is."""
    tilt = rotation(np.deg2rad(random.uniform(-15.0, 15.0, 3)))
    affine = np.eye(4)
    affine[:3, :3] = tilt * spacing
    affine[:3, 3] = random.uniform(-60.0, 60.0, 3) - affine[:3, :3] @ (np.array(image.shape) / 2)
    stored = np.clip(np.rint(image), 0, 32767).astype(np.int16)
    if random.random() < 1 / 3:
        for axis in np.flatnonzero(random.integers(0, 2, 3)).tolist():
            stored, label = np.flip(stored, axis), np.flip(label, axis)
            affine[:3, 3] += affine[:3, axis] * (image.shape[axis] - 1)
            affine[:3, axis] *= -1.0
    return PhantomCase(np.ascontiguousarray(stored), np.ascontiguousarray(label), affine)
