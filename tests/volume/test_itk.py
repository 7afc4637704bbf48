"""Geometry: NRRD and MetaImage against pynrrd and nibabel's convention."""

from __future__ import annotations

from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from metaimage import VALUES, metaimage

from medcontrast.errors import VolumeError
from medcontrast.volume import read_grid, read_volume

SPACE = {
    "space": "left-posterior-superior",
    "space directions": np.diag([1.0, 2.0, 3.0]),
    "space origin": [1.0, 2.0, 3.0],
}


def test_nrrd_lps_becomes_ras(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "scan.nrrd"), VALUES, dict(SPACE))
    volume = read_volume(tmp_path / "scan.nrrd", "image")
    np.testing.assert_array_equal(volume.array, VALUES)
    np.testing.assert_array_equal(volume.grid.affine, [[-1, 0, 0, -1], [0, -2, 0, -2], [0, 0, 3, 3], [0, 0, 0, 1]])
    assert not np.signbit(volume.grid.affine[volume.grid.affine == 0]).any()
    assert volume.grid.nifti is None
    assert volume.array.dtype == np.float32


def test_nrrd_in_ras_and_sheared(tmp_path: Path) -> None:
    directions = np.array([[1.0, 0.0, 0.0], [0.4, 2.0, 0.0], [0.0, 0.1, -3.0]])  # rows are the steps i, j, k
    header = {"space": "right-anterior-superior", "space directions": directions, "space origin": [5, 6, 7]}
    nrrd.write(str(tmp_path / "scan.nrrd"), VALUES, header)
    grid = read_grid(tmp_path / "scan.nrrd")
    np.testing.assert_allclose(grid.affine[:3, :3], directions.T, atol=1e-12)
    np.testing.assert_allclose(grid.affine[:3, 3], [5, 6, 7])


def test_detached_header_and_metaimage(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "scan.nhdr"), VALUES, dict(SPACE))
    image = sitk.ReadImage(str(tmp_path / "scan.nhdr"))
    for name in ("scan.mha", "scan.mhd"):
        sitk.WriteImage(image, str(tmp_path / name))
    expected = read_volume(tmp_path / "scan.nhdr", "label")
    for name in ("scan.mha", "scan.mhd"):
        volume = read_volume(tmp_path / name, "label")
        np.testing.assert_array_equal(volume.array, VALUES)
        assert volume.grid.same_as(expected.grid, 1e-9)


@pytest.mark.parametrize("name", ["SCAN.MHA", "Scan.Mhd", "SCAN.NRRD", "SCAN.NHDR"])
def test_names_in_upper_case(tmp_path: Path, name: str) -> None:
    image = sitk.GetImageFromArray(VALUES.T)
    sitk.WriteImage(image, str(tmp_path / name.lower()))
    (tmp_path / name.lower()).rename(tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name, "image").array, VALUES)
    assert read_grid(tmp_path / name).shape == (4, 5, 6)


def test_trailing_axis_of_one(tmp_path: Path) -> None:
    image = sitk.JoinSeries([sitk.GetImageFromArray(VALUES.T)])
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.mha", "image").array, VALUES)


