"""Tests of the manifest: by hand; whole: the shipped manifests equal what the commands make."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medcontrast.data.images.manifest import is_image_manifest
from medcontrast.data.listing import write_manifest
from medcontrast.data.makers.importers import la_tree
from medcontrast.data.manifest import Manifest, load_manifest
from medcontrast.errors import ManifestError, OutputError
from medcontrast.settings.shipped import shipped_folder
from medcontrast.volume_names import output_stem

Cli = Callable[..., SimpleNamespace]
SHIPPED = shipped_folder("data_manifests")
COUNTS = {
    "hippocampus_4of160": (4, 156, 40, 0),
    "hippocampus_8of160": (8, 152, 40, 0),
    "hippocampus_16of160": (16, 144, 40, 0),
    "hippocampus_tune_4of120": (4, 116, 40, 0),
    "hippocampus_tune_8of120": (8, 112, 40, 0),
    "la_4of80": (4, 76, 0, 20),
    "la_8of80": (8, 72, 0, 20),
    "la_16of80": (16, 64, 0, 20),
    "la_8of64_val16": (8, 56, 16, 0),
    "la_tune_8of52": (8, 44, 12, 0),
}
TREE: dict[str, Any] = {
    "labels": {"0": "background", "1": "liver"},
    "labeled": [{"case": "a", "image": "a.nii", "label": "a_seg.nii"}],
    "unlabeled": [{"image": "scans/b.nii.gz"}],
    "test": [{"case": "c", "image": "c.nii", "label": "c_seg.nii", "patient": 7}],
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "m.json"
    path.write_text(json.dumps({**TREE, **changes}), encoding="utf-8")
    return path


def names(manifest: Manifest, split: str) -> list[str]:
    return [case.name for case in getattr(manifest, split)]


# --- the loader


def test_paths_start_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--root before the manifest's own before MEDCONTRAST_DATA before ./data."""
    monkeypatch.delenv("MEDCONTRAST_DATA", raising=False)
    assert load_manifest(write(tmp_path)).labeled[0].images == (Path("data/a.nii"),)
    monkeypatch.setenv("MEDCONTRAST_DATA", "/scans")
    assert load_manifest(write(tmp_path)).labeled[0].images == (Path("/scans/a.nii"),)
    assert load_manifest(write(tmp_path, root="../x")).labeled[0].label == (tmp_path / "../x").resolve() / "a_seg.nii"
    assert load_manifest(write(tmp_path, root="x"), Path("/y")).labeled[0].images == (Path("/y/a.nii"),)


def test_what_is_left_out_gets_a_sensible_value(tmp_path: Path) -> None:
    manifest = load_manifest(write(tmp_path))
    assert (manifest.name, manifest.channels) == ("m", ("image",))
    assert names(manifest, "unlabeled") == ["b"]
    assert manifest.unlabeled[0].label is None
    assert manifest.test[0].patient == "7"
    assert [split for split, _ in manifest.splits()] == ["labeled", "unlabeled", "test"]


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        labeled=[{"image": "a.nii"}, {"case": "x", "image": "x.nii", "label": "l", "lable": 1}, "a.nii"],
        validation=[{"case": "c", "image": "d.nii", "label": "l"}],
        unlabeled=[{"image": ["e.nii", "f.nii"]}, {"case": "z", "image": "c.nii"}],
    )
    root = os.environ.get("MEDCONTRAST_DATA") or "data"
    with pytest.raises(ManifestError, match=r"m.json: 7 fault\(s\):") as caught:
        load_manifest(path)
    assert str(caught.value).splitlines()[1:] == [
        "  - labeled[0] a: the split labeled needs a label file",
        "  - labeled[1]: unknown key 'lable'; known: case, image, label, patient",
        '  - labeled[2]: expected {"case", "image", "label"}, but got \'a.nii\'',
        "  - unlabeled[0] e: 2 image file(s), but the manifest has 1 channel(s)",
        "  - case c stands in validation and in test; splits must not overlap",
        f"  - image file {root}/c.nii stands in unlabeled and in test; splits must not overlap",
        f"  - label file {root}/l stands in labeled and in validation; splits must not overlap",
    ]


