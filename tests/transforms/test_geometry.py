"""Tests of the random geometry: by hand, property, geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.settings.data import SpatialSettings
from medcontrast.transforms.geometry import RowGeometry, apply_geometry, draw_geometry, reach

SHAPE = (13, 17, 11)
STILL = SpatialSettings(flip_axes=(), rotation_degrees=0.0, scale=0.0)


def positions(shape, spacing_mm=(1.0, 1.0, 1.0)):
    """(x, y, z, 3) in mm about the patch's centre."""
    lines = [(torch.arange(side) - (side - 1) / 2) * mm for side, mm in zip(shape, spacing_mm, strict=True)]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).double()


def noise(rows=2, channels=1, shape=SHAPE):
    return torch.randn(rows, channels, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0)])
def test_output_voxel_shows_what_the_matrix_points_at_in_mm(spacing_mm):
    matrix = draw_geometry(SpatialSettings(rotation_degrees=25.0), 3, 1, 4).matrix
    points = positions(SHAPE, spacing_mm)
    slope = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)
    image = (points @ slope).float()[None, None]
    out, _ = apply_geometry(image, None, [RowGeometry(matrix=matrix)], torch.tensor([spacing_mm]))
    source = points @ torch.from_numpy(matrix).T
    limit = points.abs().amax((0, 1, 2))
    known = (source.abs() <= limit).all(-1)
    assert known.float().mean() > 0.4
    assert torch.allclose(out[0, 0][known].double(), (source @ slope)[known], atol=1e-4)
    beyond = (source.abs() > limit + torch.tensor(spacing_mm)).any(-1)
    assert (out[0, 0][beyond] == 0).all()


def test_matrix_is_a_rotation_and_a_zoom():
    settings = SpatialSettings(rotation_degrees=30.0, scale=0.2)
    zooms = []
    for row in range(50):
        matrix = draw_geometry(settings, 0, 0, row).matrix
        zoom = 1.0 / np.cbrt(np.linalg.det(matrix))
        assert np.allclose(matrix @ matrix.T * zoom**2, np.eye(3))
        zooms.append(zoom)
    assert 0.8 <= min(zooms) < 0.85
    assert 1.15 < max(zooms) <= 1.2


def test_angle_stays_below_the_largest():
    for row in range(50):
        matrix = draw_geometry(SpatialSettings(rotation_degrees=10.0, scale=0.0), 0, 0, row).matrix
        assert np.degrees(np.arccos((np.trace(matrix) - 1) / 2)) <= 10.0 * 3**0.5 + 1e-6


def test_zoom_above_one_enlarges():
    image = torch.zeros(1, 1, 21, 21, 21)
    image[..., 8:13, 8:13, 8:13] = 1.0
    out, _ = apply_geometry(image, None, [RowGeometry(matrix=np.eye(3) / 1.5)], None)
    assert out.sum() > 2.5 * image.sum()


def test_flips_and_turns_by_hand():
    image = torch.arange(27.0).view(1, 1, 3, 3, 3)
    out, _ = apply_geometry(image, None, [RowGeometry(flips=(0, 2))], None)
    assert torch.equal(out, image.flip((2, 4)))
    out, _ = apply_geometry(image, None, [RowGeometry(flips=(1,), turns=((2, 1),))], None)
    assert torch.equal(out[0], image[0].flip(2).rot90(1, (1, 2)))
    out, _ = apply_geometry(image, None, [RowGeometry(turns=((0, 3), (1, 2)))], None)
    assert torch.equal(out[0], image[0].rot90(3, (2, 3)).rot90(2, (1, 3)))


def test_every_axis_is_mirrored_in_half_the_rows():
    drawn = [draw_geometry(SpatialSettings(), 0, 0, row).flips for row in range(400)]
    for axis in range(3):
        assert 0.42 < sum(axis in flips for flips in drawn) / 400 < 0.58


def test_only_named_axes_are_turned():
    settings = SpatialSettings(flip_axes=(1,), rotate90_axes=(2,))
    drawn = [draw_geometry(settings, 0, 0, row) for row in range(100)]
    assert {axis for geometry in drawn for axis in geometry.flips} == {1}
    assert {turn for geometry in drawn for turn in geometry.turns} == {(2, 1), (2, 2), (2, 3)}


