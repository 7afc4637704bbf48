"""Tests of slices of volumes as images: geometry, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medcontrast.data.images.images import read_image
from medcontrast.data.images.manifest import load_image_manifest, require_apart
from medcontrast.data.images.slices import PERCENTILES, image_slice, label_slice, slice_count
from medcontrast.data.images.sources import ImageCase, expand
from medcontrast.errors import ManifestError, VolumeError

SHAPE = (5, 7, 9)


def write_volume(path: Path, array: Any, affine: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


def numbered() -> Any:
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


def slices_of(root: Path, **more: Any) -> list[ImageCase]:
    return expand({"slices": "v.nii", **more}, root, ("a", "b"), where="m.json: train[0]")


def test_slices_along_every_axis(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "v.nii", numbered())
    low, high = np.percentile(numbered(), PERCENTILES)
    scaled = np.clip((numbered() - low) / (high - low), 0, 1)
    for axis, sides in enumerate(((7, 9), (5, 9), (5, 7))):
        assert slice_count(path, axis) == SHAPE[axis]
        for index in range(SHAPE[axis]):
            found = image_slice(path, axis, index)
            assert found.shape == sides and found.dtype == np.float32
            np.testing.assert_allclose(found, np.take(scaled, index, axis=axis), atol=1e-6)
        cases = slices_of(tmp_path, axis=axis)
        assert [case.name for case in cases] == [f"v.nii[{axis}:{index}]" for index in range(SHAPE[axis])]


@pytest.mark.parametrize("turns", [((1, -1), (2, 1), (0, -1)), ((2, 1), (0, -1), (1, 1)), ((0, -1), (1, -1), (2, -1))])
def test_the_same_slices_however_the_scan_is_stored(tmp_path: Path, turns: Any) -> None:
    """Axes exchanged and mirrored in the file, the affine with them: a canonical slice stays what it is."""
    plain = write_volume(tmp_path / "plain.nii", numbered())
    image = nib.load(plain)
    stored = image.as_reoriented(np.array(turns))
    assert stored.shape != SHAPE or turns[0][0] == 0
    path = write_volume(tmp_path / "turned.nii", np.asarray(stored.dataobj), stored.affine)
    label = write_volume(tmp_path / "label.nii", np.asarray(stored.dataobj).astype(np.int16), stored.affine)
    for axis in range(3):
        assert slice_count(path, axis) == SHAPE[axis]
        np.testing.assert_array_equal(image_slice(path, axis, 2), image_slice(plain, axis, 2))
        np.testing.assert_array_equal(label_slice(label, axis, 2), np.take(numbered(), 2, axis=axis))


def test_a_slice_as_an_image_of_bytes(tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nii", numbered())
    case = slices_of(tmp_path, axis=1)[3]
    values = image_slice(case.file, 1, 3)
    found = read_image(case, channels=3, size=9)
    assert found.shape == (3, 9, 9) and (found[0] == found[2]).all()
    assert abs(float(found.mean()) / 255 - values.mean()) < 0.01


def test_what_is_known_of_slices(tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nii", numbered())
    write_volume(tmp_path / "l.nii", (numbered() % 2).astype(np.uint8))
    cases = slices_of(tmp_path, every=4, label="l.nii", target="b", domain="scanner")
    assert [case.index for case in cases] == [0, 4, 8] and {case.axis for case in cases} == {2}
    assert {(case.label, case.target, case.domain) for case in cases} == {(tmp_path / "l.nii", 1, "scanner")}
    # a volume is a patient of its own unless the manifest knows better
    assert {case.patient for case in cases} == {"v.nii"}
    assert {case.patient for case in slices_of(tmp_path, patient="p7")} == {"p7"}
    assert {case.label for case in slices_of(tmp_path)} == {None}


def test_slices_of_one_volume_stay_in_one_split(tmp_path: Path) -> None:
    write_volume(tmp_path / "v.nii", numbered())
    (tmp_path / "m.json").write_text(
        '{"kind": "images", "root": ".", "train": [{"slices": "v.nii", "axis": 0}], '
        '"test": [{"slices": "./v.nii", "axis": 1}]}'
    )
    with pytest.raises(ManifestError, match=r"- patient v\.nii stands in train and in test$"):
        require_apart(load_image_manifest(tmp_path / "m.json"))


@pytest.mark.parametrize("more", [{"axis": 3}, {"axis": "x"}, {"axis": True}, {"every": 0}, {"every": 1.5}])
def test_settings_that_make_no_sense(tmp_path: Path, more: dict[str, Any]) -> None:
    write_volume(tmp_path / "v.nii", numbered())
    with pytest.raises(ManifestError, match=r"train\[0\]: axis is 0, 1 or 2 and every 1 or more, but got"):
        slices_of(tmp_path, **more)


def test_volumes_that_cannot_be_used(tmp_path: Path) -> None:
    path = write_volume(tmp_path / "v.nii", numbered())
    with pytest.raises(ManifestError, match=r"l\.nii is not there"):
        slices_of(tmp_path, label="l.nii")
    broken = numbered()
    broken[0, 0, 0] = np.nan
    with pytest.raises(VolumeError, match="1 of 315 voxels are NaN or infinite"):
        image_slice(write_volume(tmp_path / "nan.nii", broken), 0, 1)
    with pytest.raises(VolumeError, match="every voxel has the value 4"):
        image_slice(write_volume(tmp_path / "flat.nii", np.full(SHAPE, 4.0)), 0, 1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(VolumeError, match=r"v\.nii"):
        slices_of(tmp_path)
