"""By hand: which file is read how, what a label file may hold, and what makes a scan unusable."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcontrast.errors import VolumeError
from medcontrast.volume import (
    Grid,
    Volume,
    far_values,
    read_grid,
    read_volume,
    require_usable_image,
    to_metatensor,
)

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def save(path: Path, array: np.ndarray) -> Path:
    nib.Nifti1Image(array, AFFINE, dtype=array.dtype).to_filename(path)
    return path


def test_missing_file_and_unknown_name(tmp_path: Path) -> None:
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(VolumeError, match=r"no\.nii: there is no such file or folder\.$"):
            read(tmp_path / "no.nii")
        (tmp_path / "scan.png").write_bytes(b"")
        with pytest.raises(
            VolumeError, match=r"scan\.png: is no volume by its name; known are \.nii, \.nii\.gz, \.nrrd"
        ):
            read(tmp_path / "scan.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64, np.int64])
def test_labels_of_any_stored_type_become_int32(tmp_path: Path, dtype: type) -> None:
    array = np.arange(8).reshape(2, 2, 2).astype(dtype)
    label = read_volume(save(tmp_path / "label.nii.gz", array), "label").array
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label, np.arange(8).reshape(2, 2, 2))


def test_labels_stored_with_a_slope_are_rounded(tmp_path: Path) -> None:
    array = np.array([0, 83, 166, 249], dtype=np.uint8).reshape(2, 2, 1)
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_slope_inter(1 / 83, 0)  # a little below in float32: 0.99999 for 1
    image.to_filename(tmp_path / "label.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "label.nii", "label").array.ravel(), [0, 1, 2, 3])


@pytest.mark.parametrize(("value", "word"), [(0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf")])
def test_labels_are_whole_numbers(tmp_path: Path, value: float, word: str) -> None:
    array = np.zeros((2, 3, 4), dtype=np.float32)
    array[1, 0, 2] = array[1, 2, 0] = value
    path = save(tmp_path / "label.nii", array)
    with pytest.raises(
        VolumeError, match=rf"label\.nii: .* but 2 voxels do not, the first with value {word} at index \(1, 0, 2\)"
    ):
        read_volume(path, "label")


def test_labels_fit_into_int32(tmp_path: Path) -> None:
    path = save(tmp_path / "label.nii", np.array([0, 2**40], dtype=np.int64).reshape(2, 1, 1))
    with pytest.raises(VolumeError, match=r"its label values reach from 0 to 1\.09951e\+12"):
        read_volume(path, "label")


def test_values_beyond_float32_are_named_by_the_check(tmp_path: Path) -> None:
    array = np.zeros((2, 2, 2))
    array[0, 1, 1] = 1e300
    with pytest.raises(VolumeError, match=r"1 of 8 voxels are NaN or infinite, the first at index \(0, 1, 1\)"):
        require_usable_image(read_volume(save(tmp_path / "scan.nii", array), "image"))


def test_unusable_images() -> None:
    array = np.zeros((2, 3, 4), dtype=np.float32)
    volume = Volume(array, Grid(array.shape, np.eye(4)), Path("scan.nii"))
    with pytest.raises(VolumeError, match=r"^scan\.nii: every voxel has the value 0; there is nothing to see in it\.$"):
        require_usable_image(volume)
    array[1, 1, 1] = 5
    require_usable_image(volume)
    array[0, 2, 3] = np.nan
    array[1, 0, 0] = -np.inf
    with pytest.raises(
        VolumeError, match=r"^scan\.nii: 2 of 24 voxels are NaN or infinite, the first at index \(0, 2, 3\)"
    ):
        require_usable_image(volume)


def test_far_values_are_counted_and_shown(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(100.0, 20.0, (40, 50, 60)).astype(np.float32)
    array[5, 6, 7] = 20_000  # metal: far, and a value that scans have
    assert far_values(read_volume(save(tmp_path / "scan.nii", array), "image")) is None
    array[8, 9, 10], array[1, 2, 3] = 1e30, -1e9
    found = far_values(read_volume(save(tmp_path / "scan.nii", array), "image"))
    assert found is not None
    assert found.startswith(f"{tmp_path}/scan.nii: 2 of 120000 voxels are more than 1,000 times as far out as")
    assert "the first, at index (1, 2, 3), is -1e+09." in found
    two_values = np.zeros((40, 50, 60), np.float32)
    two_values[3, 3, 3] = 7
    assert far_values(read_volume(save(tmp_path / "scan.nii", two_values), "image")) is None


def test_metatensor_has_a_channel_and_the_affine(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "scan.nii", np.arange(24, dtype=np.int16).reshape(2, 3, 4)), "image")
    tensor = to_metatensor(volume)
    assert tuple(tensor.shape) == (1, 2, 3, 4)
    np.testing.assert_array_equal(tensor.affine.numpy(), AFFINE)
    np.testing.assert_array_equal(tensor.as_tensor().numpy()[0], volume.array)
    assert tensor.meta["filename_or_obj"] == str(volume.path)


def test_real_scans_read_as_nibabel_reads_them() -> None:
    if "MEDCONTRAST_DATA" not in os.environ:
        pytest.skip("MEDCONTRAST_DATA is not set")
    root = Path(os.environ["MEDCONTRAST_DATA"])
    images = [
        sorted(root.glob(pattern))[0] for pattern in ("hippocampus/imagesTr/*.nii.gz", "la2018/train/*/image.nii.gz")
    ]
    labels = [
        sorted(root.glob(pattern))[0] for pattern in ("hippocampus/labelsTr/*.nii.gz", "la2018/train/*/label.nii.gz")
    ]
    for image, label in zip(images, labels, strict=True):
        volume, expected = read_volume(image, "image"), nib.load(image)
        np.testing.assert_allclose(volume.array, expected.get_fdata(), rtol=1e-6)
        np.testing.assert_array_equal(volume.grid.affine, expected.affine)
        require_usable_image(volume)
        assert volume.grid.warnings == ()
        assert read_volume(label, "label").grid.same_as(volume.grid, 1e-3)
        assert read_grid(image).same_as(volume.grid, 0.0)


def test_values_just_beyond_a_thousand_times_are_far(tmp_path: Path) -> None:
    array = np.linspace(0.0, 1.0, 24_000).reshape(20, 30, 40).astype(np.float32)
    for value, far in ((900.0, False), (1100.0, True), (-1100.0, True)):
        array[5, 6, 7] = value
        assert (far_values(read_volume(save(tmp_path / "scan.nii", array), "image")) is not None) is far
