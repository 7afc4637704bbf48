"""Tests of `medcontrast data check` and `data phantom`: whole, by exact sentence and exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medcontrast.data.manifest import load_manifest
from medcontrast.settings import load_recipe
from medcontrast.settings.shipped import shipped_folder

pytestmark = pytest.mark.usefixtures("no_shared_data")
Cli = Callable[..., SimpleNamespace]
SHIPPED = shipped_folder("data_manifests")
SMALL = ("--shape", "20,20,16")


def test_phantom_then_check_then_recipe(tmp_path: Path, cli: Cli) -> None:
    folder, recipe = tmp_path / "p", tmp_path / "r.yaml"
    words = ("data", "phantom", folder, *SMALL, "--labeled", 2, "--unlabeled", 1, "--validation", 1, "--test", 0)
    answer = cli(*words, "--manifest-name", "quick")
    path = folder / "manifest.json"
    assert (answer.code, answer.out, answer.err) == (0, f"{path}: 2 labeled, 1 unlabeled, 1 validation.\n", "")
    assert load_manifest(path).name == "quick"
    again = cli(*words)
    sentence = f"{path}: exists already; add --overwrite, or name another output.\n"
    assert (again.code, again.out, again.err) == (2, "", sentence)
    assert cli(*words, "--overwrite").code == 0

    answer = cli("data", "check", path, "--patch", "32,8x8")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0] == f"{path}: phantom_2of3, data folder {folder}"
    assert "Labels of unlabeled cases were not opened." in lines
    assert "3 notes:" in lines and lines[-1] == "No faults."
    assert "  - labeled: 2 of 2 images are smaller than the patch 32x8x8 along some axis; they are padded" in lines
    assert any(line.startswith("│ labeled ") and "2 of 2" in line for line in lines)
    assert any("left atrium" in line and "validation" in line for line in lines)
    assert "phantom_000" not in answer.out
    assert "phantom_000" in cli("data", "check", path, "--cases").out

    answer = cli("recipe", "new", "--manifest", path, "-o", recipe)
    loaded = load_recipe(recipe)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        f"{recipe}: fba_net, dynunet, patch {'x'.join(map(str, loaded.data.patch))}.",
        f"Read it, then: medcontrast train {recipe} -o runs/r",
    ]
    assert loaded.data.manifest == "p/manifest.json"
    again = cli("recipe", "new", "--manifest", path, "-o", recipe)
    assert (again.code, again.err) == (2, f"{recipe}: exists already; add --overwrite, or name another output.\n")
    assert cli("recipe", "new", "--manifest", path, "-o", recipe, "--like", recipe, "--overwrite").code == 0
    assert cli("check", recipe).code == 0


def test_check_ends_with_2_and_says_what_is_missing(tmp_path: Path, cli: Cli) -> None:
    """The left atrium's test cases where only its training cases are there, or nothing is."""
    answer = cli("data", "check", SHIPPED / "la_8of80.json", "--split", "test", "--root", tmp_path)
    assert answer.code == 2
    assert answer.out.splitlines()[-2:] == [
        "1 fault:",
        f"  - test: 20 of 20 cases have no files under {tmp_path}: {tmp_path}/la2018/test/UPT6DX9IQY9JAZ7HJKA7/"
        "image.nii.gz and 39 more. Put them there or name another root; to check only the others: "
        "--split labeled --split unlabeled",
    ]
    answer = cli("data", "check", SHIPPED / "la_8of80.json", "--split", "validation")
    assert answer.code == 2
    sentence = "the split 'validation' is empty; it has labeled, unlabeled, test; choose one of these.\n"
    assert answer.err.endswith(f"la_8of80.json: {sentence}")


def test_findings_are_cut_at_twenty(tmp_path: Path, cli: Cli, tiny: SimpleNamespace) -> None:
    path = tiny.write_data(tmp_path, labeled=21, unlabeled=0)
    for number in range(21):
        tiny.write_nifti(tmp_path / f"images/case_{number:02d}_0.nii", np.full((20, 18, 22), float(number), np.float32))
    answer = cli("data", "check", path)
    assert answer.code == 2
    assert "21 faults:" in answer.out and "  ... and 1 more; --cases shows all" in answer.out
    assert "more; --cases" not in cli("data", "check", path, "--cases").out


def test_brackets_in_names_are_printed_as_they_are(tmp_path: Path, cli: Cli, tiny: SimpleNamespace) -> None:
    path = tiny.write_data(tmp_path / "[bold]x", labeled=1, unlabeled=0)
    (path.parent / "images/case_00_0.nii").unlink()
    assert f"{path.parent}/images/case_00_0.nii" in cli("data", "check", path).out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("data", "check", "none.json"), "none.json: there is no such manifest.\n"),
        (
            ("data", "check", "none.json", "--patch", "8,8"),
            "--patch 8,8: expected three whole numbers such as 64,64,40.\n",
        ),
        (
            ("data", "phantom", "x", "--shape", "20,a,16"),
            "--shape 20,a,16: expected three whole numbers such as 64,64,40.\n",
        ),
        (
            ("data", "phantom", "x", "--shape", "8,8,8"),
            "the phantom needs at least 16 voxels along each axis, but got [8, 8, 8].\n",
        ),
        (
            ("data", "split", "-o", "m.json", "--labeled", "1"),
            "name either a SOURCE to split or --inside MANIFEST, and not both.\n",
        ),
        (
            ("data", "split", "none", "-o", "m.json", "--labeled", "1"),
            "none: there is no such folder or dataset.json.\n",
        ),
        (("data", "import", "x", ".", "-o", "out"), "there is no importer 'x'; choose one of la-h5, la-nrrd.\n"),
        (
            ("data", "import", "la-h5", ".", "-o", "out", "--train-list", "none"),
            "none: there is no such file; name a list of cases, one name a line.\n",
        ),
        (("recipe", "new", "--manifest", "none.json", "-o", "r.yaml"), "none.json: there is no such manifest.\n"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    words: tuple[str, ...], sentence: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = cli(*words)
    assert (answer.code, answer.out, answer.err) == (2, "", sentence)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_to(tmp_path: Path, cli: Cli, tiny: SimpleNamespace) -> None:
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "x"
    sentence = f"cannot be written ({tmp_path / 'file'} is no folder); name another output.\n"
    answer = cli("data", "phantom", inside, *SMALL)
    assert (answer.code, answer.err) == (2, f"{inside}/manifest.json: {sentence}")
    path = tiny.write_data(tmp_path)
    answer = cli("recipe", "new", "--manifest", path, "-o", inside / "r.yaml")
    assert (answer.code, answer.err) == (2, f"{inside}/r.yaml: {sentence}")
    answer = cli("recipe", "new", "--manifest", path, "-o", tmp_path, "--overwrite")
    assert (answer.code, answer.err) == (
        2,
        f"{tmp_path}: is a folder, but a file would be written there; name another output.\n",
    )


def test_hippocampus_checks_clean(data_root: Path, cli: Cli) -> None:
    answer = cli("data", "check", SHIPPED / "hippocampus_8of160.json", "--split", "labeled", "--split", "validation")
    assert answer.code == 0
    assert "hippocampus posterior" in answer.out and "1, 1, 1" in answer.out
    assert answer.out.endswith("No faults.\n")