@pytest.mark.parametrize("label", [5, 0, ["a.nii"], False])
@pytest.mark.parametrize("split", ["labeled", "unlabeled"])
def test_a_label_is_a_path(tmp_path: Path, split: str, label: Any) -> None:
    path = write(tmp_path, **{split: [{"case": "x", "image": "x.nii", "label": label}]})
    sentence = rf"m\.json: 1 fault\(s\):\n  - {split}\[0\] x: label is a path, but got {re.escape(repr(label))}$"
    with pytest.raises(ManifestError, match=sentence):
        load_manifest(path)


@pytest.mark.parametrize(("first", "second", "fits"), [
    ("labeled", "unlabeled", True), ("labeled", "test", False), ("unlabeled", "validation", False),
    ("validation", "test", False),
])  # fmt: skip
def test_a_patient_stands_on_one_side(tmp_path: Path, first: str, second: str, fits: bool) -> None:
    """Training may hold both labeled and unlabeled scans of one patient."""
    splits: dict[str, Any] = {"labeled": [], "unlabeled": [], "validation": [], "test": []}
    for split, case in ((first, "a"), (second, "b")):
        splits[split] = [{"case": case, "image": f"{case}.nii", "label": f"{case}_seg.nii", "patient": "p"}]
    path = write(tmp_path, **splits)
    if fits:
        assert load_manifest(path).labeled[0].patient == "p"
        return
    with pytest.raises(ManifestError, match=f"patient p stands in {first} and in {second}"):
        load_manifest(path)


