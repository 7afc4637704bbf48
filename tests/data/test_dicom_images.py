"""Tests of DICOM files as images: by hand, reference (pydicom's window and table)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medcontrast.data.images.images import read_image
from medcontrast.data.images.pixels import read_pixels
from medcontrast.data.images.sources import ImageCase
from medcontrast.errors import ImageError

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
FRAMES = "1.2.840.10008.5.1.4.1.1.7.3"  # multi-frame grey secondary capture


def write_dicom(path: Path, array: NDArray[Any], **tags: Any) -> ImageCase:
    """A file in the byte order of the array."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRBigEndian if array.dtype.str.startswith(">") else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = tags.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows, data.Columns = array.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = array.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return ImageCase(path.name, path)


def test_dicom_by_its_window_by_its_values_and_inverted(tmp_path: Path) -> None:
    array = np.arange(0, 4000, 100, dtype=np.uint16).reshape(5, 8)
    plain = read_pixels(write_dicom(tmp_path / "a.dcm", array))
    np.testing.assert_allclose(plain[..., 0], array / 3900 * 255)
    window = {"WindowCenter": [1000, 40], "WindowWidth": [500, 80], "RescaleSlope": 1, "RescaleIntercept": -1000}
    found = read_pixels(write_dicom(tmp_path / "b.dcm", array, **window))
    np.testing.assert_allclose(
        found[..., 0], np.clip((array - 1000.0 - 750) / 500, 0, 1) * 255
    )  # the first of its windows
    assert read_image(ImageCase("a", tmp_path / "a.dcm"), channels=3, size=8).shape == (3, 8, 8)


def test_dicom_with_a_sigmoid_window_against_pydicom(tmp_path: Path) -> None:
    array = np.arange(0, 4000, 100, dtype=np.uint16).reshape(5, 8)
    tags = {"WindowCenter": 1500, "WindowWidth": 900, "RescaleSlope": 1, "RescaleIntercept": 0, "BitsStored": 12}
    case = write_dicom(tmp_path / "a.dcm", array, VOILUTFunction="SIGMOID", HighBit=11, **tags)
    from pydicom import dcmread
    from pydicom.pixels import apply_windowing

    shown = apply_windowing(array, dcmread(case.file)) / 4095
    np.testing.assert_allclose(read_pixels(case)[..., 0], shown * 255, atol=0.1)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"BitsStored": 12, "HighBit": 11},
        {"WindowCenter": 1500, "WindowWidth": 1000},
        {"WindowCenter": 1000, "WindowWidth": 3000, "RescaleSlope": 2, "RescaleIntercept": -900, "BitsStored": 12},
        {"WindowCenter": 500, "WindowWidth": 700, "PixelRepresentation": 1},
        {"WindowCenter": 500, "WindowWidth": 700, "VOILUTFunction": "SIGMOID"},
    ],
)
def test_dicom_whose_large_values_are_dark(tmp_path: Path, tags: dict[str, Any]) -> None:
    """An X-ray in MONOCHROME1 is the negative of the same values in MONOCHROME2, by its window and without one."""
    array = np.arange(0, 4000, 100, dtype=np.uint16).reshape(5, 8)
    if "BitsStored" in tags:
        tags = {**tags, "HighBit": tags["BitsStored"] - 1}
    bright = read_pixels(write_dicom(tmp_path / "a.dcm", array, **tags))
    dark = read_pixels(write_dicom(tmp_path / "b.dcm", array, PhotometricInterpretation="MONOCHROME1", **tags))
    np.testing.assert_allclose(dark, 255 - bright, atol=1e-9)
    assert len(np.unique(dark)) > 5


def test_dark_large_values_that_cannot_be_turned_round_for_certain_are_refused(tmp_path: Path) -> None:
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11}
    case = write_dicom(tmp_path / "a.dcm", np.zeros((5, 8), np.uint16), **tags)
    with pytest.raises(ImageError, match=r"^[^ ]*a\.dcm: its large values are dark .* store it as MONOCHROME2"):
        read_pixels(case)