def test_turning_a_patch_that_is_not_square_is_refused():
    with pytest.raises(InputError, match=r"rotate90_axes names axis 0, but the patch \(13, 17, 11\) is not square"):
        apply_geometry(noise(1), None, [RowGeometry(turns=((0, 1),))], None)


def test_nothing_set_leaves_every_bit_and_gives_new_tensors():
    image, label = noise(), torch.randint(-1, 3, (2, 1, *SHAPE))
    geometries = [draw_geometry(STILL, 0, 0, row) for row in range(2)]
    out, moved = apply_geometry(image, label, geometries, None)
    assert torch.equal(out, image)
    assert torch.equal(moved, label)
    assert out.data_ptr() != image.data_ptr()


def test_probability_is_the_share_of_rows_with_an_affine_part():
    drawn = [draw_geometry(SpatialSettings(probability=0.3), 0, 0, row).matrix is not None for row in range(400)]
    assert 0.22 < sum(drawn) / 400 < 0.38


def test_rows_without_an_affine_part_are_not_interpolated():
    image = noise()
    out, _ = apply_geometry(image, None, [RowGeometry(matrix=np.eye(3) / 1.1), RowGeometry(flips=(1,))], None)
    assert torch.equal(out[1], image[1].flip(2))
    assert not torch.equal(out[0], image[0])


def test_label_moves_with_the_image_and_inputs_stay():
    label = torch.zeros(1, 1, 24, 24, 24, dtype=torch.int64)
    label[..., 6:18, 4:12, 9:20] = 1
    geometry = draw_geometry(SpatialSettings(), 5, 2, 0)
    before = label.clone()
    out, moved = apply_geometry(label.float(), label, [geometry], torch.tensor([[1.0, 0.7, 2.0]]))
    assert torch.equal(label, before)
    certain = (out - 0.5).abs() > 0.45
    assert torch.equal((out > 0.5)[certain], (moved == 1)[certain])
    assert moved.dtype == torch.int64


def test_ignored_voxels_are_never_mixed_and_outside_is_background():
    label = torch.full((2, 1, *SHAPE), -1)
    label[0, :, 4:, 3:] = 7  # row 0 labeled with an ignored part, row 1 unlabeled
    geometries = [draw_geometry(SpatialSettings(rotation_degrees=40.0), 0, 0, row) for row in range(2)]
    _, moved = apply_geometry(noise(), label, geometries, None)
    assert set(moved[0].unique().tolist()) == {-1, 0, 7}
    assert (moved[1] == -1).all()


def test_multi_channel_images_move_as_one():
    image = noise(1).repeat(1, 3, 1, 1, 1) * torch.tensor([1.0, 2.0, -1.0]).view(1, 3, 1, 1, 1)
    out, _ = apply_geometry(image, None, [draw_geometry(SpatialSettings(), 0, 0, 0)], None)
    assert torch.allclose(out[:, 1], 2 * out[:, 0], atol=1e-6)
    assert torch.allclose(out[:, 2], -out[:, 0], atol=1e-6)


