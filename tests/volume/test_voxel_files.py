"""Voxels of NRRD and MetaImage that are packed, or lie in many files: property (damage is noticed), every sentence."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
from metaimage import VALUES, metaimage

from medcontrast.errors import VolumeError
from medcontrast.volume import read_grid, read_volume
from medcontrast.volume.text_headers import data_files


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


@pytest.mark.parametrize("axes", ["73", "0", "99", "x", "-3"])
def test_a_header_of_many_axes_is_refused_before_itk_writes_beyond_its_memory(tmp_path, axes):
    path = metaimage(tmp_path / "scan.mha", NDims=axes)
    with pytest.raises(
        VolumeError, match=rf"scan\.mha: its header is damaged: NDims = {axes}, but a volume has 3 axes\.$"
    ):
        read_grid(path)
