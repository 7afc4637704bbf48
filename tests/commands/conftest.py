"""Data, recipes and runs for the commands, and what they answer to wrong input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from infer_runs import Run
from typer.testing import CliRunner

from medcontrast.commands.infer import infer
from medcontrast.errors import MedcontrastError


@pytest.fixture
def place(tiny, tmp_path):
    """Data and a recipe; gives the recipe's path."""
    tiny.write_data(tmp_path / "data", validation=1, test=1)
    return tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe_tree("mean_teacher", steps=2))


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory):
    """A run of six steps; the tests do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    tree = tiny.recipe_tree("mean_teacher", optimizer={"lr": 0.01}) | {"evaluation": {"tolerance_mm": 2.0}}
    run = tiny.make_run(folder, tree, validation=2, test=1)
    tiny.train(run)
    return run


@pytest.fixture
def masks(tiny, tmp_path):
    """Two label files and equal predictions."""
    for number in range(2):
        _, label = tiny.make_scan(number, (20, 18, 22), [1, 2])
        tiny.write_nifti(tmp_path / "labels" / f"case_{number}.nii", label)
        tiny.write_nifti(tmp_path / "masks" / f"case_{number}_seg.nii", label)
    return tmp_path / "masks", tmp_path / "labels", tmp_path


@pytest.fixture
def refused():
    """Fails unless a command ended with exit code 2 and said these sentences."""

    def check(result, *sentences):
        assert result.code == 2, (result.out, result.err)
        assert "Traceback" not in result.err
        for sentence in sentences:
            assert sentence in result.err, result.err

    return check


@pytest.fixture
def no_shared_data(monkeypatch, request):
    """Where the commands look for data is not set, but for a test of real data."""
    if "data_root" not in request.fixturenames:
        monkeypatch.delenv("MEDCONTRAST_DATA", raising=False)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `medcontrast infer` in an empty folder, as the root command line does."""
    app = typer.Typer()
    app.command()(infer)
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str) -> SimpleNamespace:
        result = CliRunner().invoke(app, list(words))
        error = result.exception
        if isinstance(error, MedcontrastError):
            return SimpleNamespace(code=error.exit_code, out=result.stdout, err=result.stderr + str(error.args[0]))
        if error is not None and not isinstance(error, SystemExit):
            raise error
        return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)

    return invoke


@pytest.fixture(scope="module")
def pretrained(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two steps of pre-training; tests write nothing into it but probes."""
    folder = tmp_path_factory.mktemp("pretrained")
    tiny.write_images(folder / "data")
    run = tiny.make_run(folder, tiny.pretrain_tree())
    tiny.train(run)
    path: Path = run.folder
    return path


@pytest.fixture
def images(tiny: SimpleNamespace, tmp_path: Path) -> Callable[..., Path]:
    """Writes other images; gives their manifest."""

    def write(**options: Any) -> Path:
        path: Path = tiny.write_images(tmp_path / "other", **options)
        return path

    return write
