"""Stand-ins for names that PyMIC imports from packages which do not install beside a CPU build of PyTorch.

torchvision's builds on PyPI are made for CUDA builds of PyTorch; timm and with it PyMIC's transformers ask for them.
`Compose` works; the other names are imported by networks and transforms that no job here uses, and refuse to be called.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


class Compose:
    """Applies transforms one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Any) -> Any:
        for transform in self.transforms:
            sample = transform(sample)
        return sample


def absent(name: str) -> Callable[..., Any]:
    """A function that says what is not there.

    Args:
        name: Full name of what is missing.
    """

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"{name} is a stand-in; install the package itself to use it.")

    return refuse


def stub_names() -> dict[str, dict[str, Any]]:
    """Module -> the names that PyMIC imports from it."""
    return {
        "torchvision.transforms": {"Compose": Compose},
        "timm.models.layers": {
            name: absent(f"timm.models.layers.{name}") for name in ("DropPath", "to_2tuple", "trunc_normal_")
        },
        "imops": {"crop_to_box": absent("imops.crop_to_box")},
    }


def install_stubs() -> list[str]:
    """Puts the stand-ins of packages that are not installed where `import` finds them; returns those packages."""
    stubbed = []
    for name, content in stub_names().items():
        package = name.partition(".")[0]
        if package in sys.modules or importlib.util.find_spec(package) is not None:
            continue
        stubbed.append(package)
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            path = ".".join(parts[:depth])
            module = ModuleType(path)
            module.__path__ = []
            sys.modules[path] = module
            if depth > 1:
                setattr(sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], module)
        for key, value in content.items():
            setattr(sys.modules[name], key, value)
    return stubbed
