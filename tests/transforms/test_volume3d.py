"""Tests of scan preparation and the way back: geometry, by hand, reference."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Spacing
from nibabel.orientations import aff2axcodes
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from medcontrast.errors import VolumeError
from medcontrast.labels import LabelTable
from medcontrast.settings.data import IntensitySettings
from medcontrast.transforms import volume3d
from medcontrast.transforms.volume3d import (
    most_probable,
    normalise,
    on_grid_of,
    prepare_image,
    prepare_label,
    to_class_indices,
    to_label_values,
    to_scan_grid,
    to_scan_labels,
)
from medcontrast.volume import Grid, Volume

AS_STORED = IntensitySettings(kind="as_stored")
SHAPE = (14, 11, 17)
SLOPE = np.array([0.7, -1.3, 0.4])


def affine_of(matrix):
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = 12.0, -30.0, 7.5
    return affine


TURNED = Rotation.from_euler("xyz", [12, -9, 17], degrees=True).as_matrix()
PERMUTED = np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])
AFFINES = {
    "ras": affine_of(np.eye(3)),
    "mirrored": affine_of(np.diag([-1.0, -1.0, 1.0])),
    "anisotropic": affine_of(np.diag([0.5, -0.8, 3.0])),
    "permuted": affine_of(PERMUTED @ np.diag([0.9, 1.1, 2.0])),
    "oblique": affine_of(TURNED @ PERMUTED @ np.diag([0.9, 1.1, 2.0])),
    "sheared": affine_of(TURNED @ np.array([[1.0, 0.25, 0], [0, -1.2, 0.1], [0, 0, 1.5]])),
}


@pytest.fixture(params=AFFINES)
def affine(request):
    return AFFINES[request.param]


def world(affine, shape):
    """(x, y, z, 3) position of every voxel in mm."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return indices @ affine[:3, :3].T + affine[:3, 3]


def volume_of(array, affine, name="scan.nii.gz"):
    return Volume(np.ascontiguousarray(array), Grid(array.shape, affine), Path(name))


def field_on(affine, shape):
    """A volume whose value is a linear function of the position in the world."""
    return volume_of((world(affine, shape) @ SLOPE).astype(np.float32), affine)


def inside(points, affine, shape):
    """Whether points in mm lie between the outermost voxel centres of a grid."""
    indices = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    return ((indices >= 0) & (indices <= np.array(shape) - 1)).all(-1)


def table(**extra):
    return LabelTable.from_json({"labels": {"0": "background", "500": "myocardium", "600": "cavity"}, **extra})


def test_orientation_keeps_every_value_at_its_place_in_the_world(affine):
    prepared = prepare_image([field_on(affine, SHAPE)], spacing_mm=None, intensity=AS_STORED)
    found = prepared.affine.numpy()
    assert "".join(aff2axcodes(found)) == "RAS"
    assert sorted(prepared.shape[1:]) == sorted(SHAPE)
    assert np.allclose(prepared.as_tensor()[0], world(found, prepared.shape[1:]) @ SLOPE, atol=1e-4)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.6, 1.7, 0.9)])
def test_resampling_keeps_every_value_at_its_place_in_the_world(affine, spacing_mm):
    prepared = prepare_image([field_on(affine, SHAPE)], spacing_mm=spacing_mm, intensity=AS_STORED)
    found, shape = prepared.affine.numpy(), prepared.shape[1:]
    assert np.allclose(np.linalg.norm(found[:3, :3], axis=0), spacing_mm)
    points = world(found, shape)
    known = inside(points, affine, SHAPE)
    assert known.mean() > 0.5
    assert np.allclose(prepared.as_tensor().numpy()[0][known], (points @ SLOPE)[known], atol=1e-4)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.6, 1.7, 0.9), (2.5, 0.7, 3.1)])
def test_resampling_is_that_of_monai(affine, spacing_mm, monkeypatch):
    monkeypatch.setattr(volume3d, "_SLAB_VOXELS", 500)  # several slabs
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    prepared = prepare_image([volume_of(array, affine)], spacing_mm=spacing_mm, intensity=AS_STORED)
    canonical = prepare_image([volume_of(array, affine)], spacing_mm=None, intensity=AS_STORED)
    expected = Spacing(spacing_mm, mode="bilinear", padding_mode="border")(canonical)
    assert prepared.shape == expected.shape and prepared.dtype == torch.float32
    assert np.allclose(prepared.affine, expected.affine, atol=1e-9)
    assert torch.allclose(prepared.as_tensor(), expected.as_tensor(), atol=1e-4)