def test_faults_of_single_files(tmp_path: Path) -> None:
    def refused(name: str, sentence: str) -> None:
        with pytest.raises(VolumeError, match=sentence):
            read_volume(tmp_path / name, "image")

    nrrd.write(str(tmp_path / "placeless.nrrd"), VALUES, {})
    refused(
        "placeless.nrrd", r"placeless\.nrrd: does not say where it lies .* its header names no space such as left-post"
    )
    layers = {"kinds": ["list", *["domain"] * 3], "space directions": np.vstack([[np.nan] * 3, np.eye(3)])}
    nrrd.write(str(tmp_path / "layers.nrrd"), VALUES.reshape(2, 2, 5, 6), SPACE | layers)
    refused(
        "layers.nrrd",
        r"layers\.nrrd: stores 2 values a voxel \(vector of .*\): colours, vectors, complex numbers or overl",
    )
    sitk.WriteImage(sitk.GetImageFromArray(VALUES[0]), str(tmp_path / "flat.mha"))
    refused("flat.mha", r"flat\.mha: is an image of 2 axes \(6 x 5\)")
    sitk.WriteImage(sitk.GetImageFromArray(VALUES.reshape(2, 2, 5, 6), isVector=False), str(tmp_path / "time.mha"))
    refused("time.mha", r"time\.mha: has 4 axes \(6 x 5 x 2 x 2\)")
    nrrd.write(str(tmp_path / "cut.nrrd"), VALUES, dict(SPACE))
    (tmp_path / "cut.nrrd").write_bytes((tmp_path / "cut.nrrd").read_bytes()[:-20])
    refused("cut.nrrd", r"cut\.nrrd: cannot be read: damaged, cut off or of another format \(")
    (tmp_path / "text.mha").write_text("not an image")
    refused("text.mha", r"text\.mha: cannot be read: damaged")
    nrrd.write(str(tmp_path / "lonely.nhdr"), VALUES, dict(SPACE))
    (tmp_path / "lonely.raw.gz").unlink()
    refused("lonely.nhdr", r"lonely\.nhdr: cannot be read")


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
@pytest.mark.parametrize("fields", [("space directions",), ("space directions", "space origin")])
def test_nrrd_with_directions_of_no_space(tmp_path: Path, fields: tuple[str, ...], suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    header = {key: SPACE[key] for key in fields}
    sentence = r"\.n\w+: does not say where it lies or which side is left: its header names no space such as left-poste"
    for dimension in ({}, {"space dimension": 3}):  # SimpleITK reads the second alone
        nrrd.write(str(path), VALUES, dimension | header)
        for read in (read_grid, lambda path: read_volume(path, "image")):
            with pytest.raises(VolumeError, match=sentence):
                read(path)


@pytest.mark.parametrize(
    "space",
    ["scanner-xyz", "3D-right-handed", "3D-left-handed", "scanner-xyz-time", "right-anterior-superior-time", "LAST"],
)
def test_nrrd_of_another_space_than_the_patients_is_refused(tmp_path: Path, space: str) -> None:
    four = space.endswith(("-time", "LAST"))
    header = {"space": space, "space directions": np.eye(3 + four), "space origin": [1.0] * (3 + four)}
    nrrd.write(str(tmp_path / "scan.nrrd"), VALUES[..., None] if four else VALUES, header)
    sentence = (
        rf"scan\.nrrd: does not say which side is left: its header names the space {space}; make it left-posterior"
    )
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(VolumeError, match=sentence):
            read(tmp_path / "scan.nrrd")


@pytest.mark.parametrize(
    ("space", "signs"),
    [("LPS", (-1, -1)), ("RAS", (1, 1)), ("left-anterior-superior", (-1, 1)), ("Right-Anterior-Superior", (1, 1))],
)
def test_nrrd_spaces_of_the_patient(tmp_path: Path, space: str, signs: tuple[int, int]) -> None:
    nrrd.write(str(tmp_path / "scan.nrrd"), VALUES, SPACE | {"space": space})
    np.testing.assert_allclose(read_grid(tmp_path / "scan.nrrd").affine[:3, 3], [signs[0], signs[1] * 2, 3])


@pytest.mark.parametrize("unit", ["cm", "m", "um", "microns"])
def test_lengths_that_are_not_in_millimetres_are_refused(tmp_path: Path, unit: str) -> None:
    sentence = rf": its lengths are in {unit}, which other programs take for mm; convert its header to mm\.$"
    nrrd.write(str(tmp_path / "scan.nrrd"), VALUES, SPACE | {"space units": [unit] * 3})
    metaimage(tmp_path / "scan.mha", DistanceUnits=unit)
    for name in ("scan.nrrd", "scan.mha"):
        with pytest.raises(VolumeError, match=sentence):
            read_grid(tmp_path / name)


def test_millimetres_by_name_or_by_default(tmp_path: Path) -> None:
    for number, units in enumerate((["mm"] * 3, ["Millimeters"] * 3, [""] * 3)):
        nrrd.write(str(tmp_path / f"{number}.nrrd"), VALUES, SPACE | {"space units": units})
        assert read_grid(tmp_path / f"{number}.nrrd").warnings == ()
    metaimage(tmp_path / "scan.mha", DistanceUnits="mm")
    assert read_grid(tmp_path / "scan.mha").warnings == ()
    small = SPACE | {"space directions": np.eye(3) * 0.0015}
    for units, doubtful in ((["mm"] * 3, False), ([""] * 3, True)):
        nrrd.write(str(tmp_path / "small.nrrd"), VALUES, small | {"space units": units})
        warnings = read_grid(tmp_path / "small.nrrd").warnings
        assert len(warnings) == doubtful
        assert all("does not name its unit of length, and with millimetres its voxels" in text for text in warnings)


def test_what_a_nrrd_header_leaves_out(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), VALUES, {key: SPACE[key] for key in ("space", "space directions")})
    grid = read_grid(tmp_path / "a.nrrd")
    assert grid.warnings == (
        f"{tmp_path / 'a.nrrd'}: does not say where it lies (its header has no space origin); "
        "its first voxel is taken as at 0, 0, 0.",
    )
    np.testing.assert_array_equal(grid.affine, np.diag([-1, -2, 3, 1]))
    whole = (tmp_path / "a.nrrd").read_bytes()
    directions = next(line for line in whole.split(b"\n") if line.startswith(b"space directions"))
    for lines in (b"", b"space directions: (1,0,0) (0,1,0) none\n"):
        (tmp_path / "b.nrrd").write_bytes(whole.replace(directions + b"\n", lines))
        with pytest.raises(VolumeError, match=r"b\.nrrd: does not say how large its voxels are: .* lacks space dir"):
            read_grid(tmp_path / "b.nrrd")


def test_what_a_metaimage_header_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "scan.mha"
    assert read_grid(metaimage(path)).warnings == ()
    sides = "does not say how it lies or which side is left (its header has no TransformMatrix)"
    place = "does not say where it lies (its header has no Offset)"
    for left_out, expected in (
        (["TransformMatrix"], [sides]),
        (["Offset"], [place]),
        (["TransformMatrix", "Offset"], [sides, place]),
    ):
        grid = read_grid(metaimage(path, *left_out))
        assert [text.split(";")[0] for text in grid.warnings] == [f"{path}: {text}" for text in expected]
        image = sitk.ReadImage(str(path))  # a mask lies where ITK shows the scan
        x, y, z = image.TransformIndexToPhysicalPoint((1, 2, 3))
        np.testing.assert_allclose((grid.affine @ [1, 2, 3, 1])[:3], [-x, -y, z])
    for read in (read_grid, lambda path: read_volume(path, "image")):
        with pytest.raises(
            VolumeError, match=r"scan\.mha: does not say how large its voxels are: .* no ElementSpacing"
        ):
            read(metaimage(path, "ElementSpacing"))


def test_other_names_of_metaimage_fields(tmp_path: Path) -> None:
    without = ("TransformMatrix", "Offset", "ElementSpacing")
    other = {"Rotation": "-1 0 0 0 -1 0 0 0 1", "Position": "1 2 3", "ElementSize": "1 2 3"}
    grid = read_grid(metaimage(tmp_path / "scan.mha", *without, **other))
    assert grid.warnings == () and grid.same_as(read_grid(metaimage(tmp_path / "same.mha")), 0.0)
