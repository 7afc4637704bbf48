"""Geometry: DICOM series against positions computed from their tags."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import changed, write_series
from pydicom import uid
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medcontrast.errors import VolumeError
from medcontrast.volume import read_grid, read_volume, write_label


@pytest.mark.parametrize("reverse_names", [False, True])
@pytest.mark.parametrize("direction", [1, -1])
def test_dicom_slices_are_sorted_by_position(tmp_path: Path, direction: int, reverse_names: bool) -> None:
    positions = np.array([[10, 20, 30 + direction * 2.5 * k] for k in range(5)], dtype=float)
    names = [f"{9 - k if reverse_names else k}.dcm" for k in range(5)]
    slices = write_series(tmp_path / "scan", positions, names=names)
    volume = read_volume(tmp_path / "scan", "image")
    assert volume.array.shape == (3, 4, 5)
    lowest = 0 if direction == 1 else 4
    # columns run to the patient's left (-x in RAS), rows to the back (-y), slices upwards
    expected = np.diag([-0.5, -0.7, 2.5, 1.0])
    expected[:3, 3] = [-10, -20, positions[lowest, 2]]
    np.testing.assert_allclose(volume.grid.affine, expected, atol=1e-9)
    for k in range(5):
        stored = slices[k if direction == 1 else 4 - k]
        np.testing.assert_array_equal(volume.array[:, :, k], stored.T - 1000.0)
    assert read_grid(tmp_path / "scan").same_as(volume.grid, 0.0)


def test_dicom_oblique_and_tilted_gantry(tmp_path: Path) -> None:
    row, column = np.array([0.8, 0.6, 0.0]), np.array([-0.6, 0.8, 0.0])
    step = np.array([0.0, 0.5, 2.0])  # not along the normal: a tilted gantry
    positions = np.array([[5.0, -6.0, 7.0] + k * step for k in range(4)])
    slices = write_series(tmp_path / "scan", positions, orientation=(*row, *column))
    volume = read_volume(tmp_path / "scan", "image")
    for i, j, k in [(0, 0, 0), (2, 3, 3), (1, 2, 2)]:
        x, y, z = positions[k] + row * 0.5 * i + column * 0.7 * j
        np.testing.assert_allclose(volume.grid.affine @ [i, j, k, 1], [-x, -y, z, 1], atol=1e-6)
        assert volume.array[i, j, k] == slices[k][j, i] - 1000


def test_a_tilted_gantry_is_a_warning_because_itk_opens_no_nifti_mask_of_it(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0.5 * k, 2.0 * k] for k in range(4)]))
    grid = read_grid(tmp_path / "scan")
    assert grid.warnings == read_volume(tmp_path / "scan", "image").grid.warnings
    (warning,) = grid.warnings
    assert warning.startswith(f"{tmp_path / 'scan'}: its axes are not at right angles (a tilted gantry, or a sheared h")
    assert "cannot be opened by 3D Slicer" in warning and warning.endswith("write its mask with --export seg.nrrd.")
    write_label(tmp_path / "mask.nii", np.ones(grid.shape, np.uint8), grid)
    with pytest.raises(RuntimeError, match="only supports orthonormal direction cosines"):
        sitk.ReadImage(str(tmp_path / "mask.nii"))
    write_series(tmp_path / "upright", np.array([[0, 0, 2.0 * k] for k in range(4)]))
    assert read_grid(tmp_path / "upright").warnings == ()


def test_dicom_order_does_not_depend_on_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0, 3.0 * k] for k in range(4)]))
    expected = read_volume(tmp_path / "scan", "image")
    find = sitk.ImageSeriesReader.GetGDCMSeriesFileNames
    monkeypatch.setattr(sitk.ImageSeriesReader, "GetGDCMSeriesFileNames", lambda *of: find(*of)[2:] + find(*of)[:2])
    volume = read_volume(tmp_path / "scan", "image")
    np.testing.assert_array_equal(volume.array, expected.array)
    assert volume.grid.same_as(expected.grid, 0.0)


def test_dicom_slope_of_each_slice(tmp_path: Path) -> None:
    positions = np.array([[0, 0, k] for k in range(3)], dtype=float)
    slices = write_series(tmp_path / "scan", positions, slopes=[1, 0.5, 0.25])
    array = read_volume(tmp_path / "scan", "image").array
    for k, slope in enumerate([1, 0.5, 0.25]):
        np.testing.assert_allclose(array[:, :, k], slices[k].T * slope - 1000)


def test_dicom_single_slice(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "scan", np.array([[1.0, 2.0, 3.0]]))
    volume = read_volume(tmp_path / "scan", "image")
    assert volume.array.shape == (3, 4, 1)
    np.testing.assert_array_equal(volume.array[:, :, 0], slices[0].T - 1000)
    np.testing.assert_allclose(volume.grid.affine[:3, 3], [-1, -2, 3])


def test_dicom_faults(tmp_path: Path) -> None:
    even = np.array([[0, 0, 3.0 * k] for k in range(6)])

    def refused(name: str, sentence: str) -> None:
        for read in (read_grid, lambda path: read_volume(path, "image")):
            with pytest.raises(VolumeError, match=sentence):
                read(tmp_path / name)

    (tmp_path / "empty").mkdir()
    refused("empty", r"empty: holds no DICOM slices; give a volume file, or a folder with one series\.$")
    write_series(tmp_path / "two", even, series="1.2.5")
    write_series(tmp_path / "two", even, series="1.2.6", names=[f"b{k}" for k in range(6)])
    refused("two", r"two: holds 2 DICOM series \(.*1\.2\.5.*1\.2\.6.*\); move each into a folder of its own")
    write_series(tmp_path / "gap", np.delete(even, 3, axis=0))
    refused(
        "gap",
        r"gap: slices are missing or unevenly spaced: 6 mm between slices 3 and 4 in order of position, 3 mm else",
    )
    write_series(tmp_path / "twice", np.vstack([even, even[2:3]]))
    refused("twice", r"twice: two slices lie at the same position, slice2\.dcm and slice6\.dcm; keep one of them")
    write_series(tmp_path / "mixed", even[:3])
    write_series(tmp_path / "mixed", even[3:], orientation=(0, 1, 0, 0, 0, 1), names=["x", "y", "z"])
    refused("mixed", r"mixed: its slices differ in size, spacing or orientation")
    for name, index in (("cut", 2), ("cut at the end", 5)):
        write_series(tmp_path / name, even)
        path = tmp_path / name / f"slice{index}.dcm"
        path.write_bytes(path.read_bytes()[:-8])
        refused(
            name, rf"{name}: 1 of its DICOM files cannot be read, the first slice{index}\.dcm; copy the series again"
        )


def test_a_file_that_may_not_be_read_may_be_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0, 3.0 * k] for k in range(3)]))
    (tmp_path / "scan" / "notes.txt").write_text("CT of the chest")
    whole = Path.open

    def closed(path: Path, *args: Any, **named: Any) -> IO[Any]:
        if path.name == "notes.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path, *args, **named)

    monkeypatch.setattr(Path, "open", closed)
    sentence = (
        r"notes\.txt: cannot be read \(Permission denied\), and may be a slice of its folder; allow reading it, or"
    )
    with pytest.raises(VolumeError, match=sentence):
        read_grid(tmp_path / "scan")


@pytest.mark.parametrize("method", ["exists", "iterdir"])
def test_a_folder_that_may_not_be_entered_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0, 3.0 * k] for k in range(3)]))

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, method, closed)
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(VolumeError, match=r"scan: cannot be read \(Permission denied\)\.$"):
            read(tmp_path / "scan")


def test_rounded_directions_do_not_change_the_size_of_voxels(tmp_path: Path) -> None:
    for number, count in enumerate((1, 4)):
        folder = tmp_path / f"scan{number}"
        positions = np.array([[0, 0, 2.0 * k] for k in range(count)])
        write_series(folder, positions, orientation=(0.71, 0.71, 0, -0.71, 0.71, 0))
        grid = read_grid(changed(folder, SliceThickness=2))
        np.testing.assert_allclose(grid.spacing_mm, (0.5, 0.7, 2.0), rtol=1e-12)
        half = np.sqrt(0.5)
        np.testing.assert_allclose(grid.affine[:3, 0], [-0.5 * half, -0.5 * half, 0], atol=1e-12)
        np.testing.assert_allclose(grid.affine[:3, 1], [0.7 * half, -0.7 * half, 0], atol=1e-12)


@pytest.mark.parametrize(
    "orientation", [(1, 0, 0, 0, 0.9, 0), (1, 0, 0, 0.1, 1, 0), (1, 0, 0, 1, 0, 0), (0, 0, 0, 0, 0, 0)]
)
@pytest.mark.parametrize("count", [1, 3])
def test_directions_of_no_plane_are_refused(tmp_path: Path, orientation: tuple[float, ...], count: int) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0, 2.0 * k] for k in range(count)]), orientation=orientation)
    numbers = re.escape(", ".join(f"{value:g}" for value in orientation))
    sentence = (
        rf"slice\d\.dcm: its ImageOrientationPatient \({numbers}\) is no two directions of length 1 at a right angle; "
    )
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(VolumeError, match=sentence + r"correct its header\.$"):
            read(tmp_path / "scan")


def test_dicom_folder_may_hold_other_files(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0, 3.0 * k] for k in range(3)]))
    (tmp_path / "scan" / "notes.txt").write_text("CT of the chest")
    (tmp_path / "scan" / "DICOMDIR").write_bytes((tmp_path / "scan" / "slice0.dcm").read_bytes()[:200])
    assert read_grid(tmp_path / "scan").shape == (3, 4, 3)


def report(path: Path, kind: str, **tags: Any) -> Path:
    """Writes a DICOM file without pixels."""
    item = pydicom.Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = kind
    item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
    item.SeriesInstanceUID, item.StudyInstanceUID = "1.2.3.9", "1.2.3"
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    item.save_as(path, enforce_file_format=True)
    return path


KINDS = [
    uid.ComprehensiveSRStorage,
    uid.RTStructureSetStorage,
    uid.GrayscaleSoftcopyPresentationStateStorage,
    uid.KeyObjectSelectionDocumentStorage,
    uid.EncapsulatedPDFStorage,
    uid.SpatialRegistrationStorage,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("series", ["1.2.3.9", "1.2.3.4"])
def test_reports_and_contours_beside_a_series_are_passed_over(tmp_path: Path, kind: str, series: str) -> None:
    slices = write_series(tmp_path / "scan", np.array([[0, 0, 3.0 * k] for k in range(3)]))
    report(tmp_path / "scan" / "a.dcm", kind, SeriesInstanceUID=series, ContentDate="20200101")
    volume = read_volume(tmp_path / "scan", "image")
    np.testing.assert_array_equal(volume.array, np.stack(slices).T - 1000.0)
    assert volume.grid.warnings == ()


def test_files_without_pixels_that_may_be_slices(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", np.array([[0, 0, 3.0 * k] for k in range(3)]))
    whole = (tmp_path / "scan" / "slice2.dcm").read_bytes()
    rows = whole.index(b"\x28\x00\x10\x00US")
    for length in (
        140,
        200,
        whole.index(b"\x08\x00\x16\x00UI") + 4,
        rows - 40,
        rows,
        rows + 4,
        rows + 30,
        len(whole) - 8,
    ):
        (tmp_path / "scan" / "slice2.dcm").write_bytes(whole[:length])
        with pytest.raises(
            VolumeError, match=r"scan: 1 of its DICOM files cannot be read, the first slice2\.dcm; copy"
        ):
            read_grid(tmp_path / "scan")
    (tmp_path / "scan" / "slice2.dcm").unlink()
    cut = report(tmp_path / "scan" / "dose.dcm", uid.RTDoseStorage, Rows=4, Columns=3, BitsAllocated=16)
    with pytest.raises(VolumeError, match=r"scan: 1 of its DICOM files cannot be read, the first dose\.dcm; copy"):
        read_grid(tmp_path / "scan")
    cut.unlink()
    (tmp_path / "reports").mkdir()
    report(tmp_path / "reports" / "a.dcm", uid.ComprehensiveSRStorage)
    with pytest.raises(VolumeError, match="reports: holds no DICOM slices"):
        read_grid(tmp_path / "reports")
