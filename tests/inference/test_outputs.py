"""Kinds: by hand. Outputs are checked before any work, and nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from medcontrast.errors import OutputError
from medcontrast.export import export_mask
from medcontrast.inference.inputs import Scan
from medcontrast.inference.outputs import plan_outputs, require_outputs, write_prediction
from medcontrast.inference.predict import Prediction
from medcontrast.volume import Grid, read_volume


def scan(path: Path, name: str = "a") -> Scan:
    return Scan(name, (path,), (str(path),))


def test_names_of_every_output(tmp_path: Path) -> None:
    planned = plan_outputs(
        [scan(Path("a.nii"))], tmp_path, probabilities=True, entropy=True, export_endings=["seg.nrrd"]
    )
    assert [path.name for path in planned[0].files()] == [
        "a_seg.nii.gz",
        "a_prob.nii.gz",
        "a_entropy.nii.gz",
        "a_seg.seg.nrrd",
        "a_seg.json",
    ]
    assert [path.name for path in plan_outputs([scan(Path("a.nii"))], tmp_path)[0].files()] == [
        "a_seg.nii.gz",
        "a_seg.json",
    ]


def test_existing_outputs_stop_everything_unless_overwritten(tmp_path: Path) -> None:
    scans = [scan(Path(f"{name}.nii"), name) for name in "abcdefgh"]
    planned = plan_outputs(scans, tmp_path)
    require_outputs(planned, scans, overwrite=False)
    for one in planned[1:]:
        one.mask.touch()
    with pytest.raises(OutputError, match=r"b_seg\.nii\.gz: exists already \(and 6 more\); add --overwrite, or name"):
        require_outputs(planned, scans, overwrite=False)
    require_outputs(planned, scans, overwrite=True)


def test_an_input_is_never_written_over(tmp_path: Path) -> None:
    scans = [scan(tmp_path / "a.nii.gz"), scan(tmp_path / "x" / ".." / "a_seg.nii.gz", "a_seg")]
    (tmp_path / "x").mkdir()
    with pytest.raises(OutputError, match=r"a_seg\.nii\.gz: is one of the inputs and would be written over"):
        require_outputs(plan_outputs(scans, tmp_path), scans, overwrite=True)
    folder = tmp_path / "x" / ".."
    with pytest.raises(OutputError, match="is one of the inputs"):
        require_outputs(plan_outputs(scans, folder), scans, overwrite=True)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    scans = [scan(Path("a.nii"))]
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "deeper"):
        with pytest.raises(
            OutputError, match=r"a_seg\.nii\.gz: cannot be written \(.*file is no folder\); name another"
        ):
            require_outputs(plan_outputs(scans, folder), scans, overwrite=False)
    require_outputs(plan_outputs(scans, tmp_path / "new"), scans, overwrite=False)
    assert list(tmp_path.iterdir()) == [file]


def prediction(value: int) -> Prediction:
    label_map = np.full((3, 4, 5), value, np.uint16)
    return Prediction(label_map, Grid((3, 4, 5), np.eye(4)), None, None, {"value": value})


def test_an_old_record_never_stands_beside_a_new_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing is cut off, all is left as it was; between mask and record, no record is left."""
    (planned,) = plan_outputs([scan(Path("a.nii"))], tmp_path)
    write_prediction(prediction(1), planned, overwrite=False)
    assert json.loads(planned.record.read_text()) == {"mask": "a_seg.nii.gz", "value": 1}
    with pytest.raises(OutputError, match=r"a_seg\.nii\.gz: exists already"):
        write_prediction(prediction(2), planned, overwrite=False)
    assert json.loads(planned.record.read_text())["value"] == 1

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt, match=r"^$"):
        patched.setattr("medcontrast.inference.outputs.write_record", cut_off)
        write_prediction(prediction(2), planned, overwrite=True)
    assert json.loads(planned.record.read_text())["value"] == 1
    assert read_volume(planned.mask, "label").array.max() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_seg.json", "a_seg.nii.gz"]

    def move(self: Path, target: Path, really: Any = Path.replace) -> None:
        if target == planned.record:
            raise KeyboardInterrupt
        really(self, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt, match=r"^$"):
        patched.setattr(Path, "replace", move)
        write_prediction(prediction(2), planned, overwrite=True)
    assert read_volume(planned.mask, "label").array.max() == 2 and not planned.record.exists()
    write_prediction(prediction(2), planned, overwrite=True)
    assert json.loads(planned.record.read_text())["value"] == 2


def test_what_an_earlier_run_left_and_cannot_be_removed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned,) = plan_outputs([scan(Path("a.nii"))], tmp_path)
    write_prediction(prediction(1), planned, overwrite=False)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    sentence = (
        r"a_seg\.json: is of an earlier run and cannot be removed \(Operation not permitted\); choose another folder"
    )
    with pytest.raises(OutputError, match=sentence):
        write_prediction(prediction(2), planned, overwrite=True)
    assert json.loads(planned.record.read_text())["value"] == 1


TABLE = {"labels": {"0": "background", "1": "left atrium", "2": "wall"}}


