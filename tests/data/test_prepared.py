"""Tests of prepared cases and their caches: by hand, property."""

from __future__ import annotations

import json
import os

import nibabel as nib
import numpy as np
import pytest

from medcontrast.data import prepared
from medcontrast.data.manifest import Case, load_manifest
from medcontrast.data.prepared import PreparedCases, default_cache_folder, load_case
from medcontrast.errors import ManifestError, OutputError, VolumeError
from medcontrast.export.slicer import write_seg_nrrd
from medcontrast.labels import LabelTable
from medcontrast.settings.data import DataSettings, IntensitySettings
from medcontrast.volume import Grid

AFFINE = np.array([[0.0, -1.5, 0, 4], [-1, 0, 0, 9], [0, 0, 2, -3], [0, 0, 0, 1]])


def settings(cache="none", **more):
    return DataSettings(manifest="manifest.json", patch=(8, 8, 8), cache=cache, **more)


def assert_same_case(first, second):
    assert first.name == second.name
    assert np.array_equal(first.image, second.image)
    assert (first.label is None) == (second.label is None)
    assert first.label is None or np.array_equal(first.label, second.label)
    assert np.array_equal(first.affine, second.affine)
    assert first.grid.same_as(second.grid, 0.0)
    assert first.grid.nifti == second.grid.nifti
    assert first.grid.warnings == second.grid.warnings
    assert first.lost == second.lost


@pytest.fixture
def manifest(tiny, tmp_path):
    return load_manifest(tiny.write_data(tmp_path / "data", channels=2))


@pytest.fixture
def ignoring(tiny, tmp_path):
    """A case of two channels on an oblique grid, with sparse values and ignored voxels."""
    random = np.random.default_rng(0)
    label = random.choice([0, 500, 600, 255], (9, 10, 11)).astype(np.int16)
    images = [random.normal(size=label.shape).astype(np.float32) for _ in range(2)]
    paths = [tiny.write_nifti(tmp_path / f"c{index}.nii.gz", image, AFFINE) for index, image in enumerate(images)]
    path = tiny.write_nifti(tmp_path / "label.nii.gz", label, AFFINE)
    table = LabelTable.from_json({"labels": {"0": "background", "500": "a", "600": "b"}, "ignore_label": 255})
    return Case("case", tuple(paths), path), table, images, label


def test_case_is_canonical_with_channels_and_class_indices(ignoring):
    case, table, images, label = ignoring
    loaded = load_case(case, settings(intensity=IntensitySettings(kind="as_stored")), table)
    # stored axes go left and back: the first becomes y, the second x, both turned round
    assert loaded.image.shape == (2, 10, 9, 11)
    for channel, image in zip(loaded.image, images, strict=True):
        assert np.array_equal(channel, image[::-1, ::-1].transpose(1, 0, 2))
    expected = np.array([0, 1, 2, -1])[np.searchsorted([0, 500, 600], np.where(label == 255, 999, label))]
    assert np.array_equal(loaded.label[0], expected[::-1, ::-1].transpose(1, 0, 2))
    assert loaded.label.dtype == np.int16
    assert loaded.image.dtype == np.float32
    assert loaded.image.flags.c_contiguous
    assert loaded.spacing_mm == pytest.approx((1.5, 1.0, 2.0))
    assert np.allclose(loaded.grid.affine, AFFINE)


def test_a_label_whose_header_is_rounded_otherwise_is_prepared_on_the_grid_of_its_image(tiny, tmp_path):
    """Half of an even number of voxels: a digit of rounding, and resampling ends in one voxel more or less."""
    random = np.random.default_rng(0)
    label = np.zeros((20, 22, 24), np.int16)
    label[8:12, 8:12, 8:12] = 1
    affine = np.diag([0.625, 0.625, 0.625, 1.0])
    table = LabelTable.from_json({"labels": {"0": "background", "1": "a"}})
    image = tiny.write_nifti(tmp_path / "image.nii.gz", random.normal(size=label.shape).astype(np.float32), affine)
    found = set()
    for number, factor in enumerate((1 - 1e-6, 1.0, 1 + 1e-6)):
        path = tiny.write_nifti(tmp_path / f"label_{number}.nii.gz", label, affine @ np.diag([factor] * 3 + [1.0]))
        case = load_case(Case("case", (image,), path), settings(spacing_mm=(1.25, 1.25, 1.25)), table)
        assert case.label.shape[1:] == case.image.shape[1:]
        found.add(case.label.tobytes())
    assert len(found) == 1


