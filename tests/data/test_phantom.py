"""Tests of the phantom: property, geometry."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medcontrast.data.makers.anatomy import rotation, smooth_noise
from medcontrast.data.makers.phantom import PhantomCase, _store, make_phantom, write_phantom
from medcontrast.data.manifest import load_manifest
from medcontrast.errors import InputError, OutputError
from medcontrast.volume import read_volume


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return [make_phantom(0, index) for index in range(12)]


def test_a_case_depends_on_seed_and_index_alone() -> None:
    first, second = make_phantom(3, 5, shape=(32, 32, 24)), make_phantom(3, 5, shape=(32, 32, 24))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.label, second.label)
    assert np.array_equal(first.affine, second.affine)
    for other in (make_phantom(4, 5, shape=(32, 32, 24)), make_phantom(3, 6, shape=(32, 32, 24))):
        assert other.image.shape != first.image.shape or not np.array_equal(other.image, first.image)


def test_a_case_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    small = write_phantom(tmp_path / "a", labeled=1, unlabeled=0, validation=1, test=0, shape=(20, 20, 16))
    large = write_phantom(tmp_path / "b", labeled=1, unlabeled=1, validation=0, test=1, shape=(20, 20, 16))
    for index in range(2):
        for part in ("images", "labels"):
            name = f"{part}/phantom_{index:03d}.nii.gz"
            assert (small.parent / name).read_bytes() == (large.parent / name).read_bytes()


def test_the_atrium_is_one_piece_of_plausible_size(cases: list[PhantomCase]) -> None:
    volumes = []
    for case in cases:
        assert case.image.dtype == np.int16 and case.label.dtype == np.uint8
        assert set(np.unique(case.label)) == {0, 1}
        assert ndimage.label(case.label)[1] == 1
        volumes.append(case.label.sum() * abs(np.linalg.det(case.affine[:3, :3])) / 1000)
    assert min(volumes) > 25 and max(volumes) < 200
    assert max(volumes) > 1.8 * min(volumes)


def test_blood_alone_does_not_tell_the_atrium(cases: list[PhantomCase]) -> None:
    """Neighbours of like intensity are there: a window around the atrium's own values holds more outside than in."""
    outside_share = []
    for case in cases:
        low, high = np.percentile(case.image[case.label == 1], (10, 90))
        window = (case.image >= low) & (case.image <= high)
        outside_share.append(np.mean(case.label[window] == 0))
    assert np.median(outside_share) > 0.5


def test_the_atrium_is_brighter_than_the_lungs(cases: list[PhantomCase]) -> None:
    for case in cases:
        inside = np.median(case.image[case.label == 1])
        assert inside > 1.5 * np.percentile(case.image, 3)


def test_frames_are_oblique_some_are_mirrored_and_spacings_differ(cases: list[PhantomCase]) -> None:
    frames = [case.affine[:3, :3] for case in cases]
    spacings = np.array([np.linalg.norm(frame, axis=0) for frame in frames])
    assert 0 < sum(np.linalg.det(frame) < 0 for frame in frames) < len(frames)
    assert all(
        np.abs(frame / spacing - np.sign(np.diag(frame)) * np.eye(3)).max() > 0.01
        for frame, spacing in zip(frames, spacings, strict=True)
    )
    assert np.all(np.abs(spacings / (2.2, 2.2, 2.8) - 1) <= 0.0801)
    assert np.ptp(spacings[:, 0]) > 0.1
    for frame, spacing in zip(frames, spacings, strict=True):
        assert np.allclose((frame / spacing).T @ (frame / spacing), np.eye(3), atol=1e-9)


def test_mirroring_moves_the_storage_and_not_the_anatomy(cases: list[PhantomCase]) -> None:
    """The lungs lie to the sides: along x of the world, whichever way the axis is stored."""
    for case in cases:
        index = np.argwhere(case.label == 1).mean(0)
        world = case.affine @ [*index, 1.0]
        middle = case.affine @ [*(np.array(case.label.shape) / 2), 1.0]
        assert np.linalg.norm((world - middle)[:3]) < 40


