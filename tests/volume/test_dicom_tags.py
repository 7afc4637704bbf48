"""What tags of DICOM slices say and leave out: place, size, kind and darkness. Geometry, by hand, every sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_series import changed, write_series
from pydicom import uid

from medcontrast.errors import VolumeError
from medcontrast.volume import read_grid, read_volume


@pytest.mark.parametrize(
    "kind",
    [
        uid.MRImageStorage,
        uid.NuclearMedicineImageStorage,
        uid.ComputedRadiographyImageStorage,
        uid.DigitalXRayImageStorageForPresentation,
        uid.XRayAngiographicImageStorage,
    ],
)
@pytest.mark.parametrize("detector", [None, [3.0, 3.0]])
def test_slices_of_any_kind_lie_where_their_tags_say(tmp_path: Path, kind: str, detector: list[float] | None) -> None:
    """SimpleITK passes over PixelSpacing in some kinds, and over the position in others."""
    slices = write_series(tmp_path / "scan", np.array([[1, 2, 3.0 * k] for k in range(3)]))
    changed(tmp_path / "scan", SOPClassUID=kind, **({} if detector is None else {"ImagerPixelSpacing": detector}))
    volume = read_volume(tmp_path / "scan", "image")
    np.testing.assert_allclose(volume.grid.affine, [[-0.5, 0, 0, -1], [0, -0.7, 0, -2], [0, 0, 3, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(volume.array, np.stack(slices).T - 1000.0)


@pytest.mark.parametrize(
    ("kind", "allocated", "stored", "signed"),
    [("<u2", 16, 16, 0), ("<u2", 16, 12, 0), ("<i2", 16, 16, 1), ("u1", 8, 8, 0), ("i1", 8, 8, 1)],
)
@pytest.mark.parametrize("scaling", [None, (1, -1024), (0.37, 11.5)])
@pytest.mark.parametrize("count", [1, 3])
def test_values_are_the_stored_ones_where_large_ones_are_dark(
    tmp_path: Path, kind: str, allocated: int, stored: int, signed: int, scaling: tuple[float, float] | None, count: int
) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0, 3.0 * k] for k in range(count)]))
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    pixels = np.random.default_rng(0).integers(low, high, (count, 4, 3), endpoint=True).astype(kind)
    for k in range(count):
        path = tmp_path / "scan" / f"slice{k}.dcm"
        item = pydicom.dcmread(path)
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = (
            allocated,
            stored,
            stored - 1,
            signed,
        )
        # of several slices the middle one is stored bright
        item.PhotometricInterpretation = "MONOCHROME2" if k == 1 else "MONOCHROME1"
        item.RescaleSlope, item.RescaleIntercept = scaling or (1, 0)
        if scaling is None:
            del item.RescaleSlope, item.RescaleIntercept
        item.PixelData = pixels[k].tobytes()
        item["PixelData"].VR = "OB" if allocated == 8 else "OW"
        item.save_as(path)
    slope, intercept = scaling or (1, 0)
    expected = np.stack([pydicom.dcmread(tmp_path / "scan" / f"slice{k}.dcm").pixel_array for k in range(count)]).T
    np.testing.assert_array_equal(expected, pixels.T)
    array = read_volume(tmp_path / "scan", "image").array
    np.testing.assert_array_equal(array, (expected * float(slope) + intercept).astype(np.float32))


@pytest.mark.parametrize(
    "tags",
    [{"BitsStored": 12, "HighBit": 11}, {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31, "PixelData": bytes(48)}],
)
def test_dark_values_that_cannot_be_turned_back_are_refused(tmp_path: Path, tags: dict[str, Any]) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0, 3.0 * k] for k in range(3)]))
    changed(tmp_path / "scan", PhotometricInterpretation="MONOCHROME1", **tags)
    sentence = (
        r"slice\d\.dcm: its large values are dark \(PhotometricInterpretation MONOCHROME1\), which in a file of its"
    )
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(VolumeError, match=sentence):
            read(tmp_path / "scan")


def without(folder: Path, *keywords: str, every: int = 1) -> Path:
    """Takes tags away from every n-th slice."""
    for path in sorted(folder.iterdir())[::every]:
        item = pydicom.dcmread(path)
        for keyword in keywords:
            delattr(item, keyword)
        item.save_as(path)
    return folder


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize(("every", "missing"), [(1, 4), (2, 2)])
def test_dicom_slices_that_do_not_say_where_they_lie(tmp_path: Path, tag: str, every: int, missing: int) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0, 3.0 * k] for k in range(4)]))
    sentence = (
        rf"scan: does not say where its slices lie: {missing} of 4 have no {tag}; export the series again with it"
    )
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(VolumeError, match=sentence):
            read(without(tmp_path / "scan", tag, every=every) if read is read_grid else tmp_path / "scan")


def test_what_one_dicom_slice_leaves_out(tmp_path: Path) -> None:
    def slice_without(*tags: str) -> Path:
        write_series(tmp_path / "scan", np.array([[1.0, 2.0, 3.0]]), orientation=(0, 1, 0, 0, 0, -1))
        return without(tmp_path / "scan", *tags)

    sides = "does not say how it lies or which side is left (its header has no ImageOrientationPatient); its axes are"
    place = (
        "does not say where it lies (its header has no ImagePositionPatient); its first voxel is taken as at 0, 0, 0"
    )
    thick = "does not say how thick its one slice is (its header has no SliceThickness); 1 mm is taken, for millilitres"
    for tags, expected in (
        ((), [thick]),
        (("ImagePositionPatient",), [place, thick]),
        (("ImagePositionPatient", "ImageOrientationPatient"), [sides, place, thick]),
    ):
        grid = read_grid(slice_without(*tags))
        assert grid.warnings == read_volume(tmp_path / "scan", "image").grid.warnings
        for warning, text in zip(grid.warnings, expected, strict=True):
            assert warning.startswith(f"{tmp_path / 'scan'}: {text}")
    np.testing.assert_array_equal(grid.affine, np.diag([-0.5, -0.7, 1, 1]))
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(
            VolumeError, match=r"scan: does not say how large its voxels are: .* has no PixelSpacing; a"
        ):
            read(slice_without("PixelSpacing"))


@pytest.mark.parametrize(
    ("thickness", "distance", "expected"), [(5.0, None, 5.0), (5.0, 6.5, 6.5), (None, 6.5, 6.5), (4.0, -2.0, 4.0)]
)
def test_one_dicom_slice_is_as_thick_as_it_says(
    tmp_path: Path, thickness: float | None, distance: float | None, expected: float
) -> None:
    write_series(tmp_path / "scan", np.array([[1.0, 2.0, 3.0]]))
    item = pydicom.dcmread(tmp_path / "scan" / "slice0.dcm")
    item.SliceThickness, item.SpacingBetweenSlices = thickness, distance
    item.save_as(tmp_path / "scan" / "slice0.dcm")
    grid = read_grid(tmp_path / "scan")
    assert grid.spacing_mm == (0.5, 0.7, expected) and grid.warnings == ()


def test_text_that_reads_like_another_format_means_nothing(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "scan", np.array([[1.0, 2.0, 3.0]]))
    changed(tmp_path / "scan", ImageComments="a MetaImage has\nNDims = 73\nElementDataFile = s%d.raw 0\n")
    np.testing.assert_array_equal(read_volume(tmp_path / "scan", "image").array[:, :, 0], slices[0].T - 1000)
