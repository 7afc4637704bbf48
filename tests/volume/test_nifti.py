"""Geometry, by hand: NIfTI headers of every kind."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nifti_files import AFFINE, VALUES, save
from scipy.spatial.transform import Rotation

from medcontrast.errors import VolumeError
from medcontrast.volume import read_grid, read_volume, write_label
from medcontrast.volume.stored import Stored


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_values_and_affine_as_nibabel_reads_them(tmp_path: Path, name: str) -> None:
    volume = read_volume(save(tmp_path / name), "image")
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous
    np.testing.assert_array_equal(volume.array, VALUES)
    np.testing.assert_array_equal(volume.grid.affine, AFFINE)
    assert volume.grid.spacing_mm == (1.5, 2.0, 3.0)
    assert volume.grid.warnings == ()


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", scl_slope=0.5, scl_inter=-10.0)
    np.testing.assert_array_equal(read_volume(path, "image").array, VALUES * 0.5 - 10)


def test_an_intercept_that_is_no_number_is_a_fault_of_the_header(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", scl_slope=1.0, scl_inter=np.nan)
    sentence = r"its header scales voxels by no number \(.*\); correct scl_slope and scl_inter\.$"
    with pytest.raises(VolumeError, match=sentence):
        read_volume(path, "image")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0, 7), (1, -1024), (0.1, 3.7), (-2.5, 0)])
def test_values_are_nibabels_of_every_type_and_slope(
    tmp_path: Path, dtype: type, slope: float, intercept: float
) -> None:
    values = (np.random.default_rng(0).normal(0, 60, (7, 5, 6)) + 120).astype(dtype)
    path = save(tmp_path / "scan.nii.gz", values, scl_slope=slope, scl_inter=intercept)
    expected = np.asanyarray(nib.load(path).dataobj)
    image = read_volume(path, "image").array
    assert image.dtype == np.float32 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, expected.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_labels_with_a_slope_are_nibabels_too(tmp_path: Path, dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 250, (7, 5, 6)).astype(dtype)
    path = save(
        tmp_path / "label.nii", values, scl_slope=263, scl_inter=4
    )  # float32 does not hold thousandths of these
    label = read_volume(path, "label").array
    assert label.dtype == np.int32 and label.flags.c_contiguous
    np.testing.assert_array_equal(label, np.asanyarray(nib.load(path).dataobj))


@pytest.mark.parametrize(("kind", "limit"), [("image", 7.5), ("label", 7.5)])
def test_no_copy_in_float64_of_a_scan_with_a_slope(
    tmp_path: Path, kind: Literal["image", "label"], limit: float
) -> None:
    shape = (100, 100, 60)
    path = save(tmp_path / "scan.nii", np.ones(shape, np.int16), scl_slope=2, scl_inter=-1)
    read_volume(path, kind)
    tracemalloc.start()
    read_volume(path, kind)
    peak = tracemalloc.get_traced_memory()[1] / np.prod(shape)
    tracemalloc.stop()
    assert peak < limit  # 2 bytes a voxel as stored, 4 as given, and a plane


def test_what_does_not_fit_into_memory_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError("Unable to allocate 8.00 GiB for an array")

    monkeypatch.setattr(Stored, "image", full)
    with pytest.raises(VolumeError, match=r"scan\.nii: does not fit into memory\.$"):
        read_volume(save(tmp_path / "scan.nii", scl_slope=2.0), "image")


def test_nifti2_and_the_other_byte_order(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(VALUES, AFFINE), tmp_path / "two.nii")
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.Nifti1Image(VALUES, AFFINE, header).to_filename(tmp_path / "big.nii")
    for name, version in (("two.nii", 2), ("big.nii", 1)):
        volume = read_volume(tmp_path / name, "label")
        np.testing.assert_array_equal(volume.array, VALUES)
        np.testing.assert_array_equal(volume.grid.affine, AFFINE)
        assert volume.grid.nifti is not None
        assert volume.grid.nifti.version == version


def test_a_scan_in_nifti2_is_a_warning_because_itk_opens_neither_it_nor_its_masks(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(VALUES, AFFINE), tmp_path / "two.nii")
    for grid in (read_grid(tmp_path / "two.nii"), read_volume(tmp_path / "two.nii", "image").grid):
        assert grid.warnings == (
            f"{tmp_path / 'two.nii'}: is a NIfTI-2 file, and so are its masks, which 3D Slicer and other "
            "programs built on ITK cannot open; for those convert the scan to NIfTI-1, or write its mask with "
            "--export seg.nrrd.",
        )
    write_label(tmp_path / "mask.nii", np.ones(VALUES.shape, np.uint8), read_grid(tmp_path / "two.nii"))
    for name in ("two.nii", "mask.nii"):
        with pytest.raises(RuntimeError, match="Unable to determine ImageIO reader"):
            sitk.ReadImage(str(tmp_path / name))
    assert read_grid(save(tmp_path / "one.nii")).warnings == ()


def test_a_scan_too_long_for_a_mask_in_nifti1_is_a_warning(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((1, 1, 32768), np.uint8)), str(tmp_path / "long.mha"))
    assert any(
        "long.mha: has an axis of 32768 voxels, so that its masks are NIfTI-2 files, which 3D Slicer" in warning
        for warning in read_grid(tmp_path / "long.mha").warnings
    )


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0), ("unknown", 1.0)])
def test_units_become_millimetres(tmp_path: Path, unit: str, factor: float) -> None:
    image = nib.Nifti1Image(VALUES, np.diag([2 / factor, 3 / factor, 4 / factor, 1]))
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "scan.nii")
    grid = read_grid(tmp_path / "scan.nii")
    np.testing.assert_allclose(grid.affine, np.diag([2, 3, 4, 1]), rtol=1e-6)
    assert grid.warnings == ()


def test_unknown_unit_is_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", xyzt_units=5)
    assert read_grid(path).warnings == (f"{path}: has an unknown unit of length; taken as millimetres.",)


@pytest.mark.parametrize(
    ("spacing", "unit", "doubtful"),
    [(0.0015, 0, True), (30, 0, True), (0.05, 0, False), (10, 0, False), (0.0015, 2, False), (30, 2, False)],
)
def test_without_a_unit_rare_sizes_are_a_warning(tmp_path: Path, spacing: float, unit: int, doubtful: bool) -> None:
    path = save(tmp_path / "scan.nii", affine=np.diag([spacing, spacing, spacing, 1]), xyzt_units=unit)
    size = f"{spacing:g} x {spacing:g} x {spacing:g} mm"
    sentence = f"{path}: does not name its unit of length, and with millimetres its voxels measure {size}; if it means"
    assert read_grid(path).warnings == ((f"{sentence} another unit, correct its header.",) if doubtful else ())


@pytest.mark.parametrize("unit", [0, 2])
def test_a_millimetre_written_in_metres_is_refused(tmp_path: Path, unit: int) -> None:
    path = save(tmp_path / "scan.nii", affine=np.diag([0.001, 0.001, 0.001, 1]), xyzt_units=unit)
    with pytest.raises(VolumeError, match=r"measure 0\.001 x 0\.001 x 0\.001 mm, .* correct the spacing, or its unit"):
        read_grid(path)


def test_sform_leads_and_disagreement_is_a_warning(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VALUES, None)
    image.set_sform(AFFINE, 1)
    moved = AFFINE.copy()
    moved[2, 3] += 12
    image.set_qform(moved, 1)
    image.to_filename(tmp_path / "scan.nii")
    grid = read_grid(tmp_path / "scan.nii")
    np.testing.assert_array_equal(grid.affine, AFFINE)
    assert len(grid.warnings) == 1
    assert "its qform and sform place it differently (its corners lie up to 12 mm off" in grid.warnings[0]


@pytest.mark.parametrize(("sheared", "code"), [(False, 1), (False, 4), (True, 1), (True, 4)])
def test_a_scan_that_itk_places_by_its_qform_is_said(tmp_path: Path, sheared: bool, code: int) -> None:
    affine = AFFINE.copy()
    affine[:3, 1] += 0.3 * affine[:3, 0] * sheared
    image = nib.Nifti1Image(VALUES, None)
    image.set_sform(affine, code)
    moved = affine.copy()
    moved[2, 3] += 12
    image.set_qform(moved, 1, strip_shears=True)
    image.to_filename(tmp_path / "scan.nii")
    first = sitk.ReadImage(str(tmp_path / "scan.nii")).TransformIndexToPhysicalPoint((0, 0, 0))
    (warning,) = read_grid(tmp_path / "scan.nii").warnings
    by_qform = first[2] == pytest.approx(moved[2, 3])
    assert by_qform == (sheared or code == 4)
    assert (
        "other programs built on ITK use the qform, and show a .seg.nrrd of it off the scan." in warning
    ) == by_qform


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pixdim": (2.0, 3.0, 4.0)}, None),  # as its sform has it
        ({"pixdim": (0.0, 3.0, 4.0)}, "its pixdim is not the size of its sform's voxels"),  # 0 is read as 1
        ({"pixdim": (1.0, 1.0, 1.0)}, "its pixdim is not the size of its sform's voxels"),
        ({"pixdim": (-2.0, 3.0, 4.0)}, "its pixdim is not the size of its sform's voxels"),
        ({"pixdim": (-2.0, 3.0, 4.0), "qform_code": 1}, "its qform is damaged"),
        ({"pixdim": (1.0, 1.0, 1.0), "qform_code": 1}, "its qform and sform place it differently"),
        ({"quatern_b": 5.0, "qform_code": 1}, "its qform is damaged"),
        ({"quatern_b": 5.0, "qform_code": 1, "sform_code": 2}, "its qform is damaged"),
        ({"pixdim": (np.nan, 3.0, 4.0), "qform_code": 1}, "its qform is damaged"),
        ({"pixdim": (np.inf, 3.0, 4.0), "qform_code": 1}, "its qform is damaged"),
        ({"quatern_b": np.nan, "qform_code": 1}, "its qform is damaged"),
        ({"qoffset_x": np.nan, "qform_code": 1}, "its qform is damaged"),
    ],
)
def test_where_itk_shows_a_scan_elsewhere_it_is_said(tmp_path: Path, change: dict[str, Any], words: str | None) -> None:
    """ITK takes the size of voxels from pixdim where it takes the rest from the sform; what it shows is asked of it."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 5, 6, 7
    fields = {key: (1, *value, 0, 0, 0, 0) if key == "pixdim" else value for key, value in change.items()}
    path = save(tmp_path / "scan.nii", affine=affine, **{"sform_code": 1, "qform_code": 0, **fields})
    warnings = read_grid(path).warnings
    last = tuple(size - 1 for size in VALUES.shape)
    x, y, z = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint(last)
    elsewhere = (-x, -y, z) != pytest.approx((affine @ [*last, 1])[:3], abs=1e-3)
    assert len(warnings) == (words is not None)
    for warning in warnings:
        assert words is not None and words in warning
        said = warning.endswith("show a .seg.nrrd of it off the scan.")
        assert said is elsewhere or (said and "may use the qform" in warning)


