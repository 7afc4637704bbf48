"""By hand: faults of NIfTI files. Each sentence names the file and what is wrong."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_files import AFFINE, VALUES, save

from medcontrast.errors import VolumeError
from medcontrast.volume import read_grid, read_volume, require_usable_image


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (
            VALUES[..., 0],
            r"scan\.nii: is an image of 2 axes \(4 x 5\), but a volume of three axes is needed; stack the slices of a "
            r"scan into one file, or give a single slice a third axis of size 1\.$",
        ),
        (VALUES.reshape(4, 5, 3, 2), r"scan\.nii: has 4 axes \(4 x 5 x 3 x 2\), .* save each time point or channel"),
        (VALUES.reshape(4, 5, 1, 1, 6), r"has 5 axes \(4 x 5 x 1 x 1 x 6\)"),
        (VALUES.astype(np.complex64), r"scan\.nii: stores complex numbers, but one real number a voxel is needed"),
        (np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]), r"scan\.nii: stores colours"),
    ],
)
def test_not_a_scalar_volume(tmp_path: Path, array: np.ndarray, sentence: str) -> None:
    path = save(tmp_path / "scan.nii", array)
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(VolumeError, match=sentence):
            read(path)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dim": [3, 4, 0, 6, 1, 1, 1, 1]}, r"scan\.nii: has no voxels \(shape 4 x 0 x 6\)\.$"),
        ({"dim": [3, 4, -5, 6, 1, 1, 1, 1]}, r"not a NIfTI file, or its header is damaged"),
        ({"datatype": 77}, r"stores voxels of unknown type 77\.$"),
        ({"datatype": 1}, r"stores single bits"),
        ({"srow_x": [np.nan, 0, 0, 0]}, r"its affine holds NaN or infinite values"),
        ({"srow_x": [0, 0, 0, 0]}, r"its voxels measure 1\.5 x 0 x 3 mm"),
        (
            {"vox_offset": 0},
            r"scan\.nii: damaged: its header says that its voxels begin at byte 0, inside the header; copy",
        ),
        ({"vox_offset": 16}, r"voxels begin at byte 16, inside"),
        ({"vox_offset": 348}, r"voxels begin at byte 348, inside"),
        ({"vox_offset": np.nan}, r"voxels begin at byte nan, inside"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 9.0}, r"its qform is damaged, and it has no sform"),
        ({"magic": b"ni1"}, r"not a NIfTI file, or its header is damaged"),
    ],
)
def test_header_faults(tmp_path: Path, fields: dict[str, object], sentence: str) -> None:
    path = save(tmp_path / "scan.nii", **fields)
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(VolumeError, match=sentence):
            read(path)


def test_small_microns_are_above_the_limit(tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", xyzt_units=3)
    assert read_grid(path).spacing_mm == pytest.approx((0.0015, 0.002, 0.003))


def test_voxels_may_begin_after_an_extension(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "scan.nii", vox_offset=368).read_bytes())
    content[352:352] = np.array([16, 6], np.int32).tobytes() + b"comment\0"
    content[348] = 1
    (tmp_path / "scan.nii").write_bytes(content)
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.nii", "label").array, VALUES)


def test_the_header_of_nifti2_is_larger(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(VALUES, AFFINE), tmp_path / "two.nii")
    content = bytearray((tmp_path / "two.nii").read_bytes())
    content[168:176] = np.int64(352).tobytes()
    (tmp_path / "two.nii").write_bytes(content)
    with pytest.raises(VolumeError, match=r"two\.nii: damaged: its header says that its voxels begin at byte 352"):
        read_grid(tmp_path / "two.nii")


def test_damaged_and_cut_off_files(tmp_path: Path) -> None:
    plain, packed = save(tmp_path / "scan.nii"), save(tmp_path / "scan.nii.gz")
    plain.write_bytes(plain.read_bytes()[:-10])
    with pytest.raises(VolumeError, match=r"scan\.nii: damaged or cut off: .*holds 230 of 240 bytes.*copy it again"):
        read_volume(plain, "image")
    assert read_grid(plain).shape == (4, 5, 6)  # the header is whole
    content = packed.read_bytes()
    packed.write_bytes(content[: len(content) // 2])
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz: cut off: its compressed data ends too early"):
        read_volume(packed, "image")
    packed.write_bytes(content[:-8] + b"\0\0\0\0" + content[-4:])  # another checksum
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz: named \.gz, but is not an intact gzip file \(CRC"):
        read_volume(packed, "image")
    packed.write_bytes(content[:10] + b"\xff" * 40 + content[50:])
    with pytest.raises(VolumeError, match=r"scan\.nii\.gz: damaged: its data cannot be unpacked"):
        read_volume(packed, "image")
    packed.write_bytes(b"no gzip at all")
    with pytest.raises(VolumeError, match=r"named \.gz, but is not an intact gzip file \(Not a gzipped file"):
        read_volume(packed, "image")
    plain.write_bytes(b"")
    with pytest.raises(VolumeError, match=r"scan\.nii: not a NIfTI file"):
        read_volume(plain, "image")


def test_no_damage_ends_in_a_traceback(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    whole = save(tmp_path / "whole.nii").read_bytes()
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        content[random.integers(0, 352)] = random.integers(0, 256)
        content[random.integers(0, 124)] = random.integers(0, 256)
        path = tmp_path / "scan.nii"
        path.write_bytes(content[: random.integers(1, 2 * len(content))])
        try:
            require_usable_image(read_volume(path, "image"))
        except VolumeError as error:
            assert str(path) in str(error)
            refused += 1
    assert 50 < refused < 300