def test_the_spacing_that_a_scan_has_leaves_it_as_it_is():
    scan = volume_of(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), AFFINES["ras"])
    own = tuple(np.linalg.norm(AFFINES["ras"][:3, :3], axis=0))
    again = prepare_image([scan], spacing_mm=own, intensity=AS_STORED)
    assert np.array_equal(again.as_tensor()[0].numpy(), scan.array)
    assert np.allclose(again.affine, AFFINES["ras"])


def test_normalising_leaves_the_volume_alone(affine):
    volume = field_on(affine, SHAPE)
    before = volume.array.copy()
    image = prepare_image([volume], spacing_mm=None, intensity=IntensitySettings(kind="zscore"))
    assert abs(float(image.mean())) < 1e-5
    kept = prepare_image([volume], spacing_mm=None, intensity=AS_STORED)
    kept.as_tensor().zero_()
    assert np.array_equal(volume.array, before)


def test_resampled_grid_covers_the_scan(affine):
    prepared = prepare_image([field_on(affine, SHAPE)], spacing_mm=(1.0, 1.0, 1.0), intensity=AS_STORED)
    found = prepared.affine.numpy()
    corners = world(affine, SHAPE)[:: SHAPE[0] - 1, :: SHAPE[1] - 1, :: SHAPE[2] - 1]
    indices = (corners - found[:3, 3]) @ np.linalg.inv(found[:3, :3]).T
    assert (indices > -1.01).all()
    assert (indices < np.array(prepared.shape[1:]) + 0.01).all()


def test_marked_voxel_stays_at_its_place_in_the_world(affine):
    array = np.zeros(SHAPE, np.int32)
    array[3, 8, 12] = 600
    prepared = prepare_label(volume_of(array, affine), table(), spacing_mm=None)
    position = prepared.affine.numpy() @ [*np.argwhere(prepared.as_tensor().numpy()[0] == 2)[0], 1]
    assert np.allclose(position, affine @ [3, 8, 12, 1])


def test_resampled_label_lies_where_the_resampled_image_lies(affine):
    array = np.zeros(SHAPE, np.int32)
    array[4:11, 3:9, 5:13] = 500
    label = prepare_label(volume_of(array, affine), table(), spacing_mm=(0.8, 0.8, 0.8))
    scan = volume_of((array > 0).astype(np.float32), affine)
    image = prepare_image([scan], spacing_mm=(0.8, 0.8, 0.8), intensity=AS_STORED)
    assert torch.equal(label.affine, image.affine)
    certain = (image.as_tensor() - 0.5).abs() > 0.499
    assert torch.equal((image.as_tensor() > 0.5)[certain], (label.as_tensor() == 1)[certain])


def test_way_back_without_resampling_is_exact(affine):
    volume = field_on(affine, SHAPE)
    prepared = prepare_image([volume], spacing_mm=None, intensity=AS_STORED)
    back = to_scan_grid(prepared.as_tensor(), prepared.affine.numpy(), volume.grid)
    assert np.array_equal(back[0].numpy(), volume.array)


def test_labels_come_back_voxel_by_voxel_without_resampling(affine):
    array = np.random.default_rng(0).choice([0, 500, 600], SHAPE).astype(np.int32)
    volume = volume_of(array, affine)
    prepared = prepare_label(volume, table(), spacing_mm=None)
    classes = torch.nn.functional.one_hot(prepared.as_tensor()[0], 3).permute(3, 0, 1, 2).float()
    back = to_scan_labels(classes, prepared.affine.numpy(), volume.grid)
    assert np.array_equal(to_label_values(back.numpy(), table()), array)


def test_way_back_after_resampling_meets_the_scans_voxel_centres(affine, monkeypatch):
    monkeypatch.setattr(volume3d, "_SLAB_VOXELS", 500)  # several slabs, with a smaller last one
    grid = Grid(SHAPE, affine)
    prepared = prepare_image([field_on(affine, SHAPE)], spacing_mm=(0.9, 1.2, 1.0), intensity=AS_STORED)
    found, shape = prepared.affine.numpy(), prepared.shape[1:]
    field = torch.from_numpy(world(found, shape) @ SLOPE).to(torch.float32)
    back = to_scan_grid(torch.stack([field, 2.0 * field]), found, grid)
    points = world(affine, SHAPE)
    known = inside(points, found, shape)
    assert known.mean() > 0.5
    assert back.shape == (2, *SHAPE)
    assert np.allclose(back[0].numpy()[known], (points @ SLOPE)[known], atol=1e-4)
    assert torch.allclose(back[1], 2.0 * back[0], atol=1e-4)


