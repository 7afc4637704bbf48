"""Tests of the check of a manifest of images: by hand; whole, by the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medcontrast.data.images.check import ImageCheckReport, check_image_manifest
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.errors import ManifestError

Cli = Callable[..., SimpleNamespace]
COPY = "of the split train; no image may stand in two splits"


@pytest.fixture
def path(tiny: SimpleNamespace, tmp_path: Path) -> Path:
    """24, 8 and 12 images of 16 x 16, two classes and two domains."""
    found: Path = tiny.write_images(tmp_path)
    return found


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def report_of(path: Path, **options: Any) -> ImageCheckReport:
    return check_image_manifest(load_image_manifest(path), **options)


def findings(report: ImageCheckReport) -> dict[str, list[str]]:
    kinds = {"faults": report.faults, "warnings": report.warnings, "notes": report.notes}
    return {kind: [str(finding) for finding in found] for kind, found in kinds.items() if found}


def test_clean_images_have_no_findings_and_what_is_said_of_them_is_right(path: Path) -> None:
    told: list[str] = []
    report = report_of(path, tell=told.append)
    assert report.ok and findings(report) == {}
    assert len(told) == len(report.images) == 44 and told[0] == "train/00.png"
    assert {(image.sides, image.channels) for image in report.images} == {((16, 16), 1)}
    assert report.counts("test") == {"class": {"plain": 6, "striped": 6}, "domain": {"A": 6, "B": 6}}
    assert list(report_of(path, splits=["test"]).cases) == ["test"]
    with pytest.raises(ManifestError, match="there is no split 'labeled'"):
        report_of(path, splits=["labeled"])


def test_images_that_cannot_be_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "train/02.png").write_text("words")
    np.savez(tmp_path / "x.npz", images=np.full((1, 4, 4), np.nan), flat=np.zeros((1, 4, 4, 2), np.uint8))
    sources = [{"npz": "x.npz"}, {"npz": "x.npz", "images": "flat"}]
    edit(path, lambda tree: tree["train"].extend(sources))
    report = report_of(path)
    first, second, third = findings(report)["faults"]
    assert first.startswith(f"train train/02.png: {tmp_path}/train/02.png: cannot be read as an image (")
    assert second.endswith("image x.npz#images[0] holds NaN or infinite values; repair or leave it out.")
    assert third.endswith("has shape (4, 4, 2); expected height x width, or that x 1, 3 or 4 channels.")
    assert len(report.images) == 43 and len(report.cases["train"]) == 26


def test_masks_of_slices(path: Path, tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    shapes = {"image": values, "mask": (values % 2).astype(np.uint8), "short": np.ones((4, 5, 5), np.uint8)}
    for name, array in {**shapes, "halves": values / 2}.items():
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii")
    source = {"slices": "image.nii", "axis": 1, "every": 4}

    def faults(label: str) -> list[str]:
        edit(path, lambda tree: tree.update(train=[{**source, "label": label}]))
        return findings(report_of(path, splits=["train"])).get("faults", [])

    assert faults("mask.nii") == []
    text = "its mask short.nii has 5 slices of 4 x 5, the volume 5 slices of 4 x 6"
    assert faults("short.nii") == [f"train image.nii[1:0]: {text}"]  # once, not for each of its slices
    away = np.diag([1.0, 1.0, 1.0, 1.0])
    away[0, 3] = 50.0
    nib.save(nib.Nifti1Image(shapes["mask"], away), tmp_path / "away.nii")
    (elsewhere,) = faults("away.nii")
    assert (
        "its mask away.nii lies elsewhere: 4 x 5 x 6 voxels of 1 x 1 x 1 mm, axes towards RAS, first voxel" in elsewhere
    )
    turned = nib.as_closest_canonical(nib.Nifti1Image(shapes["mask"], np.eye(4)))
    flipped = turned.as_reoriented([[2, -1], [0, 1], [1, -1]])  # the same voxels, stored otherwise
    nib.save(flipped, tmp_path / "flipped.nii")
    assert faults("flipped.nii") == []
    (unusable,) = faults("halves.nii")
    assert "its mask cannot be used: " in unusable


def test_a_split_whose_files_are_not_there_leaves_the_others_to_be_checked(path: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "validation")
    report = report_of(path)
    (sentence,) = findings(report)["faults"]
    where = f"{path}: validation[0]: {tmp_path}/validation/00.png is not there; correct the manifest's root"
    assert sentence.startswith(f"validation: {where}")
    assert len(report.images) == 36 and report.cases["validation"] == ()


def test_the_same_image_under_two_names(path: Path, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "train/05.png", tmp_path / "train/06.png")
    shutil.copy(tmp_path / "train/07.png", tmp_path / "test/03.png")
    with Image.open(tmp_path / "train/08.png") as opened:  # other bytes in the file, the same pixels
        opened.save(tmp_path / "validation/00.bmp")
    edit(path, lambda tree: tree["validation"][0].update(image="validation/00.bmp"))
    report = report_of(path)
    assert findings(report) == {
        "faults": [
            f"validation validation/00.bmp: holds the same pixels as train/08.png {COPY}",
            f"test test/03.png: holds the same pixels as train/07.png {COPY}",
        ],
        "warnings": ["train train/06.png: holds the same pixels as train/05.png; one of them counts twice"],
    }


def test_black_images_are_said_and_are_not_copies(path: Path, tmp_path: Path) -> None:
    for name in ("train/01.png", "train/04.png", "test/00.png"):
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / name)
    assert findings(report_of(path)) == {
        "warnings": [
            "train: 2 of 24 images have one value everywhere, such as train/01.png",
            "test: 1 of 12 images have one value everywhere, such as test/00.png",
        ]
    }


def test_overlap_of_names_and_of_patients(path: Path) -> None:
    def mix(tree: dict[str, Any]) -> None:
        tree["test"].append(tree["train"][0])
        tree["train"][1]["patient"] = tree["validation"][0]["patient"] = "p"

    edit(path, mix)
    assert findings(report_of(path))["faults"] == [
        f"test train/00.png: holds the same pixels as train/00.png {COPY}",
        "splits: image train/00.png stands in train and in test",
        "splits: patient p stands in train and in validation",
    ]
    nobody = "train: 23 of 24 images have no patient; whether theirs stand in another split is not known"
    assert findings(report_of(path, splits=["train"])) == {"notes": [nobody]}


def test_patients_that_are_spelled_in_two_ways(path: Path) -> None:
    def name(tree: dict[str, Any]) -> None:
        for split, names in (("train", ("007", "B10")), ("test", ("7", "b10")), ("validation", ("70", "B100"))):
            for source, patient in zip(tree[split], names, strict=False):
                source["patient"] = patient

    edit(path, name)
    assert findings(report_of(path))["warnings"] == [
        "splits: patients 007 of train and 7 of test differ in leading zeros or capitals alone; are they one?"
    ]


def test_images_that_lack_an_attribute_which_others_have(path: Path) -> None:
    def name(tree: dict[str, Any]) -> None:
        for number, source in enumerate(tree["train"]):
            source["attributes"] = {"age": 40 + number} if number > 1 else {}

    edit(path, name)
    notes = ["train: 2 of 24 images have no age; a generator of images needs it of all"]
    assert findings(report_of(path)) == {"notes": notes}


def test_a_domain_that_counterfactuals_alone_make_frequent(path: Path) -> None:
    def name(tree: dict[str, Any]) -> None:
        tree["train"][0]["domain"] = "C"
        tree["train"][1] |= {"domain": "C", "of": "train/00.png"}

    edit(path, name)
    found = findings(report_of(path))
    assert found["warnings"] == ["train: domain C occurs once"]
    assert found["notes"] == ["train: 1 of 24 images are counterfactuals of others"]


def test_what_occurs_once_is_missing_or_differs(path: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 9, 3)).astype(np.uint8)).save(tmp_path / "c.png")

    def change(tree: dict[str, Any]) -> None:
        tree["classes"].append("dotted")
        tree["train"][0] |= {"domain": "C", "quality": "low"}
        tree["train"].append({"image": "c.png", "target": "dotted", "domain": "A"})
        del tree["train"][4]["target"]
        for entry in tree["test"]:
            del entry["target"]

    edit(path, change)
    report = report_of(path)
    once = "a probe needs every class in train and in what it scores"
    assert findings(report) == {
        "warnings": [
            "train: class dotted occurs once",
            "train: domain C occurs once",
            "train: quality low occurs once",
            f"validation: the class dotted does not occur; {once}",
            "test: no image has a target; a probe cannot use this split",
        ],
        "notes": [
            "train: 1 of 25 images have no target; a probe leaves them out",
            "train: images differ in channels: 24 of 1, 1 of 3; data.channels converts them",
        ],
    }
    assert report.ok
    assert report.counts("train")["class"] == {"(none)": 1, "dotted": 1, "plain": 11, "striped": 12}
    assert report.counts("test") == {"domain": {"A": 6, "B": 6}}


def test_training_images_without_targets_are_what_pre_training_takes(path: Path) -> None:
    edit(path, lambda tree: [entry.pop("target") for entry in tree["train"]])
    note = "train: no image has a target; a probe cannot learn from this split"
    assert findings(report_of(path)) == {"notes": [note]}


# --- the command


def test_the_command_picks_the_check_by_the_kind_of_the_manifest(path: Path, tmp_path: Path, cli: Cli) -> None:
    edit(path, lambda tree: tree["test"][0].update(patient="p"))
    answer = cli("data", "check", path)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0] == f"{path}: stripes, data folder {tmp_path}" and lines[-1] == "No faults."
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert cells == [
        ["train", "24 of 24", "16 x 16", "1", ""],
        ["validation", "8 of 8", "16 x 16", "1", ""],
        ["test", "12 of 12", "16 x 16", "1", "1"],
        ["class", "plain", "12", "4", "6"],
        ["class", "striped", "12", "4", "6"],
        ["domain", "A", "12", "4", "6"],
        ["domain", "B", "12", "4", "6"],
    ]
    assert "train/00.png" not in answer.out
    answer = cli("data", "check", path, "--cases", "--split", "train", "--root", tmp_path)
    assert "train/00.png" in answer.out and "validation" not in answer.out


def test_the_command_ends_with_2_on_faults(path: Path, tmp_path: Path, cli: Cli) -> None:
    for number in range(21):
        (tmp_path / f"train/{number:02d}.png").write_text("words")
    answer = cli("data", "check", path)
    assert answer.code == 2 and answer.err == ""
    lines = answer.out.splitlines()
    assert "21 faults:" in lines and lines[-1] == "  ... and 1 more; --cases shows all"
    assert cli("data", "check", path, "--cases").out.count("cannot be read as an image") == 21
    answer = cli("data", "check", path, "--patch", "8,8,8")
    sentence = f"--patch 8,8,8: is for volumes, but {path} lists images; leave it out.\n"
    assert (answer.code, answer.err) == (2, sentence)
    answer = cli("data", "check", path, "--split", "labeled")
    sentence = f"{path}: there is no split 'labeled'; choose one of train, validation, test.\n"
    assert (answer.code, answer.err) == (2, sentence)


def test_columns_that_nothing_reads(path: Path, tmp_path: Path) -> None:
    lines = [f"train/{number:02d}.png,{number % 2},p{number},1,2" for number in range(24)]

    def notes(head: str, **more: Any) -> list[str]:
        (tmp_path / "l.csv").write_text("\n".join([head, *lines]))
        edit(path, lambda tree: tree.update(train=[{"csv": "l.csv", **more}]))
        return findings(report_of(path, splits=["train"])).get("notes", [])

    assert notes("image,target,patient,domain,text") == []
    assert notes("Image,target,Patient ,age,DOMAIN") == ["train: columns of l.csv that are not read: age"]
    assert notes("image,target,fold,age,text", only={"fold": "p3"}) == [
        "train: columns of l.csv that are not read: age"
    ]
    assert notes("image,target,patient_id,age,Comment", attributes=["age"]) == [
        "train: columns of l.csv that are not read: patient_id, Comment"
    ]


def test_files_of_a_folder_that_are_not_taken_and_counterfactuals_are_noted(path: Path, tmp_path: Path) -> None:
    for name in ("a.webp", "train/b.gif", ".hidden"):
        (tmp_path / "more" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "more" / name).write_bytes(b"x")
    shutil.copy(tmp_path / "train/00.png", tmp_path / "more/00.png")
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "made.png")
    made = {"image": "made.png", "target": 0, "of": "more/00.png"}
    edit(path, lambda tree: tree.update(train=[{"folder": "more", "target": 0}, made]))
    assert findings(report_of(path, splits=["train"]))["notes"] == [
        "train: 1 of 2 images are counterfactuals of others",
        "train: 2 files of more that are no image as read here: a.webp, b.gif",
    ]


def test_twelve_bits_in_a_file_of_sixteen(path: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number, largest in ((1, 4095), (2, 4096), (3, 65535)):
        pixels = random.integers(0, largest, (16, 16), dtype=np.uint16)
        pixels[0, 0] = largest
        Image.fromarray(pixels).save(tmp_path / f"test/{number:02d}.png")
    dark = Image.fromarray(np.full((16, 16), 3, np.uint8) + np.eye(16, dtype=np.uint8))
    dark.save(tmp_path / "test/04.png")  # eight bits are what they are, however dark
    colour = np.full((16, 16, 3), 15, np.uint8) - np.eye(16, dtype=np.uint8)[..., None]
    Image.fromarray(colour).save(tmp_path / "test/05.png")  # as Pillow reads 12 bits of colour in 16: the upper byte
    found = findings(report_of(path))
    assert found.pop("warnings") == [
        "test: 2 of 12 images reach no more than a sixteenth of what 16 bits hold (12 bits in a 16-bit file?) and are "
        "read as nearly black, such as test/01.png"
    ]
    assert found == {"notes": ["test: images differ in channels: 11 of 1, 1 of 3; data.channels converts them"]}
