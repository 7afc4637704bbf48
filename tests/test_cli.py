"""Tests of the command line: whole (exact sentences and exit codes; what is imported)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import medcontrast


def test_version_and_help(cli):
    assert cli("--version").out == f"medcontrast {medcontrast.__version__}\n"
    shown = cli("--help")
    assert shown.code == 0
    for command in ("recipes", "check", "data", "recipe", "train", "evaluate", "probe", "infer", "export", "pack"):
        assert f" {command} " in shown.out


@pytest.mark.parametrize(
    "words", [["--help"], ["check", "RECIPE"], ["recipes"], ["train", "--help"], ["train", "nothing.yaml"]]
)
def test_answers_that_need_no_torch_do_not_import_it(tiny, tmp_path, words):
    program = (
        "import sys\nfrom medcontrast.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'monai', 'numpy', 'lightning_fabric', 'nibabel'} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    tiny.write_data(tmp_path / "data")
    place = tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe_tree())
    words = [str(place) if word == "RECIPE" else word for word in words]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_scores_of_masks_need_no_torch():
    code = "import sys, medcontrast.engine.scoring; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_too_little_memory_is_a_sentence(cli, monkeypatch, error):
    def fails(*words, **options):
        raise error

    monkeypatch.setattr("medcontrast.settings.shipped.shipped_recipes", fails)
    done = cli("recipes")
    assert done.code == 1 and done.err.startswith(
        "There is not enough memory. In training try --set train.accumulate=2"
    )


def test_other_errors_are_not_hidden(cli, monkeypatch):
    def fails(*words, **options):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("medcontrast.settings.shipped.shipped_recipes", fails)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        cli("recipes")


def test_a_name_that_the_console_cannot_show_is_escaped(tmp_path):
    """As on Windows, where output that goes to a file is in the machine's own code page."""
    words = [
        sys.executable,
        "-c",
        "from medcontrast.cli import main; main()",
        "check",
        str(tmp_path / "Sch\xe4del.yaml"),
    ]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, timeout=100)
    assert done.returncode == 2
    assert b"Sch\\xe4del.yaml: there is no such recipe." in done.stderr


def test_the_commands_are_loaded_without_torch_and_numpy():
    code = (
        "import sys, medcontrast.commands.data, medcontrast.commands.recipe; "
        "print([name for name in ('torch', 'numpy', 'nibabel', 'rich.table') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
