"""By hand: files as 3D Slicer saves them, their segments' names held against a label table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from medcontrast.data.check import check_manifest
from medcontrast.data.manifest import load_manifest
from medcontrast.data.prepared import load_case
from medcontrast.errors import VolumeError
from medcontrast.export import export_mask, write_color_table, write_seg_nrrd
from medcontrast.labels import LabelTable
from medcontrast.settings.data import DataSettings
from medcontrast.volume import Grid, read_volume, write_label
from medcontrast.volume.segments import (
    is_own_export,
    named_segments,
    names_of_values,
    read_label_map,
    require_one_layer,
)

TABLE = LabelTable.from_json(
    {"labels": {"1": "hippocampus posterior", "2": "hippocampus anterior"}, "ignore_label": 255}
)
SHAPE = (3, 4, 5)
POSTERIOR, ANTERIOR = {"Name": "hippocampus posterior"}, {"Name": "hippocampus anterior"}


def save(path: Path, values: list[int], segments: list[dict[str, Any]]) -> Path:
    """As 3D Slicer does, through ITK: one plane of every value, and fields of the segments."""
    array = np.zeros(SHAPE[::-1], np.uint8)
    for plane, value in enumerate(values):
        array[plane] = value
    image = sitk.GetImageFromArray(array)
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    for number, fields in enumerate(segments):
        fields = {"ID": f"Segment_{number + 1}", "Layer": 0, **fields}
        for key, value in fields.items():
            image.SetMetaData(f"Segment{number}_{key}", str(value))
    sitk.WriteImage(image, str(path), True)
    return path


def planes(path: Path, labels: LabelTable = TABLE) -> tuple[list[int], list[str]]:
    volume, told = read_label_map(path, labels)
    return volume.array[0, 0].tolist(), told


def test_segments_in_another_order_are_read_by_name(tmp_path: Path) -> None:
    segments = [{**ANTERIOR, "LabelValue": 1}, {**POSTERIOR, "LabelValue": 2}]
    path = save(tmp_path / "a.seg.nrrd", [1, 2, 0, 255], segments)
    found, told = planes(path)
    assert found == [2, 1, 0, 255, 0]
    assert told == [
        f"{path}: its segments have other values than in the label table, and are read by name: "
        "hippocampus anterior 1 as 2, hippocampus posterior 2 as 1."
    ]
    assert read_volume(path, "label").array[0, 0].tolist() == [1, 2, 0, 255, 0]


@pytest.mark.parametrize(
    ("values", "segments", "found"),
    [
        # values beyond the table, and one that stays
        ([1, 7], [{**POSTERIOR, "LabelValue": 1}, {**ANTERIOR, "LabelValue": 7}], [1, 2]),
        # of a single segment 3D Slicer takes a missing value as 1
        ([1], [ANTERIOR], [2]),
        # capitals, and the underscores of a colour table
        ([1], [{"Name": " Hippocampus_Anterior", "LabelValue": 1}], [2]),
        # a helper that is empty, and a second empty segment of one name
        (
            [1],
            [{**ANTERIOR, "LabelValue": 1}, {"Name": "tmp", "LabelValue": 2}, {**ANTERIOR, "LabelValue": 3}],
            [2],
        ),
        # what is ignored may have a name
        ([1, 255], [{**ANTERIOR, "LabelValue": 1}, {"Name": "unclear", "LabelValue": 255}], [2, 255]),
    ],
)
def test_what_can_be_read_by_name(
    tmp_path: Path, values: list[int], segments: list[dict[str, Any]], found: list[int]
) -> None:
    array, told = planes(save(tmp_path / "a.seg.nrrd", values, segments))
    assert array[: len(found)] == found and not any(array[len(found) :])
    assert len(told) == 1


@pytest.mark.parametrize(
    "segments",
    [
        [],
        [{**POSTERIOR, "LabelValue": 1}, {**ANTERIOR, "LabelValue": 2}],
        [{"Name": "Segment_1", "LabelValue": 1}, {"Name": "Segment_2", "LabelValue": 2}],
        [{"Name": "2", "LabelValue": 1}, {"Name": "label 1", "LabelValue": 2}],
        [ANTERIOR, POSTERIOR],  # names without values
    ],
)
def test_values_are_kept_where_names_say_nothing_else(tmp_path: Path, segments: list[dict[str, Any]]) -> None:
    assert planes(save(tmp_path / "a.seg.nrrd", [1, 2, 9], segments)) == ([1, 2, 9, 0, 0], [])


def test_names_that_the_table_does_not_know_are_read_by_value_and_said(tmp_path: Path) -> None:
    segments = [{"Name": "tail", "LabelValue": 1}, {**ANTERIOR, "LabelValue": 2}, {"Name": "tmp", "LabelValue": 9}]
    path = save(tmp_path / "a.seg.nrrd", [1, 2, 9], segments)
    assert planes(path) == (
        [1, 2, 9, 0, 0],  # 9 is left to those who refuse unknown values
        [
            f"{path}: names segments that the label table does not, and they are read by value: tail as hippocampus "
            "posterior."
        ],
    )


@pytest.mark.parametrize(
    ("values", "segments", "reason"),
    [
        ([1, 2], [{**ANTERIOR, "LabelValue": 1}, {"Name": "tmp", "LabelValue": 2}], "the table knows no tmp"),
        ([1, 2], [{**ANTERIOR, "LabelValue": 1}, {**ANTERIOR, "LabelValue": 2}], "hippocampus anterior has several"),
        ([1], [{**ANTERIOR, "LabelValue": 1}, {**POSTERIOR, "LabelValue": 1}], "the value 1 has several names"),
        ([1, 2], [{**ANTERIOR, "LabelValue": 1}], "its value 2 has no name"),
        ([1, 2], [{**ANTERIOR, "LabelValue": 1}, {"Name": "Segment_2", "LabelValue": 2}], "its value 2 has no name"),
    ],
)
def test_names_that_contradict_the_table(
    tmp_path: Path, values: list[int], segments: list[dict[str, Any]], reason: str
) -> None:
    path = save(tmp_path / "a.seg.nrrd", values, segments)
    sentence = (
        rf"^{path}: its segments are 1 hippocampus anterior.*, which contradicts the label table \(1 hippocampus "
        rf"posterior, 2 hippocampus anterior\) and cannot be read by name, as {reason}.*; in 3D Slicer, give every "
        r"segment its name of the table, and take away what the table does not name\.$"
    )
    with pytest.raises(VolumeError, match=sentence):
        read_label_map(path, TABLE)


def test_labels_that_differ_in_capitals_alone(tmp_path: Path) -> None:
    table = LabelTable.from_json({"labels": {"1": "a", "2": "A"}})
    path = save(tmp_path / "a.seg.nrrd", [1, 2], [{"Name": "A", "LabelValue": 1}, {"Name": "a", "LabelValue": 2}])
    assert planes(path, table)[0][:2] == [2, 1]


def test_a_name_of_the_table_is_not_made_up(tmp_path: Path) -> None:
    """Couinaud's segments, of which a person drew two."""
    liver = LabelTable.from_json({"labels": {str(number): f"Segment {number}" for number in range(1, 9)}})
    drawn = [{"Name": "Segment_2", "LabelValue": 1}, {"Name": "segment 3", "LabelValue": 2}]
    path = save(tmp_path / "a.seg.nrrd", [1, 2], drawn)
    assert planes(path, liver)[0][:2] == [2, 3]
    # a table that was made of the values of files knows no names
    values = LabelTable.from_json({"labels": {"1": "label 1", "2": "label 2"}})
    path = save(tmp_path / "b.seg.nrrd", [1, 2], [{"Name": "Label 2", "LabelValue": 1}])
    assert planes(path, values) == ([1, 2, 0, 0, 0], [])


