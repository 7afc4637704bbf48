"""Geometry, by hand: a .seg.nrrd keeps every voxel's place and names every structure, as three other readers see it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio

from medcontrast.errors import OutputError, VolumeError
from medcontrast.export import write_seg_nrrd
from medcontrast.export.slicer import DICOM_MASTER, GENERAL_ANATOMY, segment_extents, terminology_entry
from medcontrast.labels import LabelTable
from medcontrast.volume import Grid, read_grid, read_volume, write_label

TABLE = LabelTable.from_json(
    {
        "labels": {
            "0": "background",
            "1": {"name": "left atrium", "color": [203, 108, 81], "type": ["SCT", "82471001", "Left atrium"]},
            "3": "never seen: empty",
            "7": {
                "name": "hippocampus",
                "color": [0, 255, 51],
                "type": ["SCT", "5366008", "Hippocampus"],
                "type_modifier": ["SCT", "255549009", "Anterior"],
            },
        }
    }
)


def rotated(*spacing: float, origin: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """Axes turned by 30 degrees about z, then by 20 about x."""
    a, b = np.deg2rad([30, 20])
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn_x @ turn_z * np.array(spacing), origin
    return affine


AFFINES = {
    "plain": np.eye(4),
    "anisotropic, origin off zero": np.array([[0.4, 0, 0, -120], [0, 0.5, 0, 87.5], [0, 0, 5, -1033], [0, 0, 0, 1.0]]),
    "oblique": rotated(0.7, 0.8, 2.5, origin=(10, -20, 30)),
    "mirrored": rotated(-0.7, 0.8, 2.5, origin=(10, -20, 30)),
    "axes swapped": np.array([[0, 0, 3, 5], [-1, 0, 0, 6], [0, 2, 0, 7], [0, 0, 0, 1.0]]),
    "sheared": rotated(1, 1, 2, origin=(1, 2, 3))
    @ np.array([[1, 0.3, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
}


def marked(shape: tuple[int, int, int] = (6, 7, 8), voxel: tuple[int, int, int] = (1, 4, 6)) -> np.ndarray:
    array = np.zeros(shape, dtype=np.int32)
    array[voxel] = 1
    return array


def world_by_pynrrd(path: Path) -> np.ndarray:
    array, header = nrrd.read(str(path))
    (index,) = np.argwhere(array == 1)
    x, y, z = index @ header["space directions"] + header["space origin"]  # rows are the steps i, j, k
    return np.array([-x, -y, z])


def world_by_slicerio(path: Path) -> np.ndarray:
    segmentation = slicerio.read_segmentation(str(path))
    (index,) = np.argwhere(segmentation["voxels"] == 1)
    x, y, z, _ = segmentation["ijkToLPS"] @ [*index, 1]
    return np.array([-x, -y, z])


def world_by_itk(path: Path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    (index,) = np.argwhere(sitk.GetArrayFromImage(image).transpose() == 1)
    x, y, z = image.TransformIndexToPhysicalPoint(index.tolist())
    return np.array([-x, -y, z])


READERS = (world_by_pynrrd, world_by_slicerio, world_by_itk)


@pytest.mark.parametrize("name", AFFINES)
def test_a_marked_voxel_keeps_its_place_from_scan_to_slicer(tmp_path: Path, name: str) -> None:
    scan = nib.Nifti1Image(np.zeros((6, 7, 8), np.int16), AFFINES[name])
    scan.to_filename(tmp_path / "scan.nii.gz")
    truth = (nib.load(tmp_path / "scan.nii.gz").affine @ [1, 4, 6, 1])[:3]
    write_label(tmp_path / "mask.nii.gz", marked(), read_grid(tmp_path / "scan.nii.gz"))
    mask = read_volume(tmp_path / "mask.nii.gz", "label")
    write_seg_nrrd(tmp_path / "mask.seg.nrrd", mask.array, mask.grid, TABLE)
    for world in READERS:
        np.testing.assert_allclose(world(tmp_path / "mask.seg.nrrd"), truth, rtol=0, atol=1e-3)
    again = read_volume(tmp_path / "mask.seg.nrrd", "label")
    np.testing.assert_array_equal(again.array, marked())
    assert again.grid.same_as(mask.grid, 1e-3)


def test_random_affines_keep_the_place(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    for trial in range(30):
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0] * random.uniform(0.2, 6, size=3)
        affine[:3, 3] = random.uniform(-500, 500, size=3)
        shape = tuple(int(side) for side in random.integers(2, 9, size=3))
        voxel = tuple(int(random.integers(side)) for side in shape)
        path = tmp_path / f"{trial}.seg.nrrd"
        write_seg_nrrd(path, marked(shape, voxel), Grid(shape, affine), TABLE)
        for world in READERS:
            np.testing.assert_allclose(world(path), (affine @ [*voxel, 1])[:3], rtol=0, atol=1e-6)


def test_one_slice_keeps_three_axes(tmp_path: Path) -> None:
    write_seg_nrrd(tmp_path / "m.seg.nrrd", marked((6, 7, 1), (2, 5, 0)), Grid((6, 7, 1), AFFINES["oblique"]), TABLE)
    assert nrrd.read_header(str(tmp_path / "m.seg.nrrd"))["dimension"] == 3
    for world in READERS:
        expected = (AFFINES["oblique"] @ [2, 5, 0, 1])[:3]
        np.testing.assert_allclose(world(tmp_path / "m.seg.nrrd"), expected, rtol=0, atol=1e-6)


def test_the_whole_header(tmp_path: Path) -> None:
    array = marked()
    array[2:5, 0, 1:8] = 7
    write_seg_nrrd(tmp_path / "mask.seg.nrrd", array, Grid(array.shape, AFFINES["axes swapped"]), TABLE)
    header = (tmp_path / "mask.seg.nrrd").read_bytes().split(b"\n\n")[0].decode()
    structure = "SCT^123037004^Anatomical Structure"
    rest = "~Anatomic codes - DICOM master list~^^~^^|"
    general = "Segmentation category and type - 3D Slicer General Anatomy list"
    assert header.splitlines() == [
        "NRRD0004",
        "type: uint8",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: 6 7 8",
        "space directions: (0.0,1.0,0.0) (0.0,0.0,2.0) (-3.0,0.0,0.0)",
        "kinds: domain domain domain",
        "encoding: gzip",
        "space origin: (-5.0,-6.0,7.0)",
        "Segment0_ID:=Segment_1",
        "Segment0_Name:=left atrium",
        "Segment0_NameAutoGenerated:=0",
        "Segment0_Color:=0.796078431372549 0.4235294117647059 0.3176470588235294",
        "Segment0_ColorAutoGenerated:=0",
        "Segment0_LabelValue:=1",
        "Segment0_Layer:=0",
        "Segment0_Extent:=1 1 4 4 6 6",
        "Segment0_Tags:=TerminologyEntry:Segmentation category and type - DICOM master list"
        f"~{structure}~SCT^82471001^Left atrium~^^{rest}",
        "Segment1_ID:=Segment_3",
        "Segment1_Name:=never seen: empty",
        "Segment1_NameAutoGenerated:=0",
        "Segment1_Color:=0.33725490196078434 0.7058823529411765 0.9137254901960784",
        "Segment1_ColorAutoGenerated:=0",
        "Segment1_LabelValue:=3",
        "Segment1_Layer:=0",
        "Segment1_Extent:=0 -1 0 -1 0 -1",
        f"Segment1_Tags:=TerminologyEntry:{general}~SCT^85756007^Tissue~SCT^85756007^Tissue~^^{rest}",
        "Segment2_ID:=Segment_7",
        "Segment2_Name:=hippocampus",
        "Segment2_NameAutoGenerated:=0",
        "Segment2_Color:=0.0 1.0 0.2",
        "Segment2_ColorAutoGenerated:=0",
        "Segment2_LabelValue:=7",
        "Segment2_Layer:=0",
        "Segment2_Extent:=2 4 0 0 1 7",
        f"Segment2_Tags:=TerminologyEntry:{general}~{structure}~SCT^5366008^Hippocampus~SCT^255549009^Anterior{rest}",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]


def test_slicerio_reads_names_colours_and_codes(tmp_path: Path) -> None:
    write_seg_nrrd(tmp_path / "mask.seg.nrrd", marked(), Grid((6, 7, 8), np.eye(4)), TABLE)
    segmentation = slicerio.read_segmentation(str(tmp_path / "mask.seg.nrrd"))
    assert segmentation["containedRepresentationNames"] == ["Binary labelmap"]
    assert [segment["name"] for segment in segmentation["segments"]] == [
        "left atrium",
        "never seen: empty",
        "hippocampus",
    ]
    assert [segment["labelValue"] for segment in segmentation["segments"]] == [1, 3, 7]
    assert [segment["layer"] for segment in segmentation["segments"]] == [0, 0, 0]
    assert len({segment["id"] for segment in segmentation["segments"]}) == 3
    last = segmentation["segments"][2]
    assert last["color"] == [0.0, 1.0, 0.2]
    assert last["terminology"]["type"] == ["SCT", "5366008", "Hippocampus"]
    assert last["terminology"]["typeModifier"] == ["SCT", "255549009", "Anterior"]


def test_names_with_umlauts_and_backslashes(tmp_path: Path) -> None:
    table = LabelTable.from_json({"labels": {"0": "background", "1": r"linker Vorhöf \n:=x"}})
    write_seg_nrrd(tmp_path / "mask.seg.nrrd", marked(), Grid((6, 7, 8), np.eye(4)), table)
    image = sitk.ReadImage(str(tmp_path / "mask.seg.nrrd"))
    assert image.GetMetaData("Segment0_Name") == r"linker Vorhöf \n:=x"


def test_extents_hold_every_voxel() -> None:
    random = np.random.default_rng(5)
    for _ in range(20):
        array = random.choice([0, 1, 2, 5], p=[0.94, 0.03, 0.02, 0.01], size=(7, 8, 9))
        for value, extent in segment_extents(array, (1, 2, 5, 9)).items():
            where = np.argwhere(array == value)
            box = (
                [0, -1] * 3 if not len(where) else [v for k in range(3) for v in (where[:, k].min(), where[:, k].max())]
            )
            assert extent == " ".join(map(str, box))


def test_terminology_lists() -> None:
    assert terminology_entry(TABLE.labels[0]).startswith(DICOM_MASTER + "~")
    assert terminology_entry(TABLE.labels[2]).startswith(GENERAL_ANATOMY + "~")
    assert all(terminology_entry(label).count("~") == 6 for label in TABLE.labels)


@pytest.mark.parametrize(("highest", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_the_type_also_holds_empty_segments(tmp_path: Path, highest: int, dtype: type) -> None:
    table = LabelTable.from_json({"labels": {"0": "background", "1": "one", str(highest): "highest"}})
    write_seg_nrrd(tmp_path / "mask.seg.nrrd", marked(), Grid((6, 7, 8), np.eye(4)), table)
    array, _ = nrrd.read(str(tmp_path / "mask.seg.nrrd"))
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, marked())


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid((6, 7, 8), AFFINES["oblique"])
    write_seg_nrrd(tmp_path / "a.seg.nrrd", marked(), grid, TABLE)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_seg_nrrd(tmp_path / "b.seg.nrrd", np.asfortranarray(marked().astype(np.uint8)), grid, TABLE)
    content = (tmp_path / "a.seg.nrrd").read_bytes()
    assert content == (tmp_path / "b.seg.nrrd").read_bytes()
    assert gzip.decompress(content.split(b"\n\n", 1)[1]) == marked().astype(np.uint8).tobytes(order="F")


def test_faults(tmp_path: Path) -> None:
    path, grid = tmp_path / "mask.seg.nrrd", Grid((6, 7, 8), np.eye(4))
    for stranger in (2, -1):
        with pytest.raises(
            VolumeError, match=rf"holds the value {stranger}, but the label table knows 0, 1, 3, 7 only"
        ):
            write_seg_nrrd(path, marked() * stranger, grid, TABLE)
    with pytest.raises(VolumeError, match=r"a mask of a single voxel means 'no image' to 3D Slicer"):
        write_seg_nrrd(path, np.ones((1, 1, 1), np.uint8), Grid((1, 1, 1), np.eye(4)), TABLE)
    with pytest.raises(ValueError, match=r"expected whole numbers of shape \(6, 7, 8\), but got int32 of \(8, 7, 6\)"):
        write_seg_nrrd(path, marked().T, grid, TABLE)
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"mask\.seg\.nrrd: exists already; add --overwrite"):
        write_seg_nrrd(path, marked(), grid, TABLE)
    write_seg_nrrd(path, marked(), grid, TABLE, overwrite=True)
    assert path.read_bytes().startswith(b"NRRD0004\n")


def test_real_masks_keep_place_and_voxels(tmp_path: Path) -> None:
    if "MEDCONTRAST_DATA" not in os.environ:
        pytest.skip("MEDCONTRAST_DATA is not set")
    root = Path(os.environ["MEDCONTRAST_DATA"])
    table = LabelTable.from_json({"labels": {"0": "background", "1": "one", "2": "two"}})
    for pattern in ("hippocampus/labelsTr/*.nii.gz", "la2018/train/*/label.nii.gz"):
        label = read_volume(sorted(root.glob(pattern))[0], "label")
        path = tmp_path / f"{pattern.split('/')[0]}.seg.nrrd"
        write_seg_nrrd(path, label.array, label.grid, table)
        segmentation = slicerio.read_segmentation(str(path))
        np.testing.assert_array_equal(segmentation["voxels"], label.array)
        lps = np.diag([-1, -1, 1, 1]) @ label.grid.affine
        np.testing.assert_allclose(segmentation["ijkToLPS"], lps, rtol=0, atol=1e-9)
        for segment in segmentation["segments"]:
            where = np.argwhere(label.array == segment["labelValue"])
            box = np.stack([where.min(0), where.max(0)], axis=1).ravel().tolist() if len(where) else [0, -1] * 3
            assert segment["extent"] == box
