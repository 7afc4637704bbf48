"""Tests of the training batches: by hand, property."""

from __future__ import annotations

from collections import Counter

import nibabel as nib
import numpy as np
import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.data.manifest import load_manifest
from medcontrast.data.prepared import PreparedCase
from medcontrast.data.sampler import RowKey
from medcontrast.data.volumes import PatchDataset, collate, lost_structures, make_loader
from medcontrast.engine.job import job_of
from medcontrast.errors import InputError, ManifestError, VolumeError
from medcontrast.settings import recipe_from_tree
from medcontrast.transforms.geometry import reach
from medcontrast.volume import Grid


def case_of(image, label=None, name="case"):
    label = None if label is None else label.astype(np.int16)[None]
    return PreparedCase(
        name, image.astype(np.float32), label, np.diag([1.0, 2, 3, 1]), Grid(image.shape[1:], np.eye(4))
    )


def numbered(shape=(20, 18, 22), channels=2):
    return np.arange(channels * np.prod(shape)).reshape(channels, *shape)


def test_crop_is_a_piece_of_image_and_label_at_one_place():
    image = numbered()
    label = image[0] % 5
    dataset = PatchDataset([case_of(image, label)], None, (8, 10, 9))
    starts = set()
    for step in range(60):
        row = dataset[RowKey(step, 0, 0, True)]
        assert row["image"].shape == (2, 8, 10, 9)
        assert row["label"].dtype == np.int64
        assert np.array_equal(row["label"][0], row["image"][0].astype(int) % 5)
        assert np.array_equal(row["image"][1] - row["image"][0], np.full((8, 10, 9), image[0].size))
        first = np.unravel_index(int(row["image"][0, 0, 0, 0]), image.shape[1:])
        x, y, z = (slice(start, start + side) for start, side in zip(first, (8, 10, 9), strict=True))
        assert np.array_equal(row["image"], image[:, x, y, z])
        starts.add(tuple(int(start) for start in first))
    assert len(starts) > 50
    for axis, room in enumerate((12, 8, 13)):
        assert {start[axis] for start in starts} <= set(range(room + 1))
        assert max(start[axis] for start in starts) > 0.8 * room


def test_small_scan_is_padded_evenly_with_zero_and_background():
    image = np.full((2, 6, 9, 20), 5.0)
    dataset = PatchDataset([case_of(image, np.ones((6, 9, 20)))], None, (9, 8, 8), foreground_crop=1.0)
    row = dataset[RowKey(0, 0, 0, True)]
    assert (row["image"][:, 1:7] == 5).all()
    assert (row["label"][:, 1:7] == 1).all()
    for outside in (slice(0, 1), slice(7, 9)):
        assert (row["image"][:, outside] == 0).all()
        assert (row["label"][:, outside] == 0).all()


def test_unlabeled_row_is_ignored_everywhere_and_needs_no_label():
    dataset = PatchDataset([], [case_of(numbered())], (8, 8, 8), foreground_crop=1.0)
    row = dataset[RowKey(0, 3, 0, False)]
    assert (row["label"] == -1).all()
    assert row["labeled"] is False
    assert row["index"] == 3


def test_foreground_crops_show_every_class_equally_often():
    label = np.zeros((40, 40, 40))
    label[:3, :3, :3] = 1  # at the border, where the crop cannot be centred
    label[20:36, 20:36, 20:36] = 2
    dataset = PatchDataset([case_of(numbered((40, 40, 40), 1), label)], None, (8, 8, 8), foreground_crop=1.0)
    shown = Counter()
    for step in range(300):
        found = dataset[RowKey(step, 0, 0, True)]["label"]
        (value,) = set(np.unique(found)) - {0}
        shown[value] += 1
        if value == 2:
            assert found[0, 4, 4, 4] == 2
        else:
            assert (found[0, :3, :3, :3] == 1).all()
    assert 120 < shown[1] < 180


def test_share_of_foreground_crops():
    label = np.zeros((40, 40, 40))
    label[2, 2, 2] = 1
    dataset = PatchDataset([case_of(numbered((40, 40, 40), 1), label)], None, (8, 8, 8), foreground_crop=0.4)
    hits = [dataset[RowKey(step, 0, 0, True)]["label"].any() for step in range(300)]
    assert 0.3 < np.mean(hits) < 0.5


