"""YAML to Recipe: every fault at once, the nearest key named, in words for people."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from medcontrast.errors import RecipeError
from medcontrast.settings.methods import MethodSettings
from medcontrast.settings.recipe import Recipe

_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _YamlFault(f"line {key_node.start_mark.line + 1}: keys are words, but got {key!r}")
            if key in seen:
                raise _YamlFault(
                    f"line {key_node.start_mark.line + 1}: key {key!r} stands here a second time; keep one"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _YamlFault(Exception):
    pass


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: The YAML file.
        overrides: `key.subkey=value` items, the value in YAML; they pass the same validation.

    Raises:
        RecipeError: With every fault, one a line.
    """
    tree = read_yaml(path)
    for override in overrides:
        _apply(tree, override)
    return recipe_from_tree(tree, where=str(path))


def recipe_from_tree(tree: Any, *, where: str) -> Recipe:
    """Validates a plain tree of dicts, lists and scalars, as strictly as a file.

    Raises:
        RecipeError: With every fault, one a line.
    """
    try:
        text = json.dumps(tree, allow_nan=False)
    except ValueError:
        raise RecipeError(f"{where}: NaN and infinity are not settings; give a finite number.") from None
    except TypeError as error:
        raise RecipeError(f"{where}: a recipe holds numbers, words, lists and yes/no alone ({error}).") from None
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        raise RecipeError(sentences(error, where)) from None


def recipe_to_yaml(recipe: Recipe) -> str:
    """The resolved recipe: every default written out, and loadable again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=110, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        RecipeError: The file is missing, is no YAML, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"{path}: there is no such recipe. `medcontrast recipes` lists those that come along."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a recipe ({error}).") from None
    try:
        tree = yaml.load(text, Loader=_Loader)
    except _YamlFault as fault:
        raise RecipeError(f"{path}: {fault}.") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping of keys to values, but this file holds {type(tree).__name__}."
        )
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override}: expected KEY=VALUE, for example --set train.steps=100.")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, _YamlFault) as error:
        raise RecipeError(f"--set {override}: the value is not valid YAML: {' '.join(str(error).split())}.") from None
    *parents, last = key.strip().split(".")
    if key.strip() in ("data.manifest", "data.root", "train.init_from") and isinstance(value, str):
        value = str(Path(value).absolute())  # what is typed at a prompt is relative to where it is typed
    branch = tree
    for parent in parents:
        branch = branch.setdefault(parent, {})
        if not isinstance(branch, dict):
            raise RecipeError(f"--set {override}: {parent!r} holds a value, not further keys.")
    branch[last] = value


def sentences(error: ValidationError, where: str, settings: type[BaseModel] = Recipe) -> str:
    """Every fault that pydantic found in `settings`, one a line."""
    faults = [_sentence(fault, settings) for fault in error.errors(include_url=False)]
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return "\n".join([f"{count} in {where}:", *(f"  - {fault}" for fault in faults)])


def _sentence(fault: Any, settings: type[BaseModel]) -> str:
    place = _place(fault["loc"])
    kind, value = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return f"{place}: unknown key{_nearest(fault['loc'], settings)}"
    if kind == "missing":
        return f"{place}: missing"
    if kind == "value_error":
        return f"{place}: {fault['ctx']['error']}" if place else str(fault["ctx"]["error"])
    if kind.startswith("union_tag"):
        got = f"but got {value['name']!r}" if isinstance(value, dict) and "name" in value else "but there is none"
        return f"{place}.name: expected one of {_method_names()}, {got}"
    if place == "method" and kind == "dict_type":
        return f"method: expected a mapping with a name out of {_method_names()}, but got {value!r}"
    if isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
        return f"{place}: {value!r} is read as a word, not a number; write {float(value):.12g}"
    shown = "{...}" if isinstance(value, dict) else repr(value)
    return f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}, but got {shown}"


def _place(location: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in _without_tags(location))


def _without_tags(location: Iterable[int | str]) -> list[int | str]:
    # pydantic puts the chosen member of a union between the key and its subkeys
    parts = list(location)
    if len(parts) > 1 and parts[0] == "method":
        del parts[1]
    return [part for part in parts if not (isinstance(part, str) and part.startswith(("tuple[", "constrained-")))]


def _nearest(location: Sequence[int | str], settings: type[BaseModel]) -> str:
    *parents, last = _without_tags(location)
    model: Any = settings
    for index, parent in enumerate(parents):
        if parents[0] == "method" and index == 0:
            model = _method_classes().get(str(location[1]))
            continue
        is_section = isinstance(model, type) and issubclass(model, BaseModel)
        field = model.model_fields.get(str(parent)) if is_section else None
        model = field.annotation if field is not None else None
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(last), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"


def _method_classes() -> dict[str, Any]:
    union = get_args(MethodSettings)[0]
    return {get_args(each.model_fields["name"].annotation)[0]: each for each in get_args(union)}


def _method_names() -> str:
    return ", ".join(repr(name) for name in _method_classes())
