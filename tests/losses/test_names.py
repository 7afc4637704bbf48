"""Tests of what the package gives to other programs: property."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from importlib import resources

import medcontrast
from medcontrast import losses, networks

INTERNAL = {"arguments", "precision", "reduction"}


def test_every_loss_is_found_in_the_package():
    found = set()
    for info in pkgutil.iter_modules(losses.__path__):
        module = importlib.import_module(f"medcontrast.losses.{info.name}")
        own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
        found |= set() if info.name in INTERNAL else {name for name in own if not name.startswith("_")}
    assert found - {"Form"} == set(losses.__all__)
    assert all(inspect.isfunction(getattr(losses, name)) for name in losses.__all__ if name.islower())


def test_the_teacher_is_found_in_the_package():
    assert all(inspect.isfunction(getattr(networks, name)) for name in networks.__all__)
    assert networks.__all__ == ["make_teacher", "teacher_decay", "update_teacher"]


def test_the_package_says_that_it_is_typed():
    assert resources.files(medcontrast).joinpath("py.typed").is_file()
