"""Tests of `medcontrast data split`: whole, by exact sentence and exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medcontrast.data.manifest import load_manifest

pytestmark = pytest.mark.usefixtures("no_shared_data")
Cli = Callable[..., SimpleNamespace]


def names(path: Path, split: str) -> list[str]:
    return [case.name for case in getattr(load_manifest(path), split)]


def touch(*paths: Path) -> None:
    """`split` opens no volume, so empty files do."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    """Ten labeled cases and two without labels, as the Decathlon lays them out."""
    folder = tmp_path / "task"
    training = [{part: f"./{part}sTr/c{number}.nii.gz" for part in ("image", "label")} for number in range(10)]
    touch(*(folder / file for entry in training for file in entry.values()))
    touch(folder / "imagesTs/t0.nii.gz", folder / "imagesTs/t1.nii.gz")
    tree = {
        "name": "Task",
        "licence": "CC-BY-SA 4.0",
        "reference": "somewhere",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "liver"},
        "training": training,
        "test": ["./imagesTs/t0.nii.gz", "./imagesTs/t1.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(tree))
    return folder


def test_a_decathlon_data_set(decathlon: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "made" / "m.json"
    words = ("data", "split", decathlon / "dataset.json", "-o", out, "--labeled", 2, "--validation", 3, "--test", 1)
    answer = cli(*words, "--seed", 4)
    assert (answer.code, answer.out) == (
        0,
        f'{out}: 2 labeled, 6 unlabeled, 3 validation, 1 test.\n{decathlon}: 2 scan(s) of the list "test" of '
        "dataset.json are taken as unlabeled ones, which training sees; take them away if they are to be scored.\n",
    )
    order = [str(name) for name in np.random.default_rng(4).permutation([f"c{number}" for number in range(10)])]
    assert names(out, "test") == order[:1]
    assert names(out, "validation") == order[1:4]
    assert names(out, "labeled") == order[4:6]
    assert names(out, "unlabeled") == [*order[6:], "t0", "t1"]
    manifest = load_manifest(out)
    assert all(path.exists() for _, cases in manifest.splits() for case in cases for path in case.images)
    assert (manifest.raw["root"], manifest.licence, manifest.source) == ("../task", "CC-BY-SA 4.0", "somewhere")
    assert manifest.labels.labels[0].name == "liver" and manifest.channels == ("MRI",)
    again = cli(*words)
    assert (again.code, again.err) == (2, f"{out}: exists already; add --overwrite, or name another output.\n")
    assert names(out, "test") == order[:1]


def test_scans_that_a_dataset_json_does_not_list_are_named(decathlon: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    touch(
        *(decathlon / f"imagesTr/{name}.nii.gz" for name in ("u0", "u1", "c0_seg")), decathlon / "imagesTr/c0_seg.json"
    )
    words = ("-o", out, "--labeled", 2)
    answer = cli("data", "split", decathlon / "dataset.json", *words)
    assert answer.code == 0 and "u0" not in names(out, "unlabeled")
    assert answer.out.splitlines()[1] == (
        f"{decathlon}: 2 scan(s) of imagesTr/ are not in the lists of dataset.json and not taken: imagesTr/u0.nii.gz, "
        "imagesTr/u1.nii.gz; give the folder in place of the JSON to take them too, as unlabeled where they have no "
        f"label: medcontrast data split {decathlon}."
    )
    assert cli("data", "split", decathlon, *words, "--overwrite").code == 0
    assert {"u0", "u1"} < set(names(out, "unlabeled"))


def test_paths_start_from_the_shared_folder_where_the_data_lie_in_it(
    decathlon: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDCONTRAST_DATA", str(tmp_path))
    out = tmp_path / "elsewhere" / "m.json"
    assert cli("data", "split", decathlon, "-o", out, "--labeled", 2).code == 0
    raw = json.loads(out.read_text())
    assert "root" not in raw and raw["labeled"][0]["image"].startswith("task/imagesTr/")
    answer = cli("data", "split", decathlon, "-o", tmp_path / "r.json", "--labeled", 2, "--root", decathlon)
    assert answer.code == 0
    assert json.loads((tmp_path / "r.json").read_text())["labeled"][0]["image"].startswith("imagesTr/")
    answer = cli("data", "split", decathlon, "-o", tmp_path / "s.json", "--labeled", 2, "--root", decathlon / "x")
    assert answer.code == 2 and "lies outside the root" in answer.err


@pytest.mark.parametrize("layout", ["Tr", "plain", "cases", "nnunet"])
def test_folders(layout: str, tmp_path: Path, cli: Cli) -> None:
    folder, out = tmp_path / "d", tmp_path / "m.json"
    for number in range(4):
        image, label = {
            "Tr": (f"imagesTr/c{number}.nii.gz", f"labelsTr/c{number}.nii.gz"),
            "plain": (f"images/c{number}.nrrd", f"labels/c{number}.seg.nrrd"),
            "cases": (f"c{number}/image.nii", f"c{number}/label.nii"),
            "nnunet": (f"imagesTr/c{number}_0000.nii.gz", f"labelsTr/c{number}.nii.gz"),
        }[layout]
        touch(folder / image)
        if number != 3:
            touch(folder / label)
    words = ["--label", "1=left atrium", "--label", "2=wall"]
    if layout == "Tr":
        touch(folder / "imagesTs/u0.nii.gz", folder / "imagesTr/.hidden.nii.gz")
    if layout == "nnunet":
        for number in range(4):
            touch(folder / f"imagesTr/c{number}_0001.nii.gz")
        described = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "wall": 1}}
        (folder / "dataset.json").write_text(json.dumps(described))
        words = []
    answer = cli("data", "split", folder, "-o", out, "--labeled", 1, "--validation", 1, *words)
    assert answer.code == 0, answer.err
    manifest = load_manifest(out)
    everyone = {case.name: case for _, cases in manifest.splits() for case in cases}
    assert set(everyone) == {"c0", "c1", "c2", "c3", *(["u0"] if layout == "Tr" else [])}
    assert everyone["c3"].label is None and "c3" in names(out, "unlabeled")
    assert all(path.exists() for case in everyone.values() for path in case.images)
    assert all(case.label is not None and case.label.exists() for name, case in everyone.items() if name < "c3")
    assert len(everyone["c0"].images) == (2 if layout == "nnunet" else 1)
    if layout == "nnunet":
        assert manifest.channels == ("T1", "T2") and manifest.labels.labels[0].name == "wall"
    else:
        assert [label.name for label in manifest.labels.labels] == ["left atrium", "wall"]


def test_what_is_called_ignore_is_no_structure(decathlon: Path, cli: Cli, tmp_path: Path) -> None:
    words = ("--labeled", 2, "--label", "1=a", "--label", "255=ignore")
    answer = cli("data", "split", decathlon, "-o", tmp_path / "m.json", *words)
    assert answer.code == 0, answer.err
    labels = load_manifest(tmp_path / "m.json").labels
    assert (labels.values, labels.ignore_value) == ((0, 1), 255)


def test_folds(decathlon: Path, cli: Cli, tmp_path: Path) -> None:
    words = ("data", "split", decathlon, "-o", tmp_path / "m.json", "--labeled", 2, "--folds", 3, "--test", 1)
    answer = cli(*words)
    paths = [tmp_path / f"m_fold{fold}.json" for fold in range(3)]
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[:3] == [f"{path}: 2 labeled, 6 unlabeled, 3 validation, 1 test." for path in paths]
    assert lines[3].startswith("One recipe serves all folds,") and f"--manifest {paths[0]} -o" in lines[3]
    assert lines[3].endswith(
        "`medcontrast evaluate --pool RUN --pool RUN ...` joins the scores of evaluated folds into one over all cases."
    )
    assert len(lines) == 5
    held = [name for path in paths for name in names(path, "validation")]
    assert sorted([*held, *names(paths[0], "test")]) == [f"c{number}" for number in range(10)]
    paths[0].unlink()
    again = cli(*words)
    assert (again.code, again.err) == (
        2,
        f"{paths[1]}: exists already (and 1 more); add --overwrite, or name another output.\n",
    )
    assert not paths[0].exists()


def test_patients(decathlon: Path, cli: Cli, tmp_path: Path) -> None:
    """c0 to c9 and t0, t1: the patient is the digit, so t0 belongs to c0, and so on."""
    out = tmp_path / "m.json"
    words = ("data", "split", decathlon, "-o", out, "--labeled", 2, "--validation", 8, "--patient-pattern", r"\d")
    answer = cli(*words)
    assert answer.code == 0
    held = set(names(out, "validation"))
    lost = [name for name in ("t0", "t1") if name.replace("t", "c") in held]
    assert lost
    assert answer.out.splitlines()[1] == f"{decathlon}: 12 cases of 10 patients."
    assert answer.out.splitlines()[3] == (
        f"{out}: {len(lost)} scan(s) without labels left out, whose patients are in validation or test."
    )
    assert {case.patient for case in load_manifest(out).validation} == {name[1:] for name in held}
    table = tmp_path / "p.csv"
    lines = ["Case;scan_date;Patient", *(f"c{day};2024-01-0{day};{day // 5}" for day in range(10)), "t0;;p", "t1;;p"]
    table.write_text("\n".join(lines))
    answer = cli(*words[:-4], "--validation", 1, "--patients", table, "--overwrite")
    assert (answer.code, answer.out.splitlines()[1]) == (0, f"{decathlon}: 12 cases of 3 patients."), answer.err
    assert len({case.patient for case in load_manifest(out).validation}) == 1 and len(names(out, "validation")) == 5
    table.write_text("c0,a\n")
    answer = cli(*words[:-2], "--patients", table, "--overwrite")
    assert (answer.code, answer.err) == (2, f"{table}: no patient for 11 case(s), the first is c1.\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--labeled", "9", "--test", "2"),
            "{task}: wanted 2 test + 9 labeled, but there are only 10 labeled cases to take them from; ask for fewer; "
            "2 scan(s) have no label.",
        ),
        (
            ("--labeled", "8", "--validation", "3"),
            "{task}: wanted 3 validation + 8 labeled, but there are only 10 labeled cases to take them from; ask for "
            "fewer, or with few labels take --folds 5 or --validation 0; 2 scan(s) have no label.",
        ),
        (
            ("--labeled", "1", "--label", "1=a", "--label", "01=b"),
            "--label 01=b: value 1 is called a already; name each value once.",
        ),
        (
            ("--labeled", "1", "--label", "1=a", "--label", "2=a"),
            "--label: label names must differ, but got ['a', 'a'].",
        ),
        (
            ("--labeled", "1", "--label", "1=a", "--label", "7=ignore", "--label", "8=ignore"),
            "--label: values 7 and 8 are called ignore; one value can be.",
        ),
        (
            ("--labeled", "1", "--label", "liver"),
            "--label liver: expected VALUE=NAME, for example --label '1=left atrium'.",
        ),
        (
            ("--labeled", "1", "--label", "1=x", "--labels-from", "y"),
            "--label and --labels-from say the same thing; give one of them.",
        ),
        (
            ("--labeled", "1", "--patients", "x", "--patient-pattern", "y"),
            "--patients and --patient-pattern say the same thing; give one of them.",
        ),
        (
            ("--labeled", "1", "--folds", "2", "--validation", "1"),
            "--folds makes every block the validation of one fold; leave --validation out.",
        ),
    ],
)
def test_what_cannot_be_split(words: tuple[str, ...], sentence: str, decathlon: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    answer = cli("data", "split", decathlon, "-o", out, *words)
    assert (answer.code, answer.out, answer.err) == (2, "", f"{sentence.format(task=decathlon)}\n")
    assert not out.exists()


def test_sources_that_do_not_hold_together(decathlon: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "m.json"

    def fails(source: Path, *words: Any) -> str:
        answer = cli("data", "split", source, "-o", out, "--labeled", 1, *words)
        assert answer.code == 2 and not out.exists()
        return str(answer.err)

    described = decathlon / "dataset.json"
    tree = json.loads(described.read_text())
    described.write_text(json.dumps({**tree, "modality": {"0": "T1", "1": "T2"}}))
    assert "2 channels are named, but each case has one file; a manifest lists one file a channel" in fails(described)
    described.write_text(json.dumps({**tree, "test": ["imagesTr/c1.nii.gz"]}))
    assert "two scans are called c1" in fails(described)
    described.write_text(json.dumps({**tree, "training": [{"image": "imagesTr/c1.nii.gz", "label": 5}]}))
    assert """or a path, but got {'image': 'imagesTr/c1.nii.gz', 'label': 5}.""" in fails(described)
    described.write_text(json.dumps({**tree, "labels": {}}))
    assert "nothing says what the label values mean. Give --label 1=NAME" in fails(described)
    described.write_text(json.dumps({**tree, "training": None}))
    assert 'a Decathlon dataset.json has a list "training"' in fails(described)
    assert f"of an nnU-Net data set give the folder: medcontrast data split {decathlon}." in fails(described)
    described.write_text("{")
    assert "not valid JSON" in fails(described)
    (tmp_path / "empty").mkdir()
    assert fails(tmp_path / "empty").startswith(f"{tmp_path}/empty: no scans found; expected imagesTr/ and labelsTr/")


def test_what_is_not_taken_is_said(tmp_path: Path, cli: Cli) -> None:
    folder, out = tmp_path / "own", tmp_path / "m.json"
    touch(*(folder / part / f"c{number}.nii.gz" for part in ("images", "labels") for number in range(3)))
    touch(folder / "images/c3.nii.gz", folder / "images/c0.png", folder / "images/series/notes.txt")
    words = ("data", "split", folder, "-o", out, "--labeled", 2, "--label", "1=a")
    answer = cli(*words)
    assert (answer.code, answer.out.splitlines()) == (
        0,
        [f"{out}: 2 labeled, 2 unlabeled.", f"{folder}: not taken: images/series/."],
    )
    (folder / "labels/c2.nii.gz").rename(folder / "labels/cc2.nii.gz")
    answer = cli(*words, "--overwrite")
    assert (answer.code, answer.out, answer.err) == (
        2,
        "",
        f"{folder}: 1 label file matches no scan: labels/cc2.nii.gz; scans without a label: images/c2.nii.gz, "
        "images/c3.nii.gz; not taken: images/series/; a label is called what its scan is called, without the channel's "
        "_0000: rename, or take the label away.\n",
    )
    (folder / "labels").rename(folder / "masks")
    answer = cli(*words, "--overwrite")
    assert (answer.code, answer.err) == (
        2,
        f"{folder}: none of its 4 scan(s) has a label; not taken: images/series/, masks/; labels belong into labels/ "
        "or labelsTr/ or, called label, beside each image.\n",
    )


def test_a_label_table_of_nnunet(tmp_path: Path, cli: Cli) -> None:
    """It writes name: value, and its ignored value under a name of its own."""
    folder, table, out = tmp_path / "own", tmp_path / "nnunet.json", tmp_path / "m.json"
    touch(*(folder / part / f"c{number}.nii.gz" for part in ("images", "labels") for number in range(2)))
    labels = {"background": 0, "wall": 1, "blood": 3, "ignore": 4}
    table.write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels, "license": "CC0", "numTraining": 2}))
    words = ("data", "split", folder, "-o", out, "--labeled", 1, "--labels-from", table)
    assert cli(*words).code == 0
    manifest = load_manifest(out)
    assert [(label.value, label.name) for label in manifest.labels.labels] == [(1, "wall"), (3, "blood")]
    assert (manifest.labels.ignore_value, manifest.channels, manifest.licence) == (4, ("CT",), "CC0")
    # what is wrong with a table is said of the file it stands in
    for faulty, sentence in (
        ({"a": 1, "b": 1}, "label value 1 has several names: a, b; keep one."),
        ({"1": "a", "x": "b"}, "label values are whole numbers, but got 'x'."),
    ):
        table.write_text(json.dumps({"labels": faulty}))
        answer = cli(*words, "--overwrite")
        assert (answer.code, answer.err) == (2, f"{table}: {sentence}\n")


def test_channels_are_faulted_once(tmp_path: Path, cli: Cli) -> None:
    folder, out = tmp_path / "two", tmp_path / "m.json"
    for case in ("a", "b", "c"):
        touch(*(folder / f"images/{case}_000{channel}.nrrd" for channel in (0, 1)), folder / f"labels/{case}.nrrd")
    words = ("data", "split", folder, "-o", out, "--labeled", 2, "--label", "1=x")
    answer = cli(*words)
    assert (answer.code, answer.err) == (
        2,
        f"{folder}: each case has 2 image files (images/a_0000.nrrd, images/a_0001.nrrd), but nothing names these "
        f'channels; write "channel_names": {{"0": "NAME", "1": "NAME"}} into {folder}/dataset.json or the file of '
        "--labels-from.\n",
    )
    (folder / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "T2"}}')
    assert cli(*words).code == 0
    assert load_manifest(out).channels == ("T1", "T2")
    (folder / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "T2", "2": "CT"}}')
    answer = cli(*words, "--overwrite")
    assert answer.code == 2 and "), but 3 channel(s) are named; write " in answer.err
    (folder / "images/b_0001.nrrd").unlink()
    answer = cli(*words, "--overwrite")
    assert (answer.code, answer.err) == (
        2,
        f"{folder}: 1 of 3 cases have not 2 image file(s), one a channel, as the others have: images/b_0000.nrrd; add "
        "what is missing, or take them away.\n",
    )


def test_inside(decathlon: Path, cli: Cli, tmp_path: Path) -> None:
    outer, inner = tmp_path / "o.json", tmp_path / "deep" / "i.json"
    assert cli("data", "split", decathlon, "-o", outer, "--labeled", 4, "--test", 2).code == 0
    words = ("data", "split", "--inside", outer, "-o", inner, "--labeled", 3)
    answer = cli(*words, "--validation", 1)
    assert answer.code == 0, answer.err
    training = [name for name in (*names(outer, "labeled"), *names(outer, "unlabeled")) if name[0] == "c"]
    assert names(inner, "validation") == training[-1:]
    assert names(inner, "unlabeled") == [*training[3:-1], "t0", "t1"]  # these have no label file
    inner.unlink()
    tree = json.loads(outer.read_text())
    tree["unlabeled"] = [entry for entry in tree["unlabeled"] if entry.get("label")]
    outer.write_text(json.dumps(tree))
    answer = cli(*words, "--validation", 2)
    assert (answer.code, answer.out) == (0, f"{inner}: 3 labeled, 3 unlabeled, 2 validation.\n")
    training = names(outer, "labeled") + names(outer, "unlabeled")
    assert names(inner, "labeled") + names(inner, "unlabeled") + names(inner, "validation") == training
    assert load_manifest(inner).raw["root"] == "../task"
    assert load_manifest(inner).labeled[0].images[0].exists()
    answer = cli(*words, "--seed", 3, "--test", 1)
    sentence = "--inside keeps the order, files and labels of its manifest; leave --test, --seed out.\n"
    assert (answer.code, answer.err) == (2, sentence)