def test_ignored_voxels_are_no_crop_centres_and_an_empty_label_is_fine():
    label = np.full((20, 20, 20), -1)
    dataset = PatchDataset([case_of(numbered((20, 20, 20), 1), label)], None, (8, 8, 8), foreground_crop=1.0)
    starts = {int(dataset[RowKey(step, 0, 0, True)]["image"].flat[0]) for step in range(20)}
    assert len(starts) > 10
    label[19, 19, 19] = 1
    dataset = PatchDataset([case_of(numbered((20, 20, 20), 1), label)], None, (8, 8, 8), foreground_crop=1.0)
    assert all((dataset[RowKey(step, 0, 0, True)]["label"] == 1).any() for step in range(20))


def test_large_structures_keep_centres_all_over_them():
    label = np.ones((30, 30, 30))
    dataset = PatchDataset([case_of(numbered((30, 30, 30), 1), label)], None, (8, 8, 8), foreground_crop=1.0)
    dataset[RowKey(0, 0, 0, True)]
    (voxels,) = dataset._centres[0]
    assert 5000 < len(voxels) <= 10_000
    assert voxels.max() > 26_900


def test_crop_depends_on_seed_step_and_row_alone():
    cases = [case_of(numbered(), numbered()[0] % 2)]

    def first(seed=0, step=4, row=2):
        dataset = PatchDataset(cases, None, (8, 8, 8), seed=seed)
        return float(dataset[RowKey(step, row, 0, True)]["image"].flat[0])

    assert first() == first()
    assert len({first(), first(seed=1), first(step=5), first(row=3)}) == 4


def test_collated_batch_by_hand():
    dataset = PatchDataset([case_of(numbered(), numbered()[0] % 2, "a")], [case_of(numbered(), name="b")], (8, 8, 8))
    batch = collate([dataset[RowKey(0, 4, 0, True)], dataset[RowKey(0, 9, 0, False)]])
    assert batch["image"].shape == (2, 2, 8, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].shape == (2, 1, 8, 8, 8)
    assert batch["label"].dtype == torch.int64
    assert batch["labeled"].tolist() == [True, False]
    assert batch["case"] == ["a", "b"]
    assert batch["index"].tolist() == [4, 9]
    assert batch["spacing_mm"].tolist() == [[1, 2, 3], [1, 2, 3]]


@pytest.fixture
def path(tiny, tmp_path):
    return tiny.write_data(tmp_path / "data", channels=2, shape=(20, 14, 22), ignore_label=9)


def batches(
    tiny, path, *, rank=0, world_size=1, start_step=0, cache_folder=None, method="mean_teacher", train=None, **data
):
    tree = tiny.recipe_tree(method, **(train or {}))
    for key, value in data.items():
        tree = tiny.set_key(tree, f"data.{key}", value)
    recipe = recipe_from_tree(tree, where="test")
    loader, sampler = make_loader(
        recipe, load_manifest(path), rank=rank, world_size=world_size, start_step=start_step, cache_folder=cache_folder
    )
    made = list(loader)
    assert len(made) == len(loader) == len(sampler)
    return made


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name], name


def test_batches_are_the_same_for_any_number_of_workers_and_every_cache(tiny, path, tmp_path):
    expected = batches(tiny, path)
    assert len(expected) == 6
    assert expected[0]["image"].shape == (4, 2, 16, 16, 16)
    for options in (
        {"workers": 2},
        {"workers": 2, "cache": "none"},
        {"cache": "disk", "cache_folder": tmp_path / "cache"},
        {"workers": 1, "cache": "disk", "cache_folder": tmp_path / "cache"},
    ):
        for first, second in zip(expected, batches(tiny, path, **options), strict=True):
            assert_same(first, second)


def test_resumed_batches_go_on_exactly(tiny, path):
    expected = batches(tiny, path)
    for first, second in zip(expected[4:], batches(tiny, path, start_step=4, workers=1), strict=True):
        assert_same(first, second)