def write_everything(folder: Path, name: str) -> None:
    """What a run with every map leaves, and both exports of its mask."""
    maps = np.ones((3, 4, 5, 3), np.float32), np.ones((3, 4, 5), np.float32)
    made = replace(prediction(1), probabilities=maps[0], entropy=maps[1], record={"labels": TABLE})
    (planned,) = plan_outputs([scan(Path(f"{name}.nii"), name)], folder, probabilities=True, entropy=True)
    write_prediction(made, planned, overwrite=False)
    for format in ("seg.nrrd", "nii.gz"):
        export_mask(planned.mask, format=format)


def test_a_full_disk_leaves_what_an_earlier_run_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_everything(tmp_path, "a")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (planned,) = plan_outputs([scan(Path("a.nii"))], tmp_path, export_endings=("seg.nrrd",))

    def full(path: Path, *_: object, **__: object) -> None:
        raise OutputError(f"{path}: cannot be written (No space left on device).")

    monkeypatch.setattr("medcontrast.inference.outputs.write_label", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_prediction(prediction(2), planned, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_maps_and_exports_of_an_old_mask_do_not_outlive_it(tmp_path: Path) -> None:
    write_everything(tmp_path, "a")
    write_everything(tmp_path, "other")
    before = sorted(path.name for path in tmp_path.iterdir())
    (planned,) = plan_outputs([scan(Path("a.nii"))], tmp_path, entropy=True, export_endings=["ctbl"])
    entropy = np.full((3, 4, 5), 0.25, np.float32)
    write_prediction(replace(prediction(2), entropy=entropy), planned, overwrite=True)
    # the colour table is left to the export that follows
    gone = {"a_prob.nii.gz", "a_seg.seg.nrrd", "a_seg.ctbl"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [name for name in before if name not in gone]
    assert "entropy" in json.loads(planned.record.read_text())


def test_what_somebody_else_wrote_stays(tmp_path: Path) -> None:
    """An export that was edited and saved in 3D Slicer, and files that no record names."""
    write_everything(tmp_path, "a")
    record = tmp_path / "a_seg.json"
    facts = json.loads(record.read_text())
    record.write_text(json.dumps({**facts, "probabilities": "b_prob.nii.gz: one map a class", "entropy": None}))
    header = (
        b"NRRD0004\n# Complete NRRD file format specification at:\n# http://teem.sourceforge.net/nrrd/format.html\n"
    )
    (tmp_path / "a_seg.seg.nrrd").write_bytes(header)
    (tmp_path / "a_seg.ctbl").write_text("# mine\n")
    (planned,) = plan_outputs([scan(Path("a.nii"))], tmp_path)
    write_prediction(prediction(2), planned, overwrite=True)
    names = ["a_entropy.nii.gz", "a_prob.nii.gz", "a_seg.ctbl", "a_seg.json", "a_seg.nii.gz", "a_seg.seg.nrrd"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    record.write_text("{")
    write_prediction(prediction(1), planned, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def save_in_slicer(export: Path) -> None:
    """Opened and saved again: the same segments behind another program's first lines."""
    sitk.WriteImage(sitk.ReadImage(str(export)), str(export), True)


@pytest.mark.parametrize("ending", ["seg.nrrd", "ctbl"])
def test_an_export_that_was_edited_is_never_replaced(tmp_path: Path, ending: str) -> None:
    """Neither where it is found before any work, nor where it was edited while the work was done."""
    write_everything(tmp_path, "a")
    scans = [scan(Path("a.nii"))]
    planned = plan_outputs(scans, tmp_path, export_endings=[ending])
    require_outputs(planned, scans, overwrite=True)  # nobody has touched it
    edited = tmp_path / f"a_seg.{ending}"
    if ending == "ctbl":
        edited.write_text("# Color table file C:/Users/me/a_seg.ctbl\n# 3 values\n")
    else:
        save_in_slicer(edited)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    sentence = (
        rf"^{edited}: was saved by 3D Slicer or another program since it was exported, and --overwrite would delete "
        r"the manual edits that it may hold; move it away, or name another output with -o\.$"
    )
    with pytest.raises(OutputError, match=sentence):
        require_outputs(planned, scans, overwrite=True)
    with pytest.raises(OutputError, match=sentence):
        write_prediction(prediction(2), planned[0], overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(OutputError, match="exists already"):
        require_outputs(planned, scans, overwrite=False)


def test_an_input_is_never_removed(tmp_path: Path) -> None:
    write_everything(tmp_path, "a")
    maps = tmp_path / "x" / ".." / "a_entropy.nii.gz"
    (tmp_path / "x").mkdir()
    planned, _ = plan_outputs([scan(Path("a.nii")), scan(maps, "a_entropy")], tmp_path)
    write_prediction(prediction(2), planned, overwrite=True)
    assert maps.exists() and not (tmp_path / "a_prob.nii.gz").exists()


def test_the_record_stays_until_all_that_it_names_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_everything(tmp_path, "a")
    (planned,) = plan_outputs([scan(Path("a.nii"))], tmp_path, export_endings=["seg.nrrd"])
    removed: list[str] = []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        if path.name == "a_seg.seg.nrrd":
            raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(OutputError, match=r"a_seg\.seg\.nrrd: is of an earlier run and cannot be removed"):
        write_prediction(prediction(2), planned, overwrite=True)
    assert "a_seg.json" not in removed
