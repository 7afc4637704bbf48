"""Data, a recipe and a run for the commands, and what they answer to wrong input."""

from __future__ import annotations

import pytest


@pytest.fixture
def place(tiny, tmp_path):
    """Data and a recipe; gives the recipe's path."""
    tiny.write_data(tmp_path / "data", validation=1, test=1)
    return tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe_tree("mean_teacher", steps=2))


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory):
    """A run of six steps; the tests do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    run = tiny.make_run(folder, tiny.recipe_tree("mean_teacher", optimizer={"lr": 0.01}), validation=2, test=1)
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