def test_resampled_case_has_the_wanted_spacing(ignoring):
    case, table, *_ = ignoring
    loaded = load_case(case, settings(spacing_mm=(1.0, 2.0, 1.0)), table)
    assert loaded.spacing_mm == pytest.approx((1.0, 2.0, 1.0))
    assert loaded.label.shape[1:] == loaded.image.shape[1:]
    assert set(np.unique(loaded.label)) == {-1, 0, 1, 2}


@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_what_falls_between_the_voxels_of_resampling_is_known(tiny, tmp_path, cache):
    """A plane of 1 mm, a plane of 1 mm that a voxel of 4 mm has its middle in, and one that is ignored."""
    label = np.zeros((20, 18, 22), np.uint8)
    label[:, :, 2], label[:, :, 8], label[:, :, 13] = 1, 2, 9
    path = tiny.write_data(tmp_path / "data", labeled=1, ignore_label=9)
    tiny.write_nifti(tmp_path / "data/labels/case_00.nii", label)
    loaded = load_manifest(path)
    for spacing, lost in ((None, ()), ((1.0, 1.0, 1.0), ()), ((1.0, 1.0, 4.0), ("front",))):
        for _ in range(2):
            data = settings(cache, spacing_mm=spacing)
            cases = PreparedCases(loaded.labeled, data, loaded.labels, read_labels=True, folder=tmp_path / "cache")
            assert cases[0].lost == cases[0].lost == lost
            assert (1 in cases[0].label) is not bool(lost)
    unread = PreparedCases(loaded.labeled, data, loaded.labels, read_labels=False, folder=tmp_path / "cache")
    assert unread[0].lost == ()


def test_label_file_may_be_missing_where_it_is_not_read(ignoring):
    case, table, *_ = ignoring
    case.label.unlink()
    assert load_case(case, settings(), table, read_label=False).label is None
    with pytest.raises(VolumeError, match=r"label\.nii\.gz: there is no such file"):
        load_case(case, settings(), table)


def test_case_without_a_label_is_refused_where_one_is_needed(ignoring):
    case, table, *_ = ignoring
    with pytest.raises(ManifestError, match="case case: it has no label file, but its label is needed"):
        load_case(Case("case", case.images), settings(), table)


def test_label_on_another_grid_is_refused(tiny, ignoring, tmp_path):
    case, table, _, label = ignoring
    moved = AFFINE.copy()
    moved[2, 3] += 1
    path = tiny.write_nifti(tmp_path / "moved.nii.gz", label, moved)
    with pytest.raises(VolumeError, match=r"moved\.nii\.gz: its corners lie up to 1 mm off.* grid of .*c0\.nii\.gz"):
        load_case(Case("case", case.images, path), settings(), table)


def test_a_label_whose_axes_are_stored_in_another_order_is_the_same_label(tiny, ignoring, tmp_path):
    case, table, _, _ = ignoring
    stored = nib.load(case.label)
    turned = stored.as_reoriented(nib.orientations.axcodes2ornt("SLP"))
    assert turned.shape != stored.shape
    nib.save(turned, tmp_path / "turned.nii.gz")
    for data in (settings(), settings(spacing_mm=(1.5, 1.5, 1.5))):
        expected = load_case(case, data, table)
        found = load_case(Case("case", case.images, tmp_path / "turned.nii.gz"), data, table)
        assert np.array_equal(found.label, expected.label)


def test_unusable_scan_is_refused(tiny, ignoring, tmp_path):
    _, table, *_ = ignoring
    path = tiny.write_nifti(tmp_path / "flat.nii", np.full((9, 9, 9), 3.0, np.float32))
    with pytest.raises(VolumeError, match=r"flat\.nii: every voxel has the value 3"):
        load_case(Case("case", (path,)), settings(), table, read_label=False)


def test_caches_hold_what_reading_gives(manifest, tmp_path):
    plain = PreparedCases(manifest.labeled, settings(), manifest.labels, read_labels=True)
    for cache in ("memory", "disk", "disk"):
        kept = PreparedCases(
            manifest.labeled, settings(cache), manifest.labels, read_labels=True, folder=tmp_path / "cache"
        )
        kept.preload()
        assert len(kept) == 2
        for first, second in zip(plain, kept, strict=True):
            assert_same_case(first, second)


@pytest.fixture
def loads(monkeypatch):
    """Names of the cases that were read from their own files."""
    names = []

    def counted(case, *arguments, **options):
        names.append(case.name)
        return load_case(case, *arguments, **options)

    monkeypatch.setattr(prepared, "load_case", counted)
    return names