def test_without_forms_a_negative_size_is_read_as_nibabel_does(tmp_path: Path) -> None:
    save(tmp_path / "scan.nii", qform_code=0, sform_code=0, pixdim=(1, -2, 3, 4, 0, 0, 0, 0))
    grid = read_grid(tmp_path / "scan.nii")
    np.testing.assert_array_equal(grid.affine, nib.load(tmp_path / "scan.nii").affine)
    assert "the first axis as running to the left" in grid.warnings[0] and grid.affine[0, 0] == -2


def test_a_sheared_sform_alone_is_a_warning(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, 1] += 0.3 * affine[:3, 0]
    image = nib.Nifti1Image(VALUES, None)
    image.set_sform(affine, 1)
    image.to_filename(tmp_path / "scan.nii")
    with pytest.raises(RuntimeError, match="only supports orthonormal direction cosines"):
        sitk.ReadImage(str(tmp_path / "scan.nii"))
    for grid in (read_grid(tmp_path / "scan.nii"), read_volume(tmp_path / "scan.nii", "image").grid):
        (warning,) = grid.warnings
        assert "its axes are not at right angles" in warning and warning.endswith("--export seg.nrrd.")


@pytest.mark.parametrize("degrees", [0.5, 15.0])
def test_a_mask_that_itk_saves_of_a_scan_with_another_sform_code_lies_on_it(tmp_path: Path, degrees: float) -> None:
    # ITK writes such a mask by the scan's qform, a quaternion in float32
    random = np.random.default_rng(0)
    for _ in range(12):
        affine = np.eye(4)
        turn = Rotation.from_euler("xyz", random.uniform(-degrees, degrees, 3), degrees=True).as_matrix()
        affine[:3, :3], affine[:3, 3] = np.diag([-1, -1, 1]) @ turn * 0.7, [90, 100, -60]
        image = nib.Nifti1Image(np.zeros((320, 320, 2), np.uint8), None)
        image.set_sform(affine, 2)
        image.set_qform(affine, 1)
        image.to_filename(tmp_path / "scan.nii")
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.nii")), str(tmp_path / "mask.nii"))
        assert read_grid(tmp_path / "mask.nii").difference(read_grid(tmp_path / "scan.nii")) is None