def test_the_record_beside_a_mask_names_its_values(tmp_path: Path) -> None:
    path = tmp_path / "a_seg.nii.gz"
    array = np.zeros(SHAPE, np.uint8)
    array[:, :, 0], array[:, :, 1] = 1, 2
    write_label(path, array, Grid(SHAPE, np.eye(4)))
    names = {"1": "hippocampus anterior", "2": "hippocampus posterior"}
    record = {"mask": path.name, "labels": {"labels": names}}
    for content, read in (
        (record, [2, 1]),
        ({**record, "mask": "b_seg.nii.gz"}, [1, 2]),  # another mask's
        ({"labels": {"labels": names}}, [1, 2]),
        ({**record, "labels": {"labels": {"1": 5}}}, [1, 2]),
        ([], [1, 2]),
    ):
        path.with_name("a_seg.json").write_text(json.dumps(content))
        found, told = planes(path)
        assert found[:2] == read and bool(told) is (read == [2, 1])
    path.with_name("a_seg.json").write_text("{")
    assert planes(path)[0][:2] == [1, 2]


@pytest.mark.parametrize("name", ["ä \\ b: c", "one | two := three"])
def test_names_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    (segment,) = named_segments(save(tmp_path / "a.seg.nrrd", [3], [{"Name": name, "LabelValue": 3}]))
    assert (segment.name, segment.value) == (name, 3)