def test_processes_and_micro_batches_share_out_the_same_rows(tiny, path):
    expected = batches(tiny, path)
    split = batches(tiny, path, train={"accumulate": 2})
    ranks = [batches(tiny, path, rank=rank, world_size=2) for rank in range(2)]
    for step, whole in enumerate(expected):
        for parts in (split[2 * step : 2 * step + 2], [share[step] for share in ranks]):
            rows = torch.cat([part["index"] for part in parts])
            order = rows.argsort()
            for name in ("image", "label", "labeled", "index"):
                assert torch.equal(torch.cat([part[name] for part in parts])[order], whole[name])


def test_deleting_the_labels_of_unlabeled_cases_changes_no_bit(tiny, path):
    expected = batches(tiny, path)
    for case in load_manifest(path).unlabeled:
        case.label.unlink()
    for first, second in zip(expected, batches(tiny, path), strict=True):
        assert_same(first, second)
        assert (second["label"][2:] == -1).all()
        assert (second["label"][:2] >= 0).all()


def test_loader_leaves_the_global_generator_alone(tiny, path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(tiny, path)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_unlabeled_rows_unlabeled_files_are_not_read(tiny, path):
    for case in load_manifest(path).unlabeled:
        for image in case.images:
            image.unlink()
    assert len(batches(tiny, path, method="supervised")) == 6
    with pytest.raises(VolumeError, match="there is no such file"):
        batches(tiny, path)


def test_rows_without_cases_are_refused(tiny, tmp_path):
    path = tiny.write_data(tmp_path / "data", unlabeled=0)
    with pytest.raises(InputError, match="unlabeled_rows is 2, but the manifest has no unlabeled cases"):
        batches(tiny, path)


def thin_front(tiny, folder, numbers):
    """Labels of these cases whose front is a plane of 1 mm, which voxels of 4 mm along z do not meet."""
    for number in numbers:
        label = np.zeros((20, 18, 22), np.uint8)
        label[:, :, 2], label[:, :, 8] = 1, 2
        tiny.write_nifti(folder / f"labels/case_{number:02d}.nii", label)


def test_a_structure_that_resampling_takes_from_every_label_is_refused(tiny, tmp_path):
    path = tiny.write_data(tmp_path / "data", labeled=2)
    thin_front(tiny, tmp_path / "data", [0, 1])
    assert batches(tiny, path, spacing_mm=[1.0, 1.0, 1.0])
    with pytest.raises(ManifestError) as caught:
        batches(tiny, path, spacing_mm=[1.0, 1.0, 4.0])
    assert str(caught.value) == (
        f"{path}: labels hold front, but resampled to data.spacing_mm [1.0, 1.0, 4.0] none of the 2 labeled case(s) "
        "does: it is thinner than these voxels. Set a finer data.spacing_mm."
    )


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_training_says_in_which_cases_a_structure_is_lost(tiny, tmp_path, cache):
    tree = tiny.recipe_tree("fba_net", steps=1, validate_every=1)
    tree = tiny.set_key(tiny.set_key(tree, "data.spacing_mm", [1.0, 1.0, 4.0]), "data.cache", cache)
    run = tiny.make_run(tmp_path, tree, labeled=2, validation=1)
    folder = run.manifest.labeled[0].label.parents[1]
    loader, _ = make_loader(run.recipe, run.manifest)
    assert lost_structures(loader.dataset.labeled, "labeled") is None
    thin_front(tiny, folder, [0])
    thin_front(tiny, folder, [int(run.manifest.validation[0].name[-2:])])
    said = " ".join(tiny.train(run).console.file.getvalue().split())
    for use, count, case in (("labeled", 2, "case_00"), ("validation", 1, run.manifest.validation[0].name)):
        assert (
            f"Warning: In 1 of {count} {use} case(s) a structure falls between the voxels of data.spacing_mm "
            f"[1.0, 1.0, 4.0] and is gone: {case} (front). A finer spacing keeps it."
        ) in said


def test_labels_without_any_structure_are_refused(tiny, tmp_path):
    """As where 255 stands for the structure and is called ignored: training would end well and find nothing."""
    path = tiny.write_data(tmp_path / "data", labeled=2, ignore_label=9)
    for number in range(2):
        tiny.write_nifti(tmp_path / f"data/labels/case_{number:02d}.nii", np.full((20, 18, 22), 9, np.uint8))
    with pytest.raises(
        ManifestError,
        match=r"manifest\.json: none of its 2 labeled case\(s\) holds a voxel of front \(value 1\), back \(value 2\); ",
    ):
        batches(tiny, path)


@pytest.mark.parametrize("foreground_crop", [0.0, 1.0])
def test_a_margin_moves_no_crop_and_shows_what_lies_around_it(foreground_crop):
    image = numbered((30, 11, 24))
    case = case_of(image, image[0] % 7 == 3)
    settings = {"foreground_crop": foreground_crop, "seed": 4}
    plain = PatchDataset([case], [case], (8, 10, 9), **settings)
    wide = PatchDataset([case], [case], (8, 10, 9), margin=(3, 4, 0), **settings)
    for step in range(40):
        for key in (RowKey(step, 0, 0, True), RowKey(step, 1, 0, False)):
            patch, found = plain[key], wide[key]
            assert found["image"].shape == (2, 14, 18, 9) and found["label"].shape == (1, 14, 18, 9)
            for name in ("image", "label"):
                assert np.array_equal(found[name][:, 3:-3, 4:-4], patch[name])
            # every number stands at one place, and 0 beyond the scan
            x, y, z = np.unravel_index(int(patch["image"][0, 0, 0, 0]), image.shape[1:])
            start, stop = max(0, x - 3), min(30, x + 11)
            seen = found["image"][0][start - x + 3 : stop - x + 3]
            assert np.array_equal(seen[:, max(0, 4 - y) : 15 - y], image[0, start:stop, max(0, y - 4) :, z : z + 9])
            assert np.count_nonzero(found["image"][1]) == (stop - start) * seen[:, max(0, 4 - y) : 15 - y].shape[1] * 9


def test_where_each_scan_keeps_its_spacing_the_furthest_reach_is_for_all(tiny, tmp_path):
    tree = tiny.set_key(tiny.recipe_tree("fba_net", steps=2), "augment.spatial.beyond_patch", "scan")
    run = tiny.make_run(tmp_path, tiny.set_key(tree, "data.spacing_mm", None))
    spacings = [(1.0, 1.0, 1.0)] * (len(run.manifest.labeled) - 1) + [(0.7, 0.7, 5.0)]
    for case, spacing in zip(run.manifest.labeled, spacings, strict=True):
        for path in (*case.images, case.label):
            voxels = np.asarray(nib.load(path).dataobj).copy()  # the file that is mapped is written over
            nib.save(nib.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)
    margins = np.array([reach(run.recipe.augment.spatial, (16, 16, 16), each) for each in spacings])
    assert (margins[0] < margins[-1]).any() and (margins[0] > margins[-1]).any()
    batch = next(iter(make_loader(run.recipe, run.manifest)[0]))
    assert batch["image"].shape[2:] == tuple(16 + 2 * margins.max(axis=0))


@pytest.mark.parametrize("spacing_mm", [None, [1.0, 1.0, 2.0]])
def test_views_that_look_into_the_scan_are_read_with_their_reach_and_have_the_patchs_sides(tiny, tmp_path, spacing_mm):
    tree = tiny.set_key(tiny.recipe_tree("fba_net", steps=2), "augment.spatial.beyond_patch", "scan")
    tree = tiny.set_key(tree, "data.spacing_mm", spacing_mm)
    run = tiny.make_run(tmp_path, tree)
    margin = reach(run.recipe.augment.spatial, (16, 16, 16), spacing_mm or (1.0, 1.0, 1.0))
    loader, _ = make_loader(run.recipe, run.manifest)
    batch = next(iter(loader))
    assert batch["image"].shape == (4, 1, *(16 + 2 * more for more in margin))
    viewed = job_of(run).with_views(batch, StepInfo(0, 2, 0, 3))
    assert (
        viewed["label"].shape == viewed["views"]["weak"].shape == viewed["views"]["strong"].shape == (4, 1, 16, 16, 16)
    )
    assert tiny.train(run).state.step == 2
