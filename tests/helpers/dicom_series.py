"""A DICOM series for tests, and its tags as they want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_series(
    folder: Path,
    positions: np.ndarray,
    *,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    names: list[str] | None = None,
    series: str = "1.2.3.4",
    slopes: list[float] | None = None,
) -> list[np.ndarray]:
    """One CT slice a position; slice k holds 100 k + column + 10 row. Returns the stored slices (rows, columns)."""
    folder.mkdir(exist_ok=True)
    slices = []
    for index, position in enumerate(positions):
        pixels = (100 * index + np.arange(3)[None] + 10 * np.arange(4)[:, None]).astype(np.int16)
        slices.append(pixels)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item = pydicom.Dataset()
        item.file_meta = meta
        item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        item.SeriesInstanceUID, item.StudyInstanceUID, item.Modality = series, "1.2.3", "CT"
        item.ImageOrientationPatient, item.ImagePositionPatient = list(orientation), [round(v, 6) for v in position]
        item.PixelSpacing = [0.7, 0.5]  # between rows, between columns
        item.Rows, item.Columns, item.SamplesPerPixel, item.PhotometricInterpretation = 4, 3, 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
        item.RescaleSlope, item.RescaleIntercept = (slopes[index] if slopes else 1), -1000
        item.InstanceNumber = index + 1
        item.PixelData = pixels.tobytes()
        item.save_as(folder / (names[index] if names else f"slice{index}.dcm"), enforce_file_format=True)
    return slices


def changed(folder: Path, **tags: Any) -> Path:
    """Sets tags of every slice."""
    for path in folder.iterdir():
        item = pydicom.dcmread(path)
        for keyword, value in tags.items():
            setattr(item, keyword, value)
        item.save_as(path)
    return folder
