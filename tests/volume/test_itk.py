"""Geometry: NRRD and MetaImage against pynrrd and nibabel's convention."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from medcontrast.errors import VolumeError
from medcontrast.volume import read_grid, read_volume
from medcontrast.volume.text_headers import data_files

VALUES = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
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


def metaimage(path: Path, *without: str, **more: str) -> Path:
    """Writes a MetaImage with fields left out or added."""
    fields = {
        "NDims": "3",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
        "Offset": "1 2 3",
        "ElementSpacing": "1 2 3",
        "DimSize": "4 5 6",
        "ElementType": "MET_SHORT",
    }
    kept = {key: value for key, value in (fields | more).items() if key not in without}
    lines = [f"{key} = {value}\n" for key, value in (kept | {"ElementDataFile": "LOCAL"}).items()]
    path.write_bytes("".join(lines).encode() + VALUES.tobytes(order="F"))
    return path


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


def compressed(path: Path, payload: bytes, *without: str, **more: str) -> Path:
    """Writes VALUES as a compressed MetaImage: .mha, or .mhd with the voxels beside it in voxels.zraw."""
    size = {"CompressedData": "True", "CompressedDataSize": str(len(payload))}
    data = "LOCAL" if path.suffix == ".mha" else "voxels.zraw"
    head = metaimage(path, *without, **{key: value for key, value in (size | more).items() if key not in without})
    header = head.read_bytes().split(b"ElementDataFile")[0] + f"ElementDataFile = {data}\n".encode()
    path.write_bytes(header + (payload if data == "LOCAL" else b""))
    if data != "LOCAL":
        (path.parent / data).write_bytes(payload)
    return path


PACKED = zlib.compress(VALUES.tobytes(order="F"))


@pytest.mark.parametrize("name", ["scan.mha", "scan.mhd"])
def test_compressed_metaimage(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    def refused(reason: str) -> None:
        with pytest.raises(VolumeError, match=rf"{name}: cannot be read: damaged, cut off or of another .* \({reason}"):
            read_volume(path, "image")

    for payload in (PACKED, gzip.compress(VALUES.tobytes(order="F")), PACKED + b"\n"):
        np.testing.assert_array_equal(read_volume(compressed(path, payload), "image").array, VALUES)
    for place in (0, 1, 5, len(PACKED) // 2, len(PACKED) - 1):
        flipped = bytearray(PACKED)
        flipped[place] ^= 0x10
        compressed(path, bytes(flipped))
        refused("Error -3 while decompressing data: ")
    compressed(path, PACKED[:-20])
    refused("its compressed voxels are cut off")
    compressed(path, zlib.compress(VALUES.tobytes(order="F")[:-2]))
    refused("its compressed voxels hold 238 bytes, not 240")
    compressed(path, zlib.compress(VALUES.tobytes(order="F") + b"more"))
    refused("its compressed voxels hold 244 bytes, not 240")
    for made in (compressed(path, PACKED, "CompressedDataSize"), compressed(path, PACKED, CompressedDataSize="0")):
        if name == "scan.mha":
            refused("its header has no CompressedDataSize")
        else:
            np.testing.assert_array_equal(read_volume(made, "image").array, VALUES)
    np.testing.assert_array_equal(read_volume(metaimage(path, CompressedData="False"), "image").array, VALUES)


@pytest.mark.parametrize("data", ["LIST\n" + "\n".join(f"s{k}.zraw" for k in range(6)), "s%d.zraw 0 5 1"])
def test_compressed_slices_of_a_metaimage(tmp_path: Path, data: str) -> None:
    header = metaimage(tmp_path / "scan.mhd", CompressedData="True").read_bytes().split(b"ElementDataFile")[0]
    (tmp_path / "scan.mhd").write_bytes(header + f"ElementDataFile = {data}\n".encode())
    for k in range(6):
        (tmp_path / f"s{k}.zraw").write_bytes(zlib.compress(VALUES[:, :, k].tobytes(order="F")))
    assert data_files(tmp_path / "scan.mhd") == [tmp_path / f"s{k}.zraw" for k in range(6)]
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.mhd", "image").array, VALUES)
    damaged = bytearray((tmp_path / "s4.zraw").read_bytes())
    damaged[10] ^= 0x10
    (tmp_path / "s4.zraw").write_bytes(damaged)
    with pytest.raises(VolumeError, match=r"scan\.mhd: cannot be read: damaged"):
        read_volume(tmp_path / "scan.mhd", "image")


RAW = VALUES.tobytes(order="F")


def packed_nrrd(path, payload, *fields):
    """Writes VALUES as a NRRD file packed by gzip: .nrrd, or .nhdr with the voxels in the files that fields name."""
    sizes = " ".join(map(str, VALUES.shape))
    head = ["NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", f"sizes: {sizes}"]
    head += ["space directions: (1,0,0) (0,1,0) (0,0,1)", "endian: little", "encoding: gzip", "space origin: (0,0,0)"]
    path.write_bytes("\n".join([*head, *fields, "", ""]).encode() + payload)
    return path


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        (gzip.compress(RAW), ()),
        (gzip.compress(RAW[:100]) + gzip.compress(RAW[100:]), ()),
        (gzip.compress(RAW) + b"\n", ()),
        (b"a line\nand\n" + gzip.compress(RAW), ("line skip: 2",)),
        (gzip.compress(b"more" + RAW), ("byte skip: 4",)),
    ],
)
def test_packed_nrrd(tmp_path, payload, fields):
    path = packed_nrrd(tmp_path / "scan.nrrd", payload, *fields)
    np.testing.assert_array_equal(read_volume(path, "image").array, VALUES)


def test_damage_to_packed_nrrd_is_never_read_as_voxels(tmp_path):
    """Flipped anywhere, a bit is noticed: ITK stops at the last voxel, often before the checksum."""
    whole, refused = gzip.compress(RAW), 0
    for place in range(10, len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        path = packed_nrrd(tmp_path / "scan.nrrd", bytes(flipped))
        try:
            np.testing.assert_array_equal(read_volume(path, "image").array, VALUES)  # a bit that means nothing
        except VolumeError as error:
            assert "scan.nrrd: cannot be read: damaged" in str(error)
            refused += 1
    assert refused >= len(whole) - 15
    for cut in (whole[:-4], gzip.compress(RAW[:-2])):
        with pytest.raises(VolumeError, match=r"scan\.nrrd: cannot be read: damaged"):
            read_volume(packed_nrrd(tmp_path / "scan.nrrd", cut), "image")


@pytest.mark.parametrize(
    "named", ["data file: s%d.gz 0 5 1", "data file: LIST\n" + "\n".join(f"s{k}.gz" for k in range(6))]
)
def test_packed_slices_of_a_nrrd(tmp_path, named):
    for k in range(6):
        (tmp_path / f"s{k}.gz").write_bytes(gzip.compress(VALUES[:, :, k].tobytes(order="F")))
    path = packed_nrrd(tmp_path / "scan.nhdr", b"", named)
    if "LIST" in named:  # the names end the header
        path.write_text(path.read_text().rstrip("\n") + "\n")
    np.testing.assert_array_equal(read_volume(path, "image").array, VALUES)
    damaged = bytearray((tmp_path / "s4.gz").read_bytes())
    damaged[-5] ^= 0x10
    (tmp_path / "s4.gz").write_bytes(damaged)
    with pytest.raises(VolumeError, match=r"scan\.nhdr: cannot be read: damaged"):
        read_volume(path, "image")


def raw_files(folder, named):
    """VALUES as a MetaImage of one file a slice."""
    for k in range(VALUES.shape[2]):
        (folder / f"s{k}.raw").write_bytes(VALUES[:, :, k].astype("<i2").tobytes("F"))
    sizes = " ".join(map(str, VALUES.shape))
    fields = f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_SHORT\nElementSpacing = 1 1 1\n"
    path = folder / "scan.mhd"
    path.write_text(f"{fields}ElementByteOrderMSB = False\nElementDataFile = {named}\n", encoding="utf-8")
    return path


FILES = [f"s{k}.raw" for k in range(VALUES.shape[2])]


@pytest.mark.parametrize("named", ["s%d.raw 0 5 1", "\n".join(["LIST", *FILES]), "\n".join(["LIST 2D", *FILES])])
def test_a_metaimage_of_many_files(tmp_path, named):
    path = raw_files(tmp_path, named)
    np.testing.assert_array_equal(read_volume(path, "image").array, VALUES)
    assert data_files(path) == [tmp_path / name for name in FILES]


@pytest.mark.parametrize("numbers", [" 0", " 0 5", " 0 5 0", " 0 5 0.5", " 0 5 x", " 5 0 -1"])
def test_a_pattern_without_a_step_upwards_is_refused_before_itk_divides_by_it(tmp_path, numbers):
    path = raw_files(tmp_path, f"s%d.raw{numbers}")
    said = rf"scan\.mhd: ElementDataFile = s%d\.raw{numbers} needs a step of 1 or more; .* such as s%d\.raw 0 9 1\.$"
    for read in (lambda: read_volume(path, "image"), lambda: read_grid(path)):
        with pytest.raises(VolumeError, match=said):
            read()


@pytest.mark.parametrize(
    ("named", "count"), [("s%d.raw 0 4 1", 5), ("s%d.raw 0 5 2", 3), ("\n".join(["LIST", *FILES[:2]]), 2)]
)
def test_slices_without_a_file_are_not_made_up(tmp_path, named, count):
    path = raw_files(tmp_path, named)
    with pytest.raises(VolumeError, match=rf"its header names {count} file\(s\) of voxels, but has 6 slices\.$"):
        read_volume(path, "image")
