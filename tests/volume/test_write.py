"""Geometry, property: masks and maps lie exactly where the scan lies; files are whole or absent, and repeatable."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medcontrast.errors import OutputError
from medcontrast.volume import (
    Grid,
    read_grid,
    read_volume,
    write_image,
    write_label,
)

MASK = np.zeros((4, 5, 6), dtype=np.int64)
MASK[1, 2, 3] = 1
MASK[3, 0, 5] = 2
FIELDS = (
    *("pixdim", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "qform_code", "sform_code", "xyzt_units"),
)


def rotation(random: np.random.Generator) -> np.ndarray:
    axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
    return axes * np.sign(np.linalg.det(axes))


def scan_header(kind: str, random: np.random.Generator) -> nib.Nifti1Image:
    """A scan whose header is odd in one way."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(random) * random.uniform(0.3, 5, size=3)
    affine[:3, 3] = random.uniform(-300, 300, size=3)
    image = (nib.Nifti2Image if kind == "nifti2" else nib.Nifti1Image)(np.zeros(MASK.shape, np.int16), None)
    image.header.set_xyzt_units("meter" if kind == "metres" else "mm", "sec")
    if kind == "metres":
        affine[:3] /= 1000
    if kind == "mirrored":
        affine[:3, 0] *= -1
    other = affine.copy()
    if kind == "sheared":
        affine[:3, 1] += 0.3 * affine[:3, 0]
    if kind == "forms differ":
        other[:3, 3] += 40
    image.set_sform(affine, 0 if kind == "qform only" else 2)
    image.set_qform(other, 0 if kind == "sform only" else 1)
    return image


# the last one is beyond ITK, which reads no NIfTI-2
KINDS = ("oblique", "mirrored", "sheared", "metres", "forms differ", "qform only", "sform only", "nifti2")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_header_fields_are_written_back_bit_for_bit(tmp_path: Path, kind: str, seed: int) -> None:
    scan_header(kind, np.random.default_rng(seed)).to_filename(tmp_path / "scan.nii.gz")
    grid = read_grid(tmp_path / "scan.nii.gz")
    write_label(tmp_path / "mask.nii.gz", MASK, grid)
    write_image(tmp_path / "map.nii", np.zeros((*MASK.shape, 3), np.float32), grid)
    source = nib.load(tmp_path / "scan.nii.gz").header
    for name in ("mask.nii.gz", "map.nii"):
        written = nib.load(tmp_path / name).header
        for field in FIELDS:
            size = 4 if field == "pixdim" else None
            assert np.atleast_1d(written[field])[:size].tobytes() == np.atleast_1d(source[field])[:size].tobytes(), (
                field
            )
    assert read_grid(tmp_path / "mask.nii.gz").same_as(grid, 0.0)
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii.gz", "label").array, MASK)
    expected = nib.load(tmp_path / "scan.nii.gz").affine * ([[1000.0]] * 3 + [[1.0]] if kind == "metres" else 1.0)
    np.testing.assert_allclose(grid.affine, expected, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_itk_sees_the_mask_where_we_do(tmp_path: Path, kind: str) -> None:
    scan_header(kind, np.random.default_rng(7)).to_filename(tmp_path / "scan.nii")
    grid = read_grid(tmp_path / "scan.nii")
    write_label(tmp_path / "mask.nii", MASK, grid)
    image = sitk.ReadImage(str(tmp_path / "mask.nii"))
    x, y, z = image.TransformIndexToPhysicalPoint((1, 2, 3))
    if kind in ("forms differ", "sheared"):
        # ITK takes the qform here: no writer can make both readers agree on such a scan, but both treat it as the scan
        assert grid.warnings
        scan = sitk.ReadImage(str(tmp_path / "scan.nii"))
        assert (x, y, z) == scan.TransformIndexToPhysicalPoint((1, 2, 3))
        return
    np.testing.assert_allclose([-x, -y, z], (grid.affine @ [1, 2, 3, 1])[:3], atol=1e-3)
    assert image.GetPixel(1, 2, 3) == 1


def test_random_affines_of_other_formats_become_both_forms(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for trial in range(20):
        affine = np.eye(4)
        affine[:3, :3] = rotation(random) * random.uniform(0.3, 5, size=3) * random.choice([-1, 1], size=3)
        affine[:3, 3] = random.uniform(-300, 300, size=3)
        write_label(tmp_path / f"{trial}.nii", MASK, Grid(MASK.shape, affine))
        header = nib.load(tmp_path / f"{trial}.nii").header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
        assert header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(header.get_sform() @ [3, 4, 5, 1], affine @ [3, 4, 5, 1], rtol=0, atol=1e-3)
        # a quaternion in float32 is less exact near half a turn
        np.testing.assert_allclose(header.get_qform() @ [3, 4, 5, 1], affine @ [3, 4, 5, 1], rtol=0, atol=1e-2)


def test_a_sheared_affine_of_another_format_gets_no_qform_and_itk_refuses_it(tmp_path: Path) -> None:
    affine = np.array([[1, 0.3, 0, 10], [0, 1, 0.1, 20], [0, 0, 2, -30], [0, 0, 0, 1.0]])
    write_label(tmp_path / "mask.nii", MASK, Grid(MASK.shape, affine))
    np.testing.assert_allclose(read_grid(tmp_path / "mask.nii").affine, affine, atol=1e-6)
    assert int(nib.load(tmp_path / "mask.nii").header["qform_code"]) == 0
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "mask.nii"))