def test_qform_is_used_where_the_sform_has_no_code(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VALUES, None)
    image.set_sform(np.eye(4), 0)
    image.set_qform(AFFINE, 1)
    image.to_filename(tmp_path / "scan.nii")
    np.testing.assert_allclose(read_grid(tmp_path / "scan.nii").affine, AFFINE, atol=1e-6)


def test_a_file_without_a_place_is_read_by_its_spacing_with_a_warning(tmp_path: Path) -> None:
    pixdim = np.array([1, 2, 3, 4, 1, 1, 1, 1], dtype=np.float32)
    path = save(tmp_path / "scan.nii", affine=None, sform_code=0, qform_code=0, pixdim=pixdim)
    grid = read_grid(path)
    np.testing.assert_array_equal(grid.affine, nib.load(path).affine)
    assert grid.spacing_mm == (2.0, 3.0, 4.0)
    assert "does not say where it lies or which side is left" in grid.warnings[0]
    write_label(tmp_path / "mask.nii", np.ones(grid.shape, np.uint8), grid)
    assert read_grid(tmp_path / "mask.nii").same_as(grid, 1e-3)
    assert int(nib.load(tmp_path / "mask.nii").header["sform_code"]) == 0


def test_a_qfac_of_zero_is_read_as_one(tmp_path: Path) -> None:
    pixdim = np.array([0, 2, 3, 4, 1, 1, 1, 1], dtype=np.float32)
    path = save(tmp_path / "scan.nii", affine=np.eye(4), sform_code=0, qform_code=1, pixdim=pixdim)
    np.testing.assert_array_equal(read_grid(path).affine, np.diag([2, 3, 4, 1]))