@pytest.mark.parametrize(("cache", "reads"), [("memory", 2), ("disk", 2), ("none", 4)])
def test_how_often_files_are_read(manifest, tmp_path, loads, cache, reads):
    cases = PreparedCases(
        manifest.labeled, settings(cache), manifest.labels, read_labels=True, folder=tmp_path / "cache"
    )
    cases.preload()
    for _ in range(2):
        list(cases)
    assert len(loads) == reads


def disk(manifest, folder, *, read_labels=True, labels=None, **more):
    return PreparedCases(
        manifest.labeled, settings("disk", **more), labels or manifest.labels, read_labels=read_labels, folder=folder
    )


def test_disk_cache_outlives_the_process_and_knows_what_it_depends_on(manifest, tmp_path, loads):
    folder = tmp_path / "cache"
    list(disk(manifest, folder))
    list(disk(manifest, folder))
    assert len(loads) == 2
    other = LabelTable.from_json({"labels": {"0": "background", "2": "back", "1": "front"}, "ignore_label": 9})
    changes = [
        disk(manifest, folder, spacing_mm=(2.0, 2.0, 2.0)),
        disk(manifest, folder, intensity=IntensitySettings(kind="as_stored")),
        disk(manifest, folder, read_labels=False),
        disk(manifest, folder, labels=other),
    ]
    for number, changed in enumerate(changes):
        list(changed)
        assert len(loads) == 4 + 2 * number
    os.utime(manifest.labeled[0].images[1], ns=(1, 1))
    os.utime(manifest.labeled[1].label, ns=(1, 1))
    list(disk(manifest, folder))
    assert len(loads) == 12