def test_a_shear_of_rounded_positions_gets_a_qform_and_itk_opens_it(tmp_path: Path) -> None:
    affine = np.array([[0.8, 0, 0.002, 10], [0, 0.8, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])
    grid = Grid(MASK.shape, affine)
    assert grid.sheared
    write_label(tmp_path / "mask.nii", MASK, grid)
    assert read_grid(tmp_path / "mask.nii").warnings == ()
    np.testing.assert_allclose(read_grid(tmp_path / "mask.nii").affine, affine, atol=1e-6)
    x, y, z = sitk.ReadImage(str(tmp_path / "mask.nii")).TransformIndexToPhysicalPoint((3, 4, 5))
    np.testing.assert_allclose([-x, -y, z], (affine @ [3, 4, 5, 1])[:3], atol=0.05)


@pytest.mark.parametrize(("high", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (70000, np.uint32)])
def test_smallest_unsigned_type(tmp_path: Path, high: int, dtype: type) -> None:
    array = MASK.clip(0, 1) * high
    write_label(tmp_path / "mask.nii", array, Grid(MASK.shape, np.eye(4)))
    assert nib.load(tmp_path / "mask.nii").get_data_dtype() == dtype
    np.testing.assert_array_equal(read_volume(tmp_path / "mask.nii", "label").array, array)


def test_probability_maps_keep_their_class_axis(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((4, 5, 6, 3)).astype(np.float32)
    write_image(tmp_path / "maps.nii.gz", maps, Grid((4, 5, 6), np.eye(4)))
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "maps.nii.gz").dataobj), maps)
    write_image(tmp_path / "map.nii", maps[..., 0], Grid((4, 5, 6), np.eye(4)))
    np.testing.assert_array_equal(read_volume(tmp_path / "map.nii", "image").array, maps[..., 0])


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(MASK.shape, np.eye(4))
    write_label(tmp_path / "a.nii.gz", MASK, grid)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_label(tmp_path / "b.nii.gz", np.asfortranarray(MASK.astype(np.uint8)), grid)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    write_label(tmp_path / "a.nii", MASK, grid)
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "a.nii").read_bytes()


def test_existing_files_stay_without_overwrite(tmp_path: Path) -> None:
    path, grid = tmp_path / "mask.nii", Grid(MASK.shape, np.eye(4))
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"mask\.nii: exists already; add --overwrite, or name another"):
        write_label(path, MASK, grid)
    assert path.read_text() == "precious"
    write_label(path, MASK, grid, overwrite=True)
    np.testing.assert_array_equal(read_volume(path, "label").array, MASK)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    grid = Grid(MASK.shape, np.eye(4))
    with pytest.raises(OutputError, match=r"mask\.mha: masks and maps are written as \.nii or \.nii\.gz"):
        write_label(tmp_path / "mask.mha", MASK, grid)
    write_label(tmp_path / "new" / "mask.nii", MASK, grid)
    with pytest.raises(OutputError, match=r"mask\.nii/b\.nii: cannot be written \(.*mask\.nii is no folder\)"):
        write_label(tmp_path / "new" / "mask.nii" / "b.nii", MASK, grid)
    assert list(tmp_path.rglob("*.*")) == [tmp_path / "new" / "mask.nii"]


def test_wrong_arrays_are_the_caller_s_fault(tmp_path: Path) -> None:
    grid = Grid(MASK.shape, np.eye(4))
    with pytest.raises(ValueError, match="whole numbers from 0 on"):
        write_label(tmp_path / "mask.nii", MASK.astype(np.float32), grid)
    with pytest.raises(ValueError, match="whole numbers from 0 on"):
        write_label(tmp_path / "mask.nii", MASK - 1, grid)
    with pytest.raises(ValueError, match=r"the array has shape \(5, 4, 6\), but its grid \(4, 5, 6\)"):
        write_label(tmp_path / "mask.nii", MASK.transpose(1, 0, 2), grid)