@pytest.mark.parametrize("spelling", ["scans/../a.nii", "linked.nii", "same.nii", "labeled.nii"])
def test_one_file_stands_on_one_side_however_it_is_called(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("a.nii", "a_seg.nii", "c_seg.nii", "labeled.nii"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "linked.nii").symlink_to("a.nii")
    (tmp_path / "same.nii").hardlink_to(tmp_path / "a.nii")
    label = "a_seg.nii" if spelling == "labeled.nii" else "c_seg.nii"
    test = [{"case": "c", "image": spelling, "label": label}]
    kind, shown = ("label", label) if spelling == "labeled.nii" else ("image", spelling)
    with pytest.raises(
        ManifestError, match=rf"{kind} file .*/{re.escape(shown)} stands in labeled and in test; splits"
    ):
        load_manifest(write(tmp_path, root=".", test=test))


def test_an_image_is_no_label_of_itself(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"x")
    path = write(tmp_path, root=".", labeled=[{"case": "a", "image": "a.nii", "label": "./a.nii"}])
    with pytest.raises(ManifestError, match=r"labeled\[0\] a: its label file \./a\.nii is its image file too$"):
        load_manifest(path)


@pytest.mark.parametrize(("text", "sentence"), [
    ("[1]", "a manifest is a JSON object, but this file holds list"),
    ("{", "not valid JSON"),
    ('{"labels": {}, "labels": {}}', "key 'labels' stands in it twice"),
    ('{"labels": {"0": "background", "1": "x"}, "train": []}', "unknown key 'train'"),
    ('{"labels": {"0": "background", "1": "x"}}', "no cases: at least one of labeled"),
    ('{"training": [], "labels": {}}', "this is a Decathlon dataset.json, .* medcontrast data split"),
    ('{"labels": {"0": "background", "1": "x"}, "channels": ["T1"]}', 'expected "channels" as'),
    ('{"kind": "images", "train": []}', "takes a manifest of volumes, .* this is one of the kind 'images'"),
    ('{"kind": "image", "train": []}', "there is no kind 'image' of manifest; one of images has"),
])  # fmt: skip
def test_files_that_are_no_manifest(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(ManifestError, match=sentence):
        load_manifest(path)


def test_a_missing_file_and_a_missing_split(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"there is no such manifest"):
        load_manifest(tmp_path / "none.json")
    with pytest.raises(
        ManifestError, match=r"the split 'validation' is empty; it has labeled, unlabeled, test; choose"
    ):
        load_manifest(write(tmp_path)).split("validation")


@pytest.mark.parametrize(("file", "name"), [
    ("a/b.nii.gz", "b"), ("b.seg.nrrd", "b"), ("b.c.NII", "b.c"), ("b.mha", "b"), ("series", "series"),
])  # fmt: skip
def test_case_names(file: str, name: str) -> None:
    assert output_stem(Path(file)) == name


# --- the writer


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.json"
    write_manifest(path, TREE)
    assert json.loads(path.read_text()) == TREE
    with pytest.raises(OutputError, match=r"m.json: exists already; add --overwrite, or name another output"):
        write_manifest(path, TREE)
    with pytest.raises(ManifestError, match=r"new/m.json: the label table names no structure besides background"):
        write_manifest(path, {**TREE, "labels": {"0": "background"}}, overwrite=True)
    assert json.loads(path.read_text()) == TREE
    write_manifest(path, {**TREE, "name": "other"}, overwrite=True)
    assert load_manifest(path).name == "other"
    assert [file.name for file in path.parent.iterdir()] == ["m.json"]
    with pytest.raises(OutputError, match=r"m.json/x.json: cannot be written"):
        write_manifest(path / "x.json", TREE)


# --- the shipped manifests


def test_every_shipped_manifest_is_known_here() -> None:
    assert {path.stem for path in SHIPPED.glob("*.json") if not is_image_manifest(path)} == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_shipped_manifests_load(name: str) -> None:
    manifest = load_manifest(SHIPPED / f"{name}.json")
    assert manifest.name == name
    sizes = (len(manifest.labeled), len(manifest.unlabeled), len(manifest.validation), len(manifest.test))
    assert sizes == COUNTS[name]
    assert "root" not in manifest.raw
    assert manifest.source and manifest.licence
    if name.startswith("hippocampus"):
        assert manifest.labels.targets == {
            "hippocampus anterior": (1,),
            "hippocampus posterior": (2,),
            "hippocampus": (1, 2),
        }
        codes = [
            (label.type.value, label.type_modifier.value)
            for label in manifest.labels.labels
            if label.type is not None and label.type_modifier is not None
        ]
        assert codes == [("5366008", "255549009"), ("5366008", "255551008")]
    else:
        (label,) = manifest.labels.labels
        assert label.name == "left atrium" and label.type is not None and label.type.value == "82471001"


def test_nothing_of_the_tuning_manifests_was_held_out() -> None:
    """What is chosen on a tuning manifest has seen no case that is reported on."""
    for few in (4, 8):
        outer = load_manifest(SHIPPED / f"hippocampus_{few}of160.json")
        inner = load_manifest(SHIPPED / f"hippocampus_tune_{few}of120.json")
        training = names(outer, "labeled") + names(outer, "unlabeled")
        assert names(inner, "labeled") == names(outer, "labeled")
        assert names(inner, "labeled") + names(inner, "unlabeled") == training[:120]
        assert names(inner, "validation") == training[120:]
    for outside, inside, count in [("la_8of80", "la_8of64_val16", 64), ("la_8of64_val16", "la_tune_8of52", 52)]:
        outer, inner = (load_manifest(SHIPPED / f"{name}.json") for name in (outside, inside))
        training = names(outer, "labeled") + names(outer, "unlabeled")
        assert names(inner, "labeled") + names(inner, "unlabeled") == training[:count]
        assert names(inner, "validation") == training[count:]


@pytest.mark.parametrize("few", [4, 8, 16])
def test_hippocampus_follows_the_rule(few: int) -> None:
    manifest = load_manifest(SHIPPED / f"hippocampus_{few}of160.json")
    everyone = [name for split, _ in manifest.splits() for name in names(manifest, split)]
    order = [str(name) for name in np.random.default_rng(0).permutation(sorted(everyone))]
    assert len(order) == 200
    assert names(manifest, "validation") == order[:40]
    assert names(manifest, "labeled") == order[40 : 40 + few]
    assert names(manifest, "unlabeled") == order[40 + few :]


@pytest.mark.parametrize("few", [4, 8, 16])
def test_hippocampus_is_what_the_command_makes(
    few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    """From a dataset.json of the same names; the label table comes from the shipped file itself."""
    shipped = SHIPPED / f"hippocampus_{few}of160.json"
    manifest = load_manifest(shipped)
    everyone = sorted(name for split, _ in manifest.splits() for name in names(manifest, split))
    folder = tmp_path / "data" / "hippocampus"
    folder.mkdir(parents=True)
    training = [{part: f"./{part}sTr/{name}.nii.gz" for part in ("image", "label")} for name in everyone]
    tree = {"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}, "training": training, "test": []}
    (folder / "dataset.json").write_text(json.dumps(tree))
    monkeypatch.setenv("MEDCONTRAST_DATA", str(tmp_path / "data"))
    out = tmp_path / shipped.name
    answer = cli("data", "split", folder / "dataset.json", "-o", out, "--labeled", few, "--validation", 40,
                 "--labels-from", shipped)  # fmt: skip
    assert (answer.code, answer.out) == (0, f"{out}: {few} labeled, {160 - few} unlabeled, 40 validation.\n")
    assert out.read_text() == shipped.read_text()


@pytest.mark.parametrize(
    ("inner", "outer", "few", "held_out"),
    [
        ("hippocampus_tune_4of120", "hippocampus_4of160", 4, 40),
        ("hippocampus_tune_8of120", "hippocampus_8of160", 8, 40),
        ("la_8of64_val16", "la_8of80", 8, 16),
        ("la_8of64_val16", "la_4of80", 8, 16),
        ("la_tune_8of52", "la_8of64_val16", 8, 12),
    ],
)
def test_tuning_manifests_are_what_the_command_makes(
    inner: str, outer: str, few: int, held_out: int, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / f"{inner}.json"
    words = ("--inside", SHIPPED / f"{outer}.json", "--labeled", few, "--validation", held_out, "-o", out)
    assert cli("data", "split", *words).code == 0
    assert out.read_text() == (SHIPPED / out.name).read_text()


@pytest.mark.parametrize("few", [4, 8, 16])
def test_left_atrium_is_what_the_import_makes(few: int, tmp_path: Path, cli: Cli) -> None:
    """Up to the folder la2018/ in front of every path, and the root that an import writes."""
    h5py = pytest.importorskip("h5py")
    manifest = load_manifest(SHIPPED / f"la_{few}of80.json")
    train, test = names(manifest, "labeled") + names(manifest, "unlabeled"), names(manifest, "test")
    for name in [*train, *test]:
        (tmp_path / "h5" / name).mkdir(parents=True)
        with h5py.File(tmp_path / "h5" / name / "mri_norm2.h5", "w") as file:
            file["image"], file["label"] = np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.uint8)
    (tmp_path / "train.list").write_text("\n".join(train))
    (tmp_path / "test.list").write_text("\n".join(test) + "\n\n")
    answer = cli("data", "import", "la-h5", tmp_path / "h5", "-o", tmp_path / "la2018", "--labeled", few,
                 "--train-list", tmp_path / "train.list", "--test-list", tmp_path / "test.list")  # fmt: skip
    assert answer.code == 0, answer.err
    made = json.loads((tmp_path / "la2018" / "manifest.json").read_text())
    assert made.pop("root") == "."
    for split in ("labeled", "unlabeled", "test"):
        for entry in made[split]:
            assert (tmp_path / "la2018" / entry["image"]).exists() and (tmp_path / "la2018" / entry["label"]).exists()
            entry.update({part: f"la2018/{entry[part]}" for part in ("image", "label")})
    assert made == manifest.raw


def test_left_atrium_keeps_the_public_order(data_root: Path) -> None:
    public = (data_root / "la2018" / "train.txt").read_text().split()
    for few in (4, 8, 16):
        raw = load_manifest(SHIPPED / f"la_{few}of80.json").raw
        test = [entry["case"] for entry in raw["test"]]
        assert raw == la_tree(public, test, labeled=few, name=f"la_{few}of80", prefix="la2018/")


def test_shipped_names_are_on_disk(data_root: Path) -> None:
    for name in COUNTS:
        for split, cases in load_manifest(SHIPPED / f"{name}.json").splits():
            if not (name.startswith("la_") and split == "test"):
                assert all(path.exists() for case in cases for path in case.images), (name, split)