def test_files_are_what_the_generator_made(tmp_path: Path) -> None:
    path = write_phantom(tmp_path / "p", labeled=2, unlabeled=1, validation=1, test=1, seed=7, shape=(24, 24, 16))
    manifest = load_manifest(path)
    assert {name: len(found) for name, found in manifest.splits()} == {
        "labeled": 2, "unlabeled": 1, "validation": 1, "test": 1,
    }  # fmt: skip
    assert manifest.name == "phantom_2of3"
    assert manifest.labels.labels[0].color == (203, 108, 81)
    type_ = manifest.labels.labels[0].type
    assert type_ is not None and (type_.scheme, type_.value) == ("SCT", "82471001")
    case, made = manifest.validation[0], make_phantom(7, 3, shape=(24, 24, 16))
    image = read_volume(case.images[0], "image")
    assert case.label is not None
    label = read_volume(case.label, "label")
    assert np.array_equal(image.array, made.image) and np.array_equal(label.array, made.label)
    assert np.allclose(image.grid.affine, made.affine, atol=1e-4)
    assert image.grid.warnings == () and label.grid.same_as(image.grid, 1e-3)


def test_it_can_be_moved(tmp_path: Path) -> None:
    path = write_phantom(tmp_path / "p", labeled=1, unlabeled=0, validation=0, test=0, shape=(20, 20, 16))
    path.parent.rename(tmp_path / "q")
    assert load_manifest(tmp_path / "q" / "manifest.json").labeled[0].images[0].exists()


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"add up to the number of cases \(5\), but got labeled 4, unlabeled -15"):
        write_phantom(tmp_path, cases=5)
    with pytest.raises(InputError, match=r"at least 16 voxels along each axis, but got"):
        write_phantom(tmp_path, shape=(64, 8, 64))
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_cases_sets_the_unlabeled_ones(tmp_path: Path) -> None:
    path = write_phantom(tmp_path, cases=3, labeled=1, validation=1, test=0, shape=(20, 20, 16))
    assert len(load_manifest(path).unlabeled) == 1


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    options = {"labeled": 1, "unlabeled": 0, "validation": 0, "test": 0, "shape": (20, 20, 16)}
    path = write_phantom(tmp_path, **options)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=r"manifest\.json: exists already; add --overwrite, or name another output"):
        write_phantom(tmp_path, **options)  # type: ignore[arg-type]
    assert write_phantom(tmp_path, overwrite=True, **options) == path  # type: ignore[arg-type]


def test_a_case_costs_less_than_a_hundred_smoothings_of_its_size() -> None:
    noise = np.random.default_rng(0).random((64, 64, 40), dtype=np.float32)

    def seconds(work: Callable[[], object]) -> float:
        def once() -> float:
            start = time.process_time()
            work()
            return time.process_time() - start

        return min(once() for _ in range(3))

    assert seconds(lambda: make_phantom(0, 0)) < 100 * seconds(lambda: ndimage.gaussian_filter(noise, 2.0))


def test_rotation_is_about_x_then_y_then_z() -> None:
    assert np.allclose(rotation(np.array([np.pi / 2, 0, 0])) @ [0, 1, 0], [0, 0, 1])
    assert np.allclose(rotation(np.array([0, np.pi / 2, 0])) @ [0, 0, 1], [1, 0, 0])
    assert np.allclose(rotation(np.array([0, 0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0])
    assert np.allclose(rotation(np.array([np.pi / 2, 0, np.pi / 2])) @ [0, 1, 0], [0, 0, 1])


def test_smooth_noise_has_unit_deviation_and_is_smooth() -> None:
    noise = smooth_noise(np.random.default_rng(0), (30, 20, 25), cells=4)
    assert noise.shape == (30, 20, 25)
    assert noise.std() == pytest.approx(1.0, abs=1e-4)
    assert max(np.abs(np.diff(noise, axis=axis)).max() for axis in range(3)) < 0.8


def test_storing_mirrored_moves_no_voxel_in_the_world() -> None:
    """A mark to the right of the middle lies to the right in the world, the middle within 60 mm, in every frame."""
    image, spacing = np.zeros((40, 30, 20), np.float32), np.array([2.0, 2.0, 3.0])
    image[38, 15, 10] = 100.0
    label, mirrored = (image > 0).astype(np.uint8), 0
    for seed in range(40):
        case = _store(np.random.default_rng(seed), image, label, spacing)
        (index,) = np.argwhere(case.label)
        assert case.image[tuple(index)] == 100
        middle = case.affine @ [*((np.array(image.shape) - 1) / 2), 1.0]
        assert np.abs(middle[:3]).max() < 60 + 3
        offset = (case.affine @ [*index, 1.0] - middle)[:3]
        assert offset[0] > 0.8 * np.linalg.norm(offset)
        assert np.linalg.norm(offset) == pytest.approx(np.linalg.norm(np.array([18.5, 0.5, 0.5]) * spacing))
        mirrored += bool((np.diag(case.affine) < 0).any())
    assert 5 < mirrored < 20