@pytest.mark.parametrize("shape", [(4, 5, 6, 1), (4, 5, 6, 1, 1)])
def test_trailing_axes_of_one_are_dropped(tmp_path: Path, shape: tuple[int, ...]) -> None:
    volume = read_volume(save(tmp_path / "scan.nii", VALUES.reshape(shape)), "image")
    assert volume.grid.shape == (4, 5, 6)
    np.testing.assert_array_equal(volume.array, VALUES)


def test_one_slice_is_a_volume(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", VALUES[:, :, :1])
    assert read_volume(path, "image").array.shape == (4, 5, 1)


@pytest.mark.parametrize("affine", [np.diag([-2.0, 3, 4, 1]), np.diag([2.0, -3, 4, 1]), np.diag([2.0, 3, -4, 1])])
def test_a_left_handed_qform_is_nibabels(tmp_path: Path, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(VALUES, None)
    image.set_qform(affine, 1)
    assert image.header["pixdim"][0] == -1
    image.to_filename(tmp_path / "scan.nii")
    np.testing.assert_allclose(read_grid(tmp_path / "scan.nii").affine, affine, atol=1e-6)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001)])
def test_a_unit_of_time_changes_nothing_and_the_origin_has_the_unit_of_length(
    tmp_path: Path, unit: str, factor: float
) -> None:
    affine = np.array([[2.0, 0, 0, -50], [0, 3, 0, 60], [0, 0, 4, 70], [0, 0, 0, 1]])
    scaled = np.vstack([affine[:3] / factor, affine[3]])
    image = nib.Nifti1Image(VALUES, scaled)
    image.header.set_xyzt_units(unit, "sec")
    image.to_filename(tmp_path / "scan.nii")
    grid = read_grid(tmp_path / "scan.nii")
    np.testing.assert_allclose(grid.affine, affine, rtol=1e-6)
    assert grid.warnings == ()