def test_way_back_after_resampling_agrees_with_scipy(affine):
    found = affine_of(np.diag([1.3, 0.9, 1.1]))
    found[:3, 3] -= 3.0
    maps = torch.from_numpy(np.random.default_rng(1).random((2, 15, 19, 13))).float()
    back = to_scan_grid(maps, found, Grid(SHAPE, affine))
    indices = (world(affine, SHAPE) - found[:3, 3]) @ np.linalg.inv(found[:3, :3]).T
    for number in range(2):
        expected = map_coordinates(maps[number].numpy(), np.moveaxis(indices, -1, 0), order=1, mode="nearest")
        assert np.allclose(back[number].numpy(), expected, atol=1e-4)


def test_labels_after_resampling_are_the_arg_max_of_the_maps(affine, monkeypatch):
    monkeypatch.setattr(volume3d, "_SLAB_VOXELS", 2000)
    found = affine_of(TURNED)
    maps = torch.from_numpy(np.random.default_rng(1).random((3, 12, 12, 12))).float()
    labels = to_scan_labels(maps, found, Grid(SHAPE, affine))
    assert labels.dtype == torch.int16
    assert torch.equal(labels.long(), to_scan_grid(maps, found, Grid(SHAPE, affine)).argmax(0))


def test_a_shifted_grid_is_not_taken_for_a_permuted_one():
    shifted = AFFINES["ras"].copy()
    shifted[0, 3] += 0.5
    maps = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 3, 3)
    back = to_scan_grid(maps, AFFINES["ras"], Grid((4, 3, 3), shifted))
    assert torch.allclose(back[0, :, 0, 0], torch.tensor([0.5, 1.5, 2.5, 3.0]))


def test_several_channels_are_prepared_together(affine):
    first = field_on(affine, SHAPE)
    second = volume_of(10.0 - 2.0 * first.array, affine, "other.nii.gz")
    prepared = prepare_image([first, second], spacing_mm=None, intensity=AS_STORED).as_tensor()
    assert prepared.shape[0] == 2
    assert torch.allclose(prepared[1], 10.0 - 2.0 * prepared[0], atol=1e-4)


def test_channels_on_different_grids_are_refused():
    moved = AFFINES["ras"].copy()
    moved[0, 3] += 1.0
    channels = [field_on(AFFINES["ras"], SHAPE), volume_of(np.ones(SHAPE, np.float32), moved, "t2.nii.gz")]
    with pytest.raises(VolumeError, match=r"t2\.nii\.gz: its corners lie up to 1 mm off.*grid of scan\.nii\.gz"):
        prepare_image(channels, spacing_mm=None, intensity=AS_STORED)


def test_label_of_another_shape_is_refused():
    label = volume_of(np.zeros((4, 4, 4), np.int32), np.eye(4), "label.nii.gz")
    with pytest.raises(VolumeError, match=r"label\.nii\.gz: its shape is 4 x 4 x 4, not 5 x 4 x 4"):
        on_grid_of(label, volume_of(np.zeros((5, 4, 4)), np.eye(4)))


def test_rounding_in_a_header_is_no_other_grid():
    array = np.zeros(SHAPE, np.float32)
    reference = volume_of(array, AFFINES["oblique"])
    found = on_grid_of(volume_of(array, AFFINES["oblique"].astype(np.float32)), reference)
    assert found.array is array and found.grid is reference.grid


@pytest.mark.parametrize("affine", ["ras", "oblique"])
def test_axes_that_are_stored_in_another_order_are_put_right(affine):
    """As another program saves a label, or one channel, of the same voxels."""
    reference = field_on(AFFINES[affine], SHAPE)
    turns = nibabel.orientations.axcodes2ornt("PIL")
    image = nibabel.Nifti1Image(reference.array, reference.grid.affine).as_reoriented(turns)
    other = volume_of(np.asarray(image.dataobj), image.affine, "turned.nii.gz")
    assert other.array.shape != reference.array.shape
    assert np.array_equal(on_grid_of(other, reference).array, reference.array)
    both = prepare_image([reference, other], spacing_mm=None, intensity=AS_STORED).as_tensor()
    assert torch.equal(both[0], both[1])