def test_a_flat_patch_is_possible():
    out, _ = apply_geometry(noise(1, 1, (9, 9, 1)), None, [draw_geometry(SpatialSettings(), 0, 0, 0)], None)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_turned_about_their_own_axis_alone_and_stay_what_they_are(axis):
    settings = SpatialSettings(rotation_degrees=40.0, rotation_axes=(axis,), scale=0.2, flip_axes=())
    geometry = draw_geometry(settings, 3, 1, 4)
    free = draw_geometry(SpatialSettings(rotation_degrees=40.0, scale=0.2, flip_axes=()), 3, 1, 4)
    scale = np.linalg.norm(geometry.matrix[:, 0])
    assert geometry.matrix[axis] == pytest.approx(scale * np.eye(3)[axis], abs=1e-12)
    assert np.linalg.norm(free.matrix[:, 0]) == pytest.approx(scale)  # the other draws stay
    sides = [1 if other == axis else 12 for other in range(3)]
    thin = noise(1, 1, sides)
    thick = thin.expand(1, 1, *[5 if other == axis else 12 for other in range(3)])
    out, _ = apply_geometry(thin, None, [geometry], torch.tensor([[1.0, 2.0, 3.0]]))
    # a slice of a volume that is alike along the axis, where no zoom reaches beyond its ends
    whole, _ = apply_geometry(thick, None, [geometry], torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(out, whole.narrow(2 + axis, 2, 1), rtol=0.0, atol=1e-5)


def test_no_axis_to_turn_about_and_no_zoom_leave_no_affine_part():
    settings = SpatialSettings(rotation_degrees=40.0, rotation_axes=(), scale=0.0)
    assert all(draw_geometry(settings, 0, 0, row).matrix is None for row in range(20))


def test_label_is_that_of_the_nearest_voxel():
    matrix = draw_geometry(SpatialSettings(rotation_degrees=25.0), 3, 1, 4).matrix
    label = torch.randint(0, 5, (1, 1, *SHAPE), generator=torch.Generator().manual_seed(2))
    _, moved = apply_geometry(noise(1), label, [RowGeometry(matrix=matrix)], None)
    place = positions(SHAPE) @ torch.from_numpy(matrix).T + (torch.tensor(SHAPE) - 1) / 2
    nearest = place.round().long()
    certain = ((place - nearest).abs() < 0.49).all(-1) & ((nearest >= 0) & (nearest < torch.tensor(SHAPE))).all(-1)
    assert certain.float().mean() > 0.4
    assert torch.equal(moved[0, 0][certain], label[0, 0][tuple(nearest[certain].T)])


def test_every_row_is_turned_in_its_own_spacing():
    geometries = [draw_geometry(SpatialSettings(rotation_degrees=25.0), 3, 1, row) for row in range(2)]
    spacing_mm, image = torch.tensor([[1.0, 1.0, 1.0], [0.5, 1.0, 3.0]]), noise()
    both, _ = apply_geometry(image, None, geometries, spacing_mm)
    for row in range(2):
        alone, _ = apply_geometry(image[row : row + 1], None, geometries[row : row + 1], spacing_mm[row : row + 1])
        torch.testing.assert_close(both[row : row + 1], alone)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_is_mirrored_alone(axis):
    out, _ = apply_geometry(noise(), None, [RowGeometry(), RowGeometry(flips=(axis,))], None)
    assert torch.equal(out[1], noise()[1].flip(1 + axis))


def test_geometry_is_drawn_anew_for_every_seed_step_and_row():
    drawn = [draw_geometry(SpatialSettings(), *each).matrix for each in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert len({matrix.tobytes() for matrix in drawn}) == 4


@pytest.mark.parametrize(
    ("settings", "patch", "spacing_mm", "expected"),
    [
        ({"rotation_degrees": 0.0, "scale": 0.5}, (9, 17, 1), (1, 1, 1), (4, 8, 0)),  # half of 8 and of 16, twice
        ({"rotation_degrees": 0.0, "scale": 0.0}, (9, 17, 1), (1, 1, 1), (0, 0, 0)),
        ({"rotation_degrees": 90.0, "scale": 0.0, "rotation_axes": (2,)}, (9, 17, 5), (1, 1, 1), (5, 1, 0)),
        ({"rotation_degrees": 90.0, "scale": 0.0, "rotation_axes": (0,)}, (5, 9, 9), (1, 1, 3), (0, 9, 1)),
        ({"rotation_degrees": 0.0, "scale": 0.5, "rotate90_axes": (0,)}, (5, 9, 9), (1, 1, 1), (4, 4, 4)),
        # half of 127 reaches to 89.8 at 45 degrees, between angles of a coarse grid (86.7 at 30 and at 60)
        ({"rotation_degrees": 180.0, "scale": 0.0, "rotation_axes": (2,)}, (128, 128, 1), (1, 1, 1), (27, 27, 0)),
        ({"rotation_degrees": 60.0, "scale": 0.0, "rotation_axes": (2,)}, (128, 128, 16), (1, 1, 1), (27, 27, 0)),
        # any direction may become an axis: half of the whole diagonal
        ({"rotation_degrees": 180.0, "scale": 0.0}, (64, 64, 64), (1, 1, 1), (24, 24, 24)),
        ({"rotation_degrees": 180.0, "scale": 0.0}, (96, 96, 32), (1, 1, 3), (35, 35, 12)),
    ],
)
def test_reach_by_hand(settings, patch, spacing_mm, expected):
    """A diagonal of 8 by 16 voxels is 17.9 long: 8.9 from the middle, where 4 and 8 are the patch's own."""
    assert reach(SpatialSettings(**settings), patch, spacing_mm) == expected


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 1.0, 2.5)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rotation_degrees": 180.0},
        {"rotation_degrees": 180.0, "scale": 0.0},
        {"rotation_axes": (0, 2), "scale": 0.4},
    ],
)
def test_nothing_from_beyond_an_image_that_is_larger_by_the_reach(settings, spacing_mm):
    settings = SpatialSettings(**settings)
    margin = reach(settings, SHAPE, spacing_mm)
    sides = [side + 2 * more for side, more in zip(SHAPE, margin, strict=True)]
    image, label = torch.ones(40, 1, *sides), torch.ones(40, 1, *sides, dtype=torch.int64)
    geometries = [draw_geometry(settings, 0, 0, row) for row in range(40)]
    spacings = torch.tensor([spacing_mm] * 40)
    for out in apply_geometry(image, label, geometries, spacings, SHAPE):
        assert out.shape == (40, 1, *SHAPE)
        assert torch.allclose(out.float(), torch.ones(()))
    inner = slice(None), slice(None), *(slice(more, more + side) for more, side in zip(margin, SHAPE, strict=True))
    assert (apply_geometry(image[inner], label[inner], geometries, spacings)[1] == 0).any()


