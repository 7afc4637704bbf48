"""Kinds: by hand. What a record says of the place and the volumes of a mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcontrast.inference.record import geometry, measured_volumes
from medcontrast.labels import LabelTable
from medcontrast.volume import Grid, read_grid

LABELS = LabelTable.from_json({"labels": {"0": "background", "1": "left atrium"}})


@pytest.mark.parametrize(
    ("sform", "qform", "source"),
    [
        (1, 1, "NIfTI sform, code 1"),
        (4, 0, "NIfTI sform, code 4"),
        (0, 2, "NIfTI qform, code 2"),
        (0, 0, "NIfTI pixdim alone, sform and qform codes 0"),
    ],
)
def test_which_field_places_a_nifti_mask(tmp_path: Path, sform: int, qform: int, source: str) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), None)
    image.set_sform(np.eye(4), sform)
    image.set_qform(np.eye(4), qform)
    image.to_filename(tmp_path / "scan.nii")
    found = geometry(tmp_path / "scan.nii", read_grid(tmp_path / "scan.nii"))
    assert found["source"] == source
    assert len(found["warnings"]) == (sform == qform == 0)


def test_warnings_go_without_the_path() -> None:
    grid = replace(Grid((3, 4, 5), np.eye(4)), warnings=("/home/a/scan.nrrd: is odd.",))
    assert geometry(Path("/home/a/scan.nrrd"), grid)["warnings"] == ["is odd."]


def test_micro_ct_volumes_are_not_rounded_away() -> None:
    grid = Grid((10, 10, 4), np.diag([0.01, 0.01, 0.01, 1.0]))
    found = measured_volumes(np.ones((10, 10, 4), np.uint16), grid, LABELS)
    assert found == {"left atrium": {"voxels": 400, "volume_ml": 4e-7}}
    large = Grid((10, 10, 4), np.diag([1.2345, 1.0, 1.0, 1.0]))
    assert measured_volumes(np.ones((10, 10, 4), np.uint16), large, LABELS)["left atrium"]["volume_ml"] == 0.4938


def test_absent_labels_and_regions_are_counted() -> None:
    table = LabelTable.from_json({"labels": {"1": "a", "2": "b", "7": "c"}, "regions": {"both": [1, 2]}})
    array = np.zeros((10, 10, 10), np.uint16)
    array[0], array[1, :5] = 1, 2
    found = measured_volumes(array, Grid((10, 10, 10), np.eye(4)), table)
    assert {name: entry["voxels"] for name, entry in found.items()} == {"a": 100, "b": 50, "c": 0, "both": 150}


def test_a_leaning_voxel_has_the_volume_of_an_upright_one() -> None:
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[1, 2] = 2 * np.tan(np.deg2rad(30))
    found = measured_volumes(np.ones((10, 20, 10), np.int16), Grid((10, 20, 10), affine), LABELS)
    assert found == {"left atrium": {"voxels": 2000, "volume_ml": 1.0}}