def test_zscore_is_by_channel_and_over_the_whole_volume():
    image = torch.randn(2, 6, 7, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 40.0]).view(
        2, 1, 1, 1
    )
    image[1] += 1000.0
    out = normalise(image, IntensitySettings())
    assert torch.allclose(out.mean((1, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(out.std((1, 2, 3), correction=0), torch.ones(2), atol=1e-5)
    assert torch.equal(out.flatten(1).argsort(1), image.flatten(1).argsort(1))


def test_zscore_of_one_single_value_is_zero():
    assert torch.equal(normalise(torch.full((1, 3, 3, 3), 7.0), IntensitySettings()), torch.zeros(1, 3, 3, 3))


def test_clip_by_hand():
    image = torch.tensor([-2000.0, -100.0, 50.0, 200.0, 3000.0]).view(1, 5, 1, 1)
    window = IntensitySettings(kind="clip", low=-100.0, high=200.0)
    assert normalise(image, window).flatten().tolist() == pytest.approx([-1, -1, 0, 1, 1])
    given = IntensitySettings(kind="clip", low=-100.0, high=200.0, mean=100.0, std=50.0)
    assert normalise(image, given).flatten().tolist() == pytest.approx([-4, -4, -1, 2, 2])


def test_as_stored_leaves_values_alone():
    image = torch.randn(1, 3, 3, 3)
    assert torch.equal(normalise(image, AS_STORED), image)


def test_sparse_values_become_channel_numbers_and_ignored_ones_minus_one():
    array = np.array([0, 500, 600, 255, 600], np.int32).reshape(5, 1, 1)
    labels = table(ignore_label=255)
    indices = to_class_indices(volume_of(array, np.eye(4)), labels)
    assert indices.dtype == np.int64
    assert indices.ravel().tolist() == [0, 1, 2, -1, 2]
    assert np.array_equal(to_label_values(indices, labels), array)
    assert to_label_values(np.array([-1, 2]), table()).tolist() == [0, 600]


@pytest.mark.parametrize("value", [-1, 3, 255, 65536, 70000, -40000])
def test_value_outside_the_table_is_named(value):
    array = np.zeros((4, 4, 4), np.int32)
    array[0, :2, 0] = value
    match = (
        rf"label\.nii\.gz: label value {value} \(2 voxels\) is not in .*\(0 background, 500 myocardium, 600 cavity\)"
    )
    with pytest.raises(VolumeError, match=match):
        to_class_indices(volume_of(array, np.eye(4), "label.nii.gz"), table())


def test_ignored_voxels_stay_ignored_through_resampling():
    array = np.zeros(SHAPE, np.int32)
    array[:7] = 255
    array[7:] = 600
    prepared = prepare_label(volume_of(array, AFFINES["ras"]), table(ignore_label=255), spacing_mm=(0.7, 0.7, 0.7))
    assert set(prepared.as_tensor().unique().tolist()) == {-1, 2}
    assert prepared.as_tensor().dtype == torch.int64


@pytest.mark.parametrize("classes", [2, 5])
def test_most_probable_is_the_argmax(classes: int) -> None:
    values = torch.randn(classes, 7, 6, 5, generator=torch.Generator().manual_seed(classes))
    assert torch.equal(most_probable(values), values.argmax(dim=0).to(torch.int16))
    assert torch.equal(most_probable(values.half()), values.half().argmax(dim=0).to(torch.int16))


def test_of_equal_classes_the_first_is_most_probable() -> None:
    values = torch.tensor([[1.0, 0.0, 2.0], [1.0, 3.0, 2.0], [0.0, 3.0, 2.0]])[:, :, None, None]
    before = values.clone()
    assert most_probable(values).flatten().tolist() == [0, 1, 0]
    assert torch.equal(values, before)


def test_zscore_of_values_in_tiny_units():
    """Diffusivities in mm2/s vary by a thousandth."""
    image = torch.linspace(0.0, 1e-3, 64).view(1, 4, 4, 4)
    out = normalise(image, IntensitySettings())
    assert float(out.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