def test_the_middle_of_a_larger_image_is_what_the_patch_alone_gives_where_that_knows_it():
    geometries = [draw_geometry(SpatialSettings(), 1, 2, row) for row in range(3)] + [RowGeometry(flips=(1,))]
    large = noise(4, 2, [side + 8 for side in SHAPE])
    small = large[:, :, *(slice(4, 4 + side) for side in SHAPE)].contiguous()
    label = (large[:, :1] > 0).long()
    inside = torch.ones_like(small)
    known = apply_geometry(inside, None, geometries, None)[0] > 0.9999
    assert 0.5 < known.float().mean() < 1
    one, one_label = apply_geometry(large, label, geometries, None, SHAPE)
    other, other_label = apply_geometry(small, (small[:, :1] > 0).long(), geometries, None)
    torch.testing.assert_close(one[known], other[known], atol=1e-4, rtol=0)
    assert (one_label == other_label)[known[:, :1]].float().mean() > 0.999  # but for what lies between two voxels
    assert torch.equal(one[3], other[3])


def test_a_label_is_turned_as_its_own_row_whatever_rows_stand_before_it():
    label = torch.randint(0, 3, (2, 1, *SHAPE), generator=torch.Generator().manual_seed(3))
    label[0] = -1  # unlabeled, and turned otherwise
    geometries = [draw_geometry(SpatialSettings(probability=1.0, rotation_degrees=40.0), 0, 0, row) for row in range(2)]
    _, both = apply_geometry(noise(), label, geometries, None)
    _, alone = apply_geometry(noise()[1:], label[1:], geometries[1:], None)
    assert torch.equal(both[1:], alone) and len(alone.unique()) == 3


def test_a_row_that_pytorchs_number_ignores_stays_ignored():
    geometries = [draw_geometry(SpatialSettings(rotation_degrees=25.0), 0, 1, row) for row in (0, 1)]
    label = torch.full((2, 1, *SHAPE), -100)
    label[0] = 1
    _, moved = apply_geometry(noise(), label, geometries, None)
    assert (moved[0] == 0).any() and (moved[1] == -100).all()
