"""Tests of `medcontrast data import`: whole, by exact sentence and exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medcontrast.data.manifest import load_manifest

pytestmark = pytest.mark.usefixtures("no_shared_data")
Cli = Callable[..., SimpleNamespace]


def test_import_writes_a_manifest_that_checks(tmp_path: Path, cli: Cli) -> None:
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    for name in "ABC":
        (tmp_path / "in" / name).mkdir(parents=True)
        label = np.zeros((6, 5, 4), np.uint8)
        label[2:4, 2:4, 1:3] = 1
        with h5py.File(tmp_path / "in" / name / "mri_norm2.h5", "w") as file:
            file["image"], file["label"] = random.normal(size=(6, 5, 4)), label
    (tmp_path / "train").write_text("B\nA\n")
    (tmp_path / "test").write_text("C")
    out = tmp_path / "la"
    words = ("data", "import", "la-h5", tmp_path / "in", "-o", out, "--labeled", 1)
    lists = ("--train-list", tmp_path / "train", "--test-list", tmp_path / "test")
    answer = cli(*words, *lists)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{out}: 3 case(s).\n{out}/manifest.json: 1 labeled, 1 unlabeled, 1 test.\n"
    manifest = load_manifest(out / "manifest.json")
    assert manifest.name == "la_1of2"
    assert [[case.name for case in cases] for cases in (manifest.labeled, manifest.unlabeled)] == [["B"], ["A"]]
    assert cli("data", "check", manifest.path).code == 0
    again = cli(*words, *lists)
    assert (again.code, again.err.startswith(f"{out}/manifest.json: exists already")) == (2, True)
    answer = cli(*words, "--test-list", tmp_path / "test")
    assert answer.err == "--test-list goes with --train-list: a manifest needs cases to train on.\n"
    answer = cli("data", "import", "la-h5", tmp_path / "in", "-o", tmp_path / "all")
    assert answer.out == f"{tmp_path}/all: 3 case(s).\n"
    assert not (tmp_path / "all" / "manifest.json").exists()
    answer = cli(*words, "--train-list", tmp_path / "none", "--overwrite")
    assert (answer.code, answer.err) == (
        2,
        f"{tmp_path}/none: there is no such file; name a list of cases, one name a line.\n",
    )
    answer = cli(*words, "--train-list", tmp_path, "--overwrite")
    assert (
        answer.err == f"{tmp_path}: cannot be read (Is a directory); name a list of cases, one name a line in UTF-8.\n"
    )
    (tmp_path / "train").write_text("B\nB\n")
    answer = cli(*words, *lists, "--overwrite")
    assert answer.err == (
        f"{tmp_path}/train: expected one case name a line, each once, but it holds 2 names, 1 of them different.\n"
    )
