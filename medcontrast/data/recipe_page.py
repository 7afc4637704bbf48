"""Writes a recipe as a page: every key, each with its reason or its meaning beside it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from medcontrast.errors import MedcontrastError
from medcontrast.files import relative_name, write_text
from medcontrast.settings import Recipe, load_recipe

_WIDTH = 118


def recipe_page(recipe: Recipe, reasons: Mapping[str, str], *, heading: str = "") -> str:
    """YAML that `load_recipe` reads back as the same recipe.

    Args:
        recipe: What to write, defaults included.
        reasons: Comment by dotted key; other keys get the first sentence of their description.
        heading: Comment lines on top.
    """
    lines = [f"# {line}" for line in textwrap.wrap(heading, _WIDTH - 2)]
    lines += _lines(recipe, reasons, "", 0)
    return "\n".join(lines) + "\n"


def _lines(settings: BaseModel, reasons: Mapping[str, str], prefix: str, depth: int) -> list[str]:
    out: list[str] = []
    dumped = settings.model_dump(mode="json")
    indent = "  " * depth
    meanings = _meanings(type(settings))
    for name in type(settings).model_fields:
        value, key = getattr(settings, name), f"{prefix}{name}"
        comment = reasons.get(key) or _first_sentence(meanings.get(name, ""))
        if isinstance(value, BaseModel):
            if depth == 0:
                out.append("")
            out += _with_comment(f"{indent}{name}:", comment, indent)
            out += _lines(value, reasons, f"{key}.", depth + 1)
        else:
            out += _with_comment(f"{indent}{name}: {_scalar(dumped[name])}", comment, indent)
    return out


def _with_comment(line: str, comment: str, indent: str) -> list[str]:
    if not comment:
        return [line]
    joined = f"{line}  # {comment}"
    if len(joined) <= _WIDTH:
        return [joined]
    above = textwrap.wrap(comment, _WIDTH - len(indent) - 2)
    return [*(f"{indent}# {part}" for part in above), line]


@cache
def _meanings(settings: type[BaseModel]) -> dict[str, str]:
    """The string below each field in the source; pydantic's own reading of them slows every import by a quarter."""
    found: dict[str, str] = {}
    for each in reversed(settings.__mro__):
        if not issubclass(each, BaseModel) or each is BaseModel:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(body, ast.ClassDef)
        for field, below in pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = ast.literal_eval(below.value)
    return found


def _first_sentence(description: str) -> str:
    return " ".join(description.split()).split(". ")[0].rstrip(".")


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("...").strip()


def relative_path(manifest: Path, recipe: Path) -> str:
    """The manifest's path as seen from the folder of the recipe."""
    return relative_name(manifest.absolute(), recipe.absolute().parent)


def write_recipe(path: Path, recipe: Recipe, reasons: Mapping[str, str], *, looked_at: int) -> None:
    """Writes the page, and makes sure that it reads back as the same recipe.

    Raises:
        OutputError: The place cannot be written to.
    """
    heading = f"Proposed from {looked_at} training scan(s). Every key is here; change what you know better."
    page = recipe_page(recipe, reasons, heading=heading)
    write_text(path, page)
    if load_recipe(path) != recipe:
        raise MedcontrastError(f"{path}: the written recipe does not read back as what was proposed.")
