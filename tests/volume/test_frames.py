"""Geometry, by hand: DICOM files of several frames against the positions that their functional groups hold."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

from medcontrast.errors import VolumeError
from medcontrast.volume import read_grid, read_volume
from medcontrast.volume.frames import read_frames

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def groups(**sequences: dict[str, Any] | None) -> Dataset:
    """Functional groups of one item each; None leaves one out."""
    made = Dataset()
    for name, tags in sequences.items():
        if tags is None:
            continue
        item = Dataset()
        for keyword, value in tags.items():
            setattr(item, keyword, value)
        setattr(made, f"{name}Sequence", [item])
    return made


def pixels(index: int) -> np.ndarray:
    """(rows, columns) 100 k + column + 10 row."""
    return (100 * index + np.arange(3)[None] + 10 * np.arange(4)[:, None]).astype(np.int16)


def placed(heights: Sequence[float], **more: dict[str, Any]) -> list[Dataset]:
    return [groups(PlanePosition={"ImagePositionPatient": [10, 20, height]}, **more) for height in heights]


def shared_groups(orientation: Sequence[float] | None = AXIAL, **more: dict[str, Any]) -> Dataset:
    return groups(
        PixelMeasures={"PixelSpacing": [0.7, 0.5], "SliceThickness": 9},  # frames overlap, so it is no distance
        PlaneOrientation=None if orientation is None else {"ImageOrientationPatient": list(orientation)},
        **more,
    )


def write_frames(
    path: Path,
    frames: list[Dataset] | None,
    shared: Dataset | None = None,
    *,
    count: int | None = None,
    number: int = 1,
    first: int = 0,
    **outside: Any,
) -> Path:
    """Writes one MR file; returns its folder. `frames` of None leaves the groups out."""
    count = count or len(frames or ())
    path.parent.mkdir(exist_ok=True)
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = EnhancedMRImageStorage
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
    item.SeriesInstanceUID, item.StudyInstanceUID, item.Modality = "1.2.3.4", "1.2.3", "MR"
    item.NumberOfFrames, item.InstanceNumber = count, number
    item.Rows, item.Columns, item.SamplesPerPixel, item.PhotometricInterpretation = 4, 3, 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 16, 15, 1
    if frames is not None:
        item.PerFrameFunctionalGroupsSequence = frames
        item.SharedFunctionalGroupsSequence = [shared_groups() if shared is None else shared]
    for keyword, value in outside.items():
        setattr(item, keyword, value)
    item.PixelData = np.stack([pixels(first + k) for k in range(count)]).tobytes()
    item.save_as(path, enforce_file_format=True)
    return path.parent


def refused(folder: Path, sentence: str) -> None:
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(VolumeError, match=sentence):
            read(folder)


@pytest.mark.parametrize("heights", [(0, 3, 6, 9), (9, 6, 3, 0), (0, 6, 3, 9), (3, 9, 0, 6)])
def test_frames_are_sorted_by_position(tmp_path: Path, heights: tuple[int, ...]) -> None:
    folder = write_frames(tmp_path / "scan" / "one.dcm", placed(heights))
    volume = read_volume(folder, "image")
    expected = np.diag([-0.5, -0.7, 3.0, 1.0])
    expected[:3, 3] = [-10, -20, 0]
    np.testing.assert_allclose(volume.grid.affine, expected, atol=1e-9)
    for k, frame in enumerate(np.argsort(heights)):
        np.testing.assert_array_equal(volume.array[:, :, k], pixels(int(frame)).T)
    assert volume.grid.warnings == () and read_grid(folder).same_as(volume.grid, 0.0)


def test_oblique_frames_with_an_orientation_each(tmp_path: Path) -> None:
    row, column, step = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0]), np.array([-1.2, 1.6, 0.0])
    positions = [np.array([5.0, -6.0, 7.0]) + k * step for k in (2, 0, 1)]
    frames = [
        groups(
            PlanePosition={"ImagePositionPatient": position.round(6).tolist()},
            PlaneOrientation={"ImageOrientationPatient": [*row, *column]},
        )
        for position in positions
    ]
    volume = read_volume(write_frames(tmp_path / "scan" / "one.dcm", frames, shared_groups(None)), "image")
    for frame, position in enumerate(positions):
        x, y, z = position + row * 0.5 * 2 + column * 0.7 * 3
        index = np.rint(np.linalg.solve(volume.grid.affine, [-x, -y, z, 1])).astype(int)
        np.testing.assert_allclose(volume.grid.affine @ index, [-x, -y, z, 1], atol=1e-6)
        assert volume.array[tuple(index[:3])] == pixels(frame)[3, 2]


def test_frames_that_form_no_stack_are_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "echoes" / "one.dcm", placed([0, 3, 6, 0, 3, 6]))
    refused(
        folder,
        r"echoes: two frames lie at the same position; save each echo or time point as a file of its own, for example",
    )
    folder = write_frames(tmp_path / "gap" / "one.dcm", placed([0, 3, 9, 12]))
    refused(
        folder,
        r"gap: frames are missing or unevenly spaced: 6 mm between frames 2 and 3 in order of position, 3 mm els",
    )
    localizer = placed([0], PlaneOrientation={"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]})
    folder = write_frames(
        tmp_path / "mixed" / "one.dcm",
        localizer + placed([3, 6], PlaneOrientation={"ImageOrientationPatient": list(AXIAL)}),
        shared_groups(None),
    )
    refused(folder, r"mixed: its frames differ in size, spacing or orientation; keep those of one stack only\.$")


def test_frames_that_do_not_say_where_they_lie_are_refused(tmp_path: Path) -> None:
    # as a multi-frame secondary capture does, and nuclear medicine, which SimpleITK takes for a stack at 0, 0, 0
    outside = {"PixelSpacing": [0.7, 0.5], "ImageOrientationPatient": list(AXIAL), "SpacingBetweenSlices": 3}
    no_place = r": does not say where its frames lie: 3 of 3 have no ImagePositionPatient; convert it to NIfTI .* dcm2n"
    refused(write_frames(tmp_path / "capture" / "one.dcm", None, count=3), "capture" + no_place)
    refused(write_frames(tmp_path / "nuclear" / "one.dcm", None, count=3, **outside), "nuclear" + no_place)
    at_one_place = {"ImagePositionPatient": [1, 2, 3]}  # of the first frame, or of all
    refused(write_frames(tmp_path / "dose" / "one.dcm", None, count=3, **outside, **at_one_place), "dose" + no_place)
    folder = write_frames(tmp_path / "some" / "one.dcm", [*placed([0, 3]), groups()])
    refused(folder, r"some: does not say where its frames lie: 1 of 3 have no ImagePositionPatient")
    turned = placed([0], PlaneOrientation={"ImageOrientationPatient": list(AXIAL)}) + placed([3])
    folder = write_frames(tmp_path / "turned" / "one.dcm", turned, shared_groups(None))
    refused(folder, r"turned: does not say where its frames lie: 1 of 2 have no ImageOrientationPatient")
    folder = write_frames(tmp_path / "few" / "one.dcm", placed([0, 3]), count=3)
    refused(folder, r"few.*one\.dcm: damaged: it has 3 frames, but says of 2 where they lie; copy it again\.$")
    frames = [groups(PlanePosition={"ImagePositionPatient": [1, 2]}) for _ in range(2)]
    folder = write_frames(tmp_path / "flat" / "one.dcm", frames)
    refused(folder, r"one\.dcm: damaged: its DICOM header cannot be read \(ImagePositionPatient holds 2 numbers, not")


def test_directions_of_frames_that_form_no_plane_are_refused(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "scan" / "one.dcm", placed([0, 3]), shared_groups((1, 0, 0, 0, 0, 0.5)))
    refused(
        folder, r"one\.dcm: its ImageOrientationPatient \(1, 0, 0, 0, 0, 0\.5\) is no two directions of length 1 at"
    )


def test_frames_scaled_each_in_its_own_way_are_refused(tmp_path: Path) -> None:
    def scaled(*slopes: float) -> list[Dataset]:
        values = [{"RescaleSlope": slope, "RescaleIntercept": -7, "RescaleType": "US"} for slope in slopes]
        return [placed([3 * k], PixelValueTransformation=value)[0] for k, value in enumerate(values)]

    volume = read_volume(write_frames(tmp_path / "same" / "one.dcm", scaled(2, 2, 2)), "image")
    np.testing.assert_array_equal(volume.array[:, :, 2], pixels(2).T * 2 - 7)
    refused(
        write_frames(tmp_path / "own" / "one.dcm", scaled(1, 2, 3)),
        r"one\.dcm: its frames are scaled by 3 pairs of RescaleSlope and RescaleIntercept, of which one alone would",
    )


def test_frames_whose_large_values_are_dark_are_refused(tmp_path: Path) -> None:
    for name, heights in (("one", [0]), ("three", [0, 3, 6])):
        folder = write_frames(tmp_path / name / "one.dcm", placed(heights), PhotometricInterpretation="MONOCHROME1")
        refused(
            folder, r"one\.dcm: its large values are dark \(PhotometricInterpretation MONOCHROME1\), which in a file"
        )


def test_one_frame_is_a_slice_with_a_place(tmp_path: Path) -> None:
    grid = read_grid(write_frames(tmp_path / "scan" / "one.dcm", placed([5])))
    np.testing.assert_allclose(grid.affine, [[-0.5, 0, 0, -10], [0, -0.7, 0, -20], [0, 0, 9, 5], [0, 0, 0, 1]])
    assert grid.warnings == ()


def test_a_series_of_files_with_one_frame_each(tmp_path: Path) -> None:
    heights = [6, 0, 3]
    for k, height in enumerate(heights):
        write_frames(tmp_path / "scan" / f"{k}.dcm", placed([height]), number=k + 1, first=k)
    volume = read_volume(tmp_path / "scan", "image")
    np.testing.assert_allclose(volume.grid.affine @ [0, 0, 2, 1], [-10, -20, 6, 1])
    for k, frame in enumerate((1, 2, 0)):
        np.testing.assert_array_equal(volume.array[:, :, k], pixels(frame).T)


def test_several_files_of_several_frames_are_refused(tmp_path: Path) -> None:
    for k in range(2):
        write_frames(tmp_path / "scan" / f"{k}.dcm", placed([0, 3]), number=k + 1)
    refused(
        tmp_path / "scan",
        r"scan: holds 2 files of one series, of which one or more have several frames; give one such file in a",
    )


def test_a_header_against_the_rules_of_dicom_is_read_without_a_word(tmp_path: Path) -> None:
    """Warnings are errors in these tests, and pydicom warns of letters that it does not know."""
    folder = write_frames(tmp_path / "scan" / "one.dcm", placed([0, 3]))
    item = pydicom.dcmread(folder / "one.dcm")
    item.SpecificCharacterSet = "ISO_IR 999"
    with pytest.warns(UserWarning, match="Unknown encoding"):
        item.save_as(folder / "one.dcm")
    assert read_grid(folder).spacing_mm == (0.5, 0.7, 3.0)


def test_frames_a_tenth_off_are_unevenly_spaced(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "scan" / "one.dcm", placed([0, 3, 6.3, 9.3]))
    refused(folder, r"scan: frames are missing or unevenly spaced: 3\.3 mm between frames 2 and 3 in order of")


def test_what_a_frame_says_itself_leads(tmp_path: Path) -> None:
    frames = placed([0, 3], PixelMeasures={"PixelSpacing": [0.9, 0.8]})
    grid = read_grid(write_frames(tmp_path / "scan" / "one.dcm", frames))  # the shared groups say 0.7 and 0.5
    assert grid.spacing_mm == pytest.approx((0.8, 0.9, 3.0))


def test_threads_leave_warnings_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases are read by several threads, and pydicom's warnings are switched off meanwhile for all of them."""
    path = write_frames(tmp_path / "scan" / "one.dcm", placed([0])) / "one.dcm"
    entered, read = threading.Barrier(2), pydicom.dcmread

    def together(*args: Any, **named: Any) -> Dataset:
        with contextlib.suppress(threading.BrokenBarrierError):
            entered.wait(0.2)  # both are inside, or one alone
        time.sleep(0.05 * (threading.current_thread().name == "second"))
        return read(*args, **named)

    monkeypatch.setattr(pydicom, "dcmread", together)
    before = list(warnings.filters)
    threads = [threading.Thread(target=read_frames, args=(path,), name=name) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
