"""Tests of the importers: by hand, geometry."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcontrast.data.makers.importers import import_la, la_tree
from medcontrast.errors import InputError, OutputError, VolumeError
from medcontrast.volume import read_volume


def write_h5(folder: Path, **arrays: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "mri_norm2.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return folder


def write_nrrd(path: Path, array: Any, **header: Any) -> None:
    """Through pynrrd, which is not what the importer reads with."""
    import nrrd

    path.parent.mkdir(parents=True, exist_ok=True)
    place = {
        "space": "left-posterior-superior",
        "space directions": [[0.0, -0.625, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 1.25]],
        "space origin": [10.0, -20.0, 30.0],
    }
    nrrd.write(str(path), array, {**place, **header})


@pytest.fixture
def image() -> Any:
    return np.random.default_rng(0).normal(size=(4, 5, 6))


@pytest.fixture
def label() -> Any:
    return (np.arange(120).reshape(4, 5, 6) % 3 == 0).astype(np.uint8)


def test_h5_becomes_nifti_of_0625_mm(tmp_path: Path, image: Any, label: Any) -> None:
    write_h5(tmp_path / "in" / "X", image=image, label=label)
    write_h5(tmp_path / "in" / "Y", image=image + 1, label=label * 255)
    told: list[str] = []
    assert import_la("la-h5", tmp_path / "in", tmp_path / "out", tell=told.append) == ["X", "Y"] == told
    for name, shift in (("X", 0), ("Y", 1)):
        made = read_volume(tmp_path / "out" / name / "image.nii.gz", "image")
        mask = read_volume(tmp_path / "out" / name / "label.nii.gz", "label")
        assert np.array_equal(made.array, (image + shift).astype(np.float32))
        assert np.array_equal(mask.array, label)
        assert np.allclose(made.grid.affine, np.diag([0.625, 0.625, 0.625, 1.0]))
        assert mask.grid.same_as(made.grid, 1e-3) and not made.grid.warnings


def test_nrrd_keeps_its_place_in_the_world(tmp_path: Path, label: Any) -> None:
    """By hand: LPS columns (0, -.625, 0), (.5, 0, 0), (0, 0, 1.25) and the origin, then x and y negated."""
    scan = np.arange(120, dtype=np.uint8).reshape(4, 5, 6)
    write_nrrd(tmp_path / "in" / "X" / "lgemri.nrrd", scan)
    write_nrrd(tmp_path / "in" / "X" / "laendo.nrrd", label * np.uint8(255))
    import_la("la-nrrd", tmp_path / "in", tmp_path / "out", whole=True)
    made = read_volume(tmp_path / "out" / "X" / "image.nii.gz", "image")
    mask = read_volume(tmp_path / "out" / "X" / "label.nii.gz", "label")
    assert np.array_equal(made.array, scan) and np.array_equal(mask.array, label)
    lps = np.array([10.0 + 3 * 0.5, -20.0 - 2 * 0.625, 30.0 + 4 * 1.25])
    assert np.allclose((made.grid.affine @ [2, 3, 4, 1])[:3], lps * [-1, -1, 1])
    assert mask.grid.same_as(made.grid, 1e-3)


def test_nrrd_becomes_what_the_recipes_take(tmp_path: Path) -> None:
    """z-scored as a whole, then cropped in x and y: by hand to a margin of 14 voxels, and to no less than 112."""
    scan = np.random.default_rng(0).integers(0, 255, (160, 200, 5)).astype(np.uint8)
    label = np.zeros_like(scan)
    label[30:150, 90:101, 1:3] = 255  # x: 120 voxels, 16 to 160 (the border); y: 11, of which (112 - 11) // 2 = 50 more
    write_nrrd(tmp_path / "in" / "X" / "lgemri.nrrd", scan)
    write_nrrd(tmp_path / "in" / "X" / "laendo.nrrd", label)
    import_la("la-nrrd", tmp_path / "in", tmp_path / "out")
    import_la("la-nrrd", tmp_path / "in", tmp_path / "whole", whole=True)
    made = read_volume(tmp_path / "out" / "X" / "image.nii.gz", "image")
    mask = read_volume(tmp_path / "out" / "X" / "label.nii.gz", "label")
    scored = (scan - scan.mean()) / scan.std()
    assert np.allclose(made.array, scored[16:, 26:165], atol=1e-5)
    assert np.array_equal(mask.array, label[16:, 26:165] > 0) and mask.grid.same_as(made.grid, 1e-3)
    whole = read_volume(tmp_path / "whole" / "X" / "image.nii.gz", "image")
    assert np.array_equal(whole.array, scan)
    assert np.allclose(made.grid.affine @ [3, 4, 2, 1], whole.grid.affine @ [19, 30, 2, 1])


def test_nothing_to_crop_around(tmp_path: Path, label: Any) -> None:
    write_nrrd(tmp_path / "in" / "X" / "lgemri.nrrd", label)
    write_nrrd(tmp_path / "in" / "X" / "laendo.nrrd", label * 0)
    with pytest.raises(VolumeError, match=r"laendo.nrrd: is empty, so that there is nothing to crop around; import wi"):
        import_la("la-nrrd", tmp_path / "in", tmp_path / "out")
    import_la("la-nrrd", tmp_path / "in", tmp_path / "out", whole=True)
    with pytest.raises(InputError, match="--whole goes with la-nrrd: the files of la-h5 are crops already"):
        import_la("la-h5", tmp_path / "in", tmp_path / "out", whole=True)


def test_lists_choose_cases_and_folders(tmp_path: Path, image: Any, label: Any) -> None:
    for name in "ABCD":
        write_h5(tmp_path / "in" / name, image=image, label=label)
    done = import_la("la-h5", tmp_path / "in", tmp_path / "out", train=["C", "A"], test=["B"])
    assert done == ["C", "A", "B"]
    found = sorted(path.parent.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("image*"))
    assert found == ["test/B", "train/A", "train/C"]


def test_everything_is_looked_for_before_anything_is_written(tmp_path: Path, image: Any, label: Any) -> None:
    write_h5(tmp_path / "in" / "A", image=image, label=label)
    with pytest.raises(InputError, match=r"la-h5 needs CASE/mri_norm2.h5; the first that is missing is .*/B/mri_norm2"):
        import_la("la-h5", tmp_path / "in", tmp_path / "out", train=["A", "B"])
    with pytest.raises(
        InputError, match=r"la-nrrd needs CASE/lgemri.nrrd and CASE/laendo.nrrd; the first .*CASE/lgemri"
    ):
        import_la("la-nrrd", tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match=r"there is no importer 'la'; choose one of la-h5, la-nrrd"):
        import_la("la", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_unasked(tmp_path: Path, image: Any, label: Any) -> None:
    write_h5(tmp_path / "in" / "A", image=image, label=label)
    import_la("la-h5", tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "A" / "image.nii.gz").unlink()
    with pytest.raises(OutputError, match=r"A/label.nii.gz: exists already; add --overwrite, or name another output"):
        import_la("la-h5", tmp_path / "in", tmp_path / "out")
    import_la("la-h5", tmp_path / "in", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "A" / "image.nii.gz").exists()


def test_files_of_another_kind(tmp_path: Path, image: Any, label: Any) -> None:
    folder = tmp_path / "in" / "A"

    def fails(sentence: str) -> None:
        with pytest.raises(VolumeError, match=sentence):
            import_la("la-h5", tmp_path / "in", tmp_path / "out", overwrite=True)

    write_h5(folder, image=image)
    fails(r"expected the data sets image and label, but it holds \['image'\]")
    write_h5(folder, image=image, label=label[1:])
    fails(r"image \(4, 5, 6\) and label \(3, 5, 6\) must be 3D and of one shape")
    write_h5(folder, image=image, label=label * 2)
    fails(r"expected a label of 0 and 1 \(or 255\), but it holds \[0, 2\]")
    (folder / "mri_norm2.h5").write_bytes(b"nothing")
    fails("not a readable HDF5 file")


def test_nrrd_label_must_lie_on_the_scan(tmp_path: Path, label: Any) -> None:
    write_nrrd(tmp_path / "in" / "X" / "lgemri.nrrd", label)
    write_nrrd(tmp_path / "in" / "X" / "laendo.nrrd", label, **{"space origin": [0.0, 0.0, 0.0]})
    with pytest.raises(
        VolumeError, match=r"laendo.nrrd does not lie on the grid of .*lgemri.nrrd: its corners lie up to"
    ):
        import_la("la-nrrd", tmp_path / "in", tmp_path / "out")


def test_without_h5py(tmp_path: Path, image: Any, label: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_h5(tmp_path / "in" / "A", image=image, label=label)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"needs the package h5py, which is not installed: pip install h5py$"):
        import_la("la-h5", tmp_path / "in", tmp_path / "out")


def test_the_tree_by_hand() -> None:
    tree = la_tree(["b", "a"], ["c"], labeled=1, name="x", prefix="p/")
    assert tree["labeled"] == [{"case": "b", "image": "p/train/b/image.nii.gz", "label": "p/train/b/label.nii.gz"}]
    assert tree["unlabeled"] == [{"case": "a", "image": "p/train/a/image.nii.gz", "label": "p/train/a/label.nii.gz"}]
    assert tree["test"] == [{"case": "c", "image": "p/test/c/image.nii.gz", "label": "p/test/c/label.nii.gz"}]
    assert "unlabeled" not in la_tree(["b"], [], labeled=1, name="x")
    with pytest.raises(InputError, match=r"--labeled 3 must lie between 1 and the 2 names of the training list"):
        la_tree(["b", "a"], [], labeled=3, name="x")
    with pytest.raises(InputError, match=r"there is no importer 'la'; choose one of la-h5, la-nrrd"):
        la_tree(["b", "a"], [], labeled=1, name="x", form="la")
    whole = la_tree(["b"], [], labeled=1, name="x", form="la-nrrd", whole=True)
    assert "own whole scans" in str(whole["description"])