def test_damaged_cache_file_is_made_again(manifest, tmp_path):
    folder = tmp_path / "cache"
    first = list(disk(manifest, folder))
    expected = [case.image.copy() for case in first]
    del first
    for path in folder.iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[: len(content) // 2])
    for image, case in zip(expected, disk(manifest, folder), strict=True):
        assert np.array_equal(case.image, image)
    assert len(list(folder.iterdir())) == 2


def test_cache_that_cannot_be_written_is_named(manifest, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/cache/\w+\.safetensors: cannot be written \(.*file is no folder\)"):
        disk(manifest, tmp_path / "file" / "cache")[0]


def test_missing_scan_is_named_with_every_cache(manifest, tmp_path):
    manifest.labeled[0].images[0].unlink()
    for cache in ("memory", "disk", "none"):
        cases = PreparedCases(manifest.labeled, settings(cache), manifest.labels, read_labels=True, folder=tmp_path)
        with pytest.raises(VolumeError, match="there is no such file"):
            cases[0]


def test_folder_of_the_disk_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MEDCONTRAST_CACHE", raising=False)
    assert default_cache_folder() == tmp_path / "medcontrast"
    monkeypatch.setenv("MEDCONTRAST_CACHE", str(tmp_path / "here"))
    assert default_cache_folder() == tmp_path / "here"


def test_dicom_folder_and_detached_data_count_as_parts_of_a_scan(tmp_path):
    series, beside = tmp_path / "series", tmp_path / "voxels"
    for folder in (series, beside):
        folder.mkdir()
    for part in (series / "1.dcm", beside / "a.raw", beside / "b 1.raw", beside / "b 2.raw", beside / "other.raw"):
        part.write_bytes(b"a")
    scans = {series: series / "1.dcm"}
    for number, (header, part) in enumerate(
        (
            ("scan.mhd|NDims = 3\nElementDataFile = voxels/a.raw\n", "a.raw"),
            ("scan.mhd|ElementDataFile=LIST\nvoxels/b 1.raw\nvoxels/b 2.raw\n", "b 2.raw"),
            ("scan.mhd|ElementDataFile = voxels/b %d.raw 1 2 1\n", "b 2.raw"),
            ("scan.nhdr|NRRD0004\n# made by hand\ndata file: voxels/a.raw\nspace: LPS\n", "a.raw"),
            (f"SCAN.NHDR|NRRD0004\ndatafile: {beside / 'a.raw'}\n", "a.raw"),
            ("scan.nhdr|NRRD0004\ndata file: LIST 2\nvoxels/b 1.raw\nvoxels/b 2.raw\n", "b 2.raw"),
            ("scan.nhdr|NRRD0004\ndata file: voxels/b %01d.raw 1 2 1 2\n", "b 2.raw"),
        )
    ):
        name, text = header.split("|")
        scan = tmp_path / f"{number}{name}"
        scan.write_text(text)
        scans[scan] = beside / part
    for scan, part in scans.items():
        before = prepared._identity(scan)
        (beside / "other.raw").write_bytes((beside / "other.raw").read_bytes() + b"b")
        assert prepared._identity(scan) == before
        part.write_bytes(part.read_bytes() + b"b")
        assert prepared._identity(scan) != before


def test_changed_voxels_beside_a_header_of_another_name_are_read_anew(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 100, (2, 8, 8, 8)).astype(np.int16)
    (tmp_path / "scan.nhdr").write_text(
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 8 8 8\nendian: little\nencoding: raw\nspace: RAS\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\ndata file: voxels.raw\n"
    )
    case, table = (
        Case("case", (tmp_path / "scan.nhdr",)),
        LabelTable.from_json({"labels": {"0": "background", "1": "a"}}),
    )
    for number, stored in enumerate(pixels):
        (tmp_path / "voxels.raw").write_bytes(stored.tobytes(order="F"))
        os.utime(tmp_path / "voxels.raw", ns=(number, number))
        data = settings("disk", intensity=IntensitySettings(kind="as_stored"))
        kept = PreparedCases([case], data, table, read_labels=False, folder=tmp_path / "cache")
        assert np.array_equal(kept[0].image[0], stored)


def test_names_that_are_none_are_said_by_the_reader(tmp_path):
    (tmp_path / "scan.mhd").write_bytes(b"ElementDataFile = a\0b\n")
    case, table = (
        Case("case", (tmp_path / "scan.mhd",)),
        LabelTable.from_json({"labels": {"0": "background", "1": "a"}}),
    )
    kept = PreparedCases([case], settings("disk"), table, read_labels=False, folder=tmp_path / "cache")
    with pytest.raises(VolumeError, match=r"scan\.mhd: cannot be read"):
        kept[0]


def test_real_cases_are_prepared(data_root):
    folder = data_root / "hippocampus"
    table = LabelTable.from_json({"labels": {"0": "background", "1": "anterior", "2": "posterior"}})
    images = sorted((folder / "imagesTr").glob("*.nii.gz"))[:5]
    assert len(images) == 5
    for image in images:
        loaded = load_case(Case(image.name, (image,), folder / "labelsTr" / image.name), settings(), table)
        assert abs(float(loaded.image.mean())) < 1e-4
        assert set(np.unique(loaded.label)) == {0, 1, 2}


def test_the_disk_cache_knows_names_of_segments_that_are_read_by_them(tmp_path, tiny):
    """The same file means other classes by a table that gives its names other values."""
    array = np.zeros((9, 10, 11), np.uint8)
    array[:3], array[6:] = 1, 2
    tables = [LabelTable.from_json({"labels": {"1": one, "2": two}}) for one, two in (("a", "b"), ("b", "a"))]
    label = tmp_path / "label.seg.nrrd"
    write_seg_nrrd(label, array, Grid(array.shape, np.eye(4)), tables[0])
    image = tiny.write_nifti(tmp_path / "image.nii.gz", np.arange(990, dtype=np.float32).reshape(array.shape))
    cases = [Case("case", (image,), label)]
    found = [
        PreparedCases(cases, settings("disk"), table, read_labels=True, folder=tmp_path / "cache")[0].label
        for table in tables
    ]
    assert np.array_equal(found[0][0], array)
    assert np.array_equal(found[1][0], np.array([0, 2, 1])[array])


def test_the_disk_cache_knows_the_record_beside_a_mask(tmp_path, tiny):
    """A record that comes later, is put right or goes away changes what the mask's values mean."""
    array = np.zeros((9, 10, 11), np.uint8)
    array[:3], array[6:] = 1, 2
    label = tiny.write_nifti(tmp_path / "mask.nii.gz", array)
    image = tiny.write_nifti(tmp_path / "image.nii.gz", np.arange(990, dtype=np.float32).reshape(array.shape))
    table = LabelTable.from_json({"labels": {"1": "kidney", "2": "tumour"}})

    def read(cache):
        cases = PreparedCases([Case("case", (image,), label)], settings(cache), table, read_labels=True, folder=folder)
        return cases[0].label[0]

    folder, record = tmp_path / "cache", tmp_path / "mask.json"
    for names, order in ((None, [0, 1, 2]), (("tumour", "kidney"), [0, 2, 1]), (("kidney", "tumour"), [0, 1, 2])):
        if names is not None:
            labels = {str(value): name for value, name in enumerate(names, start=1)}
            record.write_text(json.dumps({"mask": label.name, "labels": labels}), encoding="utf-8")
        for cache in ("none", "disk", "disk"):
            assert np.array_equal(read(cache), np.array(order)[array]), (cache, names)
