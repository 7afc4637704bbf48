"""By hand: what files made from a scan are named after."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcontrast.volume import output_stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("scan.nii.gz", "scan"),
        ("scan.nii", "scan"),
        ("a.b.nii.gz", "a.b"),
        ("SCAN.NII.GZ", "SCAN"),
        ("scan.nrrd", "scan"),
        ("scan.seg.nrrd", "scan"),
        ("scan.seg.nii", "scan.seg"),
        ("scan.mha", "scan"),
        ("notes.txt", "notes.txt"),
    ],
)
def test_stem_of_a_file(name: str, stem: str) -> None:
    assert output_stem(Path("folder") / name) == stem


def test_stem_of_a_dicom_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "series.2.nii"
    folder.mkdir()
    assert output_stem(folder) == "series.2.nii"
    monkeypatch.chdir(folder)
    assert output_stem(Path()) == "series.2.nii"
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert output_stem(Path("..")) == "series.2.nii"