def test_an_own_export_says_what_its_table_says(tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[1] = 2
    table = LabelTable.from_json({"labels": {"1": "a \\ b", "2": "ä"}})
    write_seg_nrrd(tmp_path / "a.seg.nrrd", array, Grid(SHAPE, np.eye(4)), table)
    assert [(each.name, each.value) for each in named_segments(tmp_path / "a.seg.nrrd")] == [("a \\ b", 1), ("ä", 2)]
    volume, told = read_label_map(tmp_path / "a.seg.nrrd", table)
    np.testing.assert_array_equal(volume.array, array)
    assert told == []


def test_whose_file_it_is(tmp_path: Path) -> None:
    export = tmp_path / "a.seg.nrrd"
    write_seg_nrrd(export, np.ones(SHAPE, np.uint8), Grid(SHAPE, np.eye(4)), TABLE)
    write_color_table(tmp_path / "a.ctbl", TABLE)
    assert is_own_export(export) and is_own_export(tmp_path / "a.ctbl")
    (tmp_path / "a.nii.gz").write_bytes(export.read_bytes())
    assert not is_own_export(tmp_path / "a.nii.gz") and not is_own_export(tmp_path / "none.seg.nrrd")
    sitk.WriteImage(sitk.ReadImage(str(export)), str(export), True)
    assert not is_own_export(export)


@pytest.mark.parametrize("kind", ["list", "vector"])
def test_several_layers_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.seg.nrrd"
    header = {
        "space": "left-posterior-superior",
        "kinds": [kind, "domain", "domain", "domain"],
        "space directions": np.array([[np.nan] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        "space origin": np.zeros(3),
        "Segment0_ID": "Segment_1",
        "Segment0_Name": "hippocampus anterior",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment1_ID": "Segment_2",
        "Segment1_Name": "hippocampus posterior",
        "Segment1_LabelValue": "1",
        "Segment1_Layer": "1",
    }
    nrrd.write(str(path), np.ones((2, *SHAPE), np.uint8), header)
    sentence = (
        rf"^{path}: holds 2 layers of segments that may overlap, but a mask has one value a voxel; in 3D Slicer, "
        r"collapse them \(Segmentations module, Binary labelmap layers, Force collapse to single layer\) and save it"
    )
    for read in (require_one_layer, export_mask, lambda path: read_label_map(path, TABLE)):
        with pytest.raises(VolumeError, match=sentence):
            read(path)


def test_files_without_a_nrrd_header_have_no_segments(tmp_path: Path) -> None:
    write_label(tmp_path / "a.nii.gz", np.ones(SHAPE, np.uint8), Grid(SHAPE, np.eye(4)))
    assert planes(tmp_path / "a.nii.gz") == ([1] * 5, [])
    for name, content in (("b.nrrd", b"Segment0_Name:=x\n"), ("c.nrrd", b"")):
        (tmp_path / name).write_bytes(content)
        assert named_segments(tmp_path / name) == []
    assert named_segments(tmp_path / "none.nrrd") == []
    with pytest.raises(VolumeError, match=r"none\.nrrd: there is no such file"):
        read_label_map(tmp_path / "none.nrrd", TABLE)


def test_names_of_several_files(tmp_path: Path) -> None:
    one = save(tmp_path / "1.seg.nrrd", [1, 2], [{"Name": "tail", "LabelValue": 1}, {**ANTERIOR, "LabelValue": 2}])
    two = save(tmp_path / "2.seg.nrrd", [1, 3], [{"Name": "Tail", "LabelValue": 1}, {"Name": "x", "LabelValue": 2}])
    assert names_of_values([one, two]) == {1: "tail", 2: "hippocampus anterior"}
    three = save(tmp_path / "3.seg.nrrd", [1], [{**ANTERIOR, "LabelValue": 1}])
    sentence = (
        rf"^{three}: its segment hippocampus anterior has the value 1, but 2 in {one}; say which value is meant by "
        r"naming the labels with --manifest\.$"
    )
    with pytest.raises(VolumeError, match=sentence):
        names_of_values([one, two, three])


def test_training_and_check_read_by_name_too(tmp_path: Path) -> None:
    segments = [{**ANTERIOR, "LabelValue": 1}, {**POSTERIOR, "LabelValue": 2}]
    label = save(tmp_path / "label.seg.nrrd", [1, 2, 0, 255], segments)
    stored = sitk.ReadImage(str(label))
    noise = np.random.default_rng(0).normal(size=SHAPE[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(noise)
    image.CopyInformation(stored)
    sitk.WriteImage(image, str(tmp_path / "image.nrrd"))
    manifest = tmp_path / "m.json"
    case = {"case": "a", "image": "image.nrrd", "label": label.name}
    manifest.write_text(
        json.dumps({**TABLE.to_json(), "channels": {"0": "image"}, "name": "m", "root": ".", "labeled": [case]})
    )
    loaded = load_manifest(manifest)
    prepared = load_case(loaded.labeled[0], DataSettings(manifest=str(manifest), patch=(8, 8, 8)), loaded.labels)
    assert prepared.label is not None
    assert prepared.label[0][0, 0].tolist() == [2, 1, 0, -1, 0]  # as stored: 1, 2, 0, 255, 0
    (finding,) = check_manifest(loaded).warnings
    assert "are read by name: hippocampus anterior 1 as 2, hippocampus posterior 2 as 1." in finding.text


def test_layers_of_a_single_slice_are_layers(tmp_path: Path) -> None:
    header = {"kinds": ["list", "domain", "domain", "domain"], "Segment0_Name": "x", "Segment0_LabelValue": "1"}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), np.ones((2, 3, 1, 5), np.uint8), header)
    with pytest.raises(VolumeError, match=r"a\.seg\.nrrd: holds 2 layers of segments that may overlap"):
        require_one_layer(tmp_path / "a.seg.nrrd")


def test_a_name_that_could_be_either_of_two_labels_is_not_known(tmp_path: Path) -> None:
    table = LabelTable.from_json({"labels": {"1": "left a", "2": "Left a"}})
    path = save(tmp_path / "a.seg.nrrd", [1], [{"Name": "LEFT A", "LabelValue": 1}])
    found, told = planes(path, table)
    assert found[0] == 1
    assert len(told) == 1 and told[0].endswith("they are read by value: LEFT A as left a.")