TABLE = (np.arange(1200) ** 2 // 1200).astype(np.uint16) * 3  # of 12 bits, for values from 500


def with_table(path: Path, array: NDArray[Any], descriptor: list[int], table: Any, **tags: Any) -> ImageCase:
    """A table beside a window, which it is preferred to."""
    pydicom = pytest.importorskip("pydicom")
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW" if isinstance(table, bytes) else "US", table)
    tags = {"WindowCenter": 100, "WindowWidth": 10, **tags}
    return write_dicom(path, array, VOILUTSequence=pydicom.Sequence([item]), **tags)


@pytest.mark.parametrize(("words", "order"), [(True, "<u2"), (False, "<u2"), (True, ">u2")])
def test_dicom_by_its_table_against_pydicom(tmp_path: Path, words: bool, order: str) -> None:
    array = np.arange(0, 2000, 50, dtype=order).reshape(5, 8)
    table = TABLE.astype(order).tobytes() if words else TABLE.tolist()
    case = with_table(tmp_path / "a.dcm", array, [1200, 500, 12], table)
    from pydicom import dcmread
    from pydicom.pixels import apply_voi

    shown = apply_voi(array, dcmread(case.file))
    assert shown.min() == 0 and shown.max() == TABLE[-1] and len(np.unique(shown)) > 20
    np.testing.assert_allclose(read_pixels(case)[..., 0], shown / 4095 * 255)


def test_a_table_is_of_rescaled_values_and_of_those_in_the_file(tmp_path: Path) -> None:
    """Slope and intercept come before it; it is not turned round with MONOCHROME1, what it gives is."""
    array = np.arange(0, 2000, 50, dtype=np.uint16).reshape(5, 8)
    tags = {"RescaleSlope": 0.5, "RescaleIntercept": 400, "BitsStored": 12, "HighBit": 11}
    bright = read_pixels(with_table(tmp_path / "a.dcm", array, [1200, 500, 12], TABLE.tolist(), **tags))
    places = np.clip(array.astype(int) // 2 + 400 - 500, 0, 1199)
    np.testing.assert_allclose(bright[..., 0], TABLE[places] / 4095 * 255)
    tags["PhotometricInterpretation"] = "MONOCHROME1"
    dark = read_pixels(with_table(tmp_path / "b.dcm", array, [1200, 500, 12], TABLE.tolist(), **tags))
    np.testing.assert_allclose(dark, 255 - bright)


def test_a_table_of_bytes(tmp_path: Path) -> None:
    array = np.arange(40, dtype=np.uint16).reshape(5, 8)
    table = bytes(range(0, 252, 6))
    case = with_table(tmp_path / "a.dcm", array, [42, 0, 8], table)
    np.testing.assert_allclose(read_pixels(case)[..., 0], array * 6)


@pytest.mark.parametrize(
    ("descriptor", "words"),
    [
        (
            [1300, 0, 12],
            r"^[^ ]*a\.dcm: its VOI LUT holds 1200 values, and says 1300 of 12 bits; remove or repair it\.",
        ),
        ([0, 0, 12], "holds 1200 values, and says 65536 of 12 bits"),
        ([1200, 0, 0], "says 1200 of 0 bits"),
        ([1200, 0], "damaged: its DICOM header cannot be read"),
    ],
)
def test_a_damaged_table(tmp_path: Path, descriptor: list[int], words: str) -> None:
    case = with_table(tmp_path / "a.dcm", np.zeros((5, 8), np.uint16), descriptor, TABLE.tolist())
    with pytest.raises(ImageError, match=words):
        read_pixels(case)


def test_dicom_in_colour(tmp_path: Path) -> None:
    case = write_dicom(
        tmp_path / "a.dcm",
        COLOURS,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.7",
    )
    np.testing.assert_array_equal(read_pixels(case), COLOURS)


@pytest.mark.parametrize("stored", [12, 16])
def test_dicom_in_colour_of_more_bits(tmp_path: Path, stored: int) -> None:
    array = np.random.default_rng(0).integers(0, 2**stored, (5, 8, 3), dtype=np.uint16)
    case = write_dicom(
        tmp_path / "a.dcm",
        array,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsStored=stored,
        HighBit=stored - 1,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.7",
    )
    np.testing.assert_allclose(read_pixels(case), array * 255.0 / (2**stored - 1))


def test_dicom_that_cannot_be_used(tmp_path: Path) -> None:
    case = write_dicom(tmp_path / "a.dcm", np.zeros((12, 4), np.uint16), Rows=4, NumberOfFrames=3, SOPClassUID=FRAMES)
    with pytest.raises(ImageError, match=r"a\.dcm: holds 3 frames; write one a file"):
        read_pixels(case)
    narrow = write_dicom(tmp_path / "b.dcm", np.zeros((5, 8), np.uint16), WindowCenter=3, WindowWidth=-5)
    with pytest.raises(ImageError, match=r"b\.dcm: its window is -5 wide; expected more than 0\."):
        read_pixels(narrow)
    case.file.write_bytes(b"words")
    with pytest.raises(ImageError, match=r"a\.dcm: cannot be read as a DICOM image\."):
        read_pixels(case)
