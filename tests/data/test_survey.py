"""Tests of what is measured of training scans before a recipe is proposed: by hand, property, sentences."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medcontrast.data import survey as survey_room
from medcontrast.data.manifest import load_manifest
from medcontrast.data.survey import survey
from medcontrast.errors import ManifestError, VolumeError
from medcontrast.volume import segments


def test_survey_measures_along_canonical_axes(tmp_path: Path, tiny: SimpleNamespace) -> None:
    """Stored axes run to S, then L, then P: x is the second, y the third, z the first."""
    path = tiny.write_data(tmp_path, labeled=1, unlabeled=0, shape=(20, 18, 22), ignore_label=9)
    affine = np.array([[0, -2.0, 0, 0], [0, 0, -3.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    image, label = np.arange(20 * 18 * 22).reshape(20, 18, 22), np.zeros((20, 18, 22), np.uint8)
    label[2:7, 3:6, 4:15] = 1
    label[0, 0, 0] = 9  # ignored
    tiny.write_nifti(tmp_path / "images/case_00_0.nii", image.astype(np.int16), affine)
    tiny.write_nifti(tmp_path / "labels/case_00.nii", label, affine)
    (found,) = survey(load_manifest(path))
    assert found.shape.tolist() == [18, 22, 20]
    assert found.spacing_mm.tolist() == [2, 3, 1]
    assert found.extent_mm is not None and found.extent_mm.tolist() == [3 * 2, 11 * 3, 5 * 1]
    assert found.mean[0] == pytest.approx(image.mean()) and found.std[0] == pytest.approx(image.std())
    assert (found.low[0], found.high[0], found.whole_numbers) == (0, image.max(), True)
    assert sorted(found.structure[0]) == sorted(image[label == 1])


def test_survey_reads_labeled_first_and_no_label_of_an_unlabeled_case(
    tmp_path: Path, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.write_data(tmp_path, labeled=2, unlabeled=2, validation=1)
    opened: list[str] = []
    read = survey_room.read_volume

    def watch(file: Path, kind: Any) -> Any:
        opened.append(f"{file.parent.name}/{file.name}")
        return read(file, kind)

    monkeypatch.setattr(survey_room, "read_volume", watch)
    monkeypatch.setattr(segments, "read_volume", watch)
    (tmp_path / "labels/case_02.nii").unlink()
    told: list[str] = []
    scans = survey(load_manifest(path), most=3, tell=told.append)
    assert [found.case for found in scans] == told == ["case_00", "case_01", "case_02"]
    assert opened == [
        "images/case_00_0.nii", "labels/case_00.nii", "images/case_01_0.nii", "labels/case_01.nii",
        "images/case_02_0.nii",
    ]  # fmt: skip
    assert scans[2].extent_mm is None and scans[2].structure.shape == (1, 0)


def test_survey_needs_training_scans_that_can_be_used(tmp_path: Path, tiny: SimpleNamespace) -> None:
    path = tiny.write_data(tmp_path, labeled=0, unlabeled=0, test=1)
    with pytest.raises(ManifestError, match=r"there is no labeled or unlabeled case to propose a recipe from"):
        survey(load_manifest(path))
    path = tiny.write_data(tmp_path, labeled=1, unlabeled=0)
    image = np.zeros((20, 18, 22), np.float32)
    image[0, 0, 0] = np.nan
    tiny.write_nifti(tmp_path / "images/case_00_0.nii", image)
    with pytest.raises(ManifestError, match=r"holds NaN or infinite values; `medcontrast data check` lists all"):
        survey(load_manifest(path))


@pytest.mark.parametrize(
    ("side", "value", "words"),
    [(1.5, 1, r"its corners lie up to .*; if it was drawn on this scan"), (1.0, 7, r"label value 7 .* is not in the")],
)
def test_survey_takes_labels_that_training_would_take(
    tmp_path: Path, tiny: SimpleNamespace, side: float, value: int, words: str
) -> None:
    path = tiny.write_data(tmp_path, labeled=1, unlabeled=0)
    label = tiny.make_scan(0, (20, 18, 22), [1, 2])[1]
    label[0, 0, 0] = value
    tiny.write_nifti(tmp_path / "labels/case_00.nii", label, np.diag([1.0, 1.0, side, 1.0]))
    with pytest.raises(VolumeError, match=rf"case_00\.nii: {words}"):
        survey(load_manifest(path))
