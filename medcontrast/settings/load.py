"""YAML to Recipe: every fault at once, the nearest key named, in words for people."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from medcontrast.errors import RecipeError
from medcontrast.settings.pretrain_recipe import PretrainRecipe
from medcontrast.settings.recipe import Recipe

AnyRecipe = Recipe | PretrainRecipe

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


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Reads and validates a recipe; method.name says whether it segments or pre-trains.

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


def load_segmentation_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """`load_recipe` for a command that only segmentation has.

    Raises:
        RecipeError: With every fault; or it pre-trains an encoder.
    """
    return require_segmentation(load_recipe(path, overrides), where=str(path))


def require_segmentation(recipe: AnyRecipe, *, where: str) -> Recipe:
    """The recipe itself, where it segments.

    Raises:
        RecipeError: It pre-trains an encoder.
    """
    if isinstance(recipe, PretrainRecipe):
        raise RecipeError(
            f"{where}: method {recipe.method.name} pre-trains an encoder of images and makes no masks; score it with "
            "`medcontrast probe`, or start a segmentation from it by train.init_from."
        )
    return recipe


def require_pretraining(recipe: AnyRecipe, *, where: str) -> PretrainRecipe:
    """The recipe itself, where it pre-trains.

    Raises:
        RecipeError: It segments volumes.
    """
    if isinstance(recipe, Recipe):
        raise RecipeError(
            f"{where}: method {recipe.method.name} segments volumes; this needs a recipe of one of the pre-training "
            f"methods {', '.join(_method_classes(PretrainRecipe))}."
        )
    if recipe.generates:
        raise RecipeError(
            f"{where}: method {recipe.method.name} makes images and leaves no encoder behind; it is for "
            "`medcontrast counterfactuals`."
        )
    return recipe


def recipe_from_tree(tree: Any, *, where: str) -> AnyRecipe:
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
    kind = _kind(tree)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RecipeError(sentences(error, where, kind)) from None


def _kind(tree: Any) -> type[AnyRecipe]:
    method = tree.get("method") if isinstance(tree, dict) else None
    name = method.get("name") if isinstance(method, dict) else None
    if name in _method_classes(Recipe):
        return Recipe
    views = isinstance(tree, dict) and isinstance(tree.get("augment"), dict) and "views" in tree["augment"]
    # a misspelled method still gets its other faults against the right settings
    return PretrainRecipe if name in _method_classes(PretrainRecipe) or views else Recipe


def pretrains(tree: Any) -> bool:
    """Whether a plain tree, such as a checkpoint's, is a recipe that pre-trains an encoder."""
    return _kind(tree) is PretrainRecipe


def recipe_to_yaml(recipe: AnyRecipe) -> str:
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
        key = fault["ctx"]["discriminator"].strip("'")
        names = _method_names() if place == "method" else _tags(fault)
        got = f"but got {value[key]!r}" if isinstance(value, dict) and key in value else "but there is none"
        return f"{place}.{key}: expected one of {names}, {got}"
    if place == "method" and kind == "dict_type":
        return f"method: expected a mapping with a name out of {_method_names()}, but got {value!r}"
    if isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
        return f"{place}: {value!r} is read as a word, not a number; write {float(value):.12g}"
    shown = "{...}" if isinstance(value, dict) else repr(value)
    return f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}, but got {shown}"


def _tags(fault: Any) -> str:
    """Names of a union's members, where pydantic gives them."""
    return str(fault["ctx"].get("expected_tags", "those of the documentation"))


def _place(location: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in _without_tags(location))


def _without_tags(location: Iterable[int | str]) -> list[int | str]:
    # pydantic puts the chosen member of a union between the key and its subkeys
    parts = list(location)
    if len(parts) > 1 and (parts[0] == "method" or (parts[0] == "network" and parts[1] in _network_names())):
        del parts[1]
    for place, part in enumerate(parts[:-1]):
        if part == "degrade":
            del parts[place + 1]
            break
    return [part for part in parts if not (isinstance(part, str) and part.startswith(("tuple[", "constrained-")))]


def _nearest(location: Sequence[int | str], settings: type[BaseModel]) -> str:
    """The nearest key to an unknown one, found by walking the settings classes along its place."""
    parts, model = list(location[:-1]), settings
    while parts:
        found = _below(model, str(parts.pop(0)), parts)
        if found is None:
            return ""
        model = found
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"


def _below(model: type[BaseModel], key: str, rest: list[int | str]) -> type[BaseModel] | None:
    """The settings class that `key` of `model` holds; takes from `rest` what says which member of a union it is."""
    field = model.model_fields.get(key)
    candidates = _settings_classes(field.annotation) if field is not None else []
    if field is not None and get_origin(field.annotation) is dict and rest:
        rest.pop(0)
    if len(candidates) > 1 and rest:
        tag = str(rest.pop(0))
        candidates = [each for each in candidates if tag in _literals(each)]
    return candidates[0] if len(candidates) == 1 else None


def _settings_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _settings_classes(part)]


def _literals(model: type[BaseModel]) -> set[Any]:
    return {
        value
        for name in ("name", "kind")
        if name in model.model_fields
        for value in get_args(model.model_fields[name].annotation)
    }


def _method_classes(recipe: type[AnyRecipe]) -> dict[str, type[BaseModel]]:
    classes = _settings_classes(recipe.model_fields["method"].annotation)
    return {str(name): each for each in classes for name in _literals(each)}


def _network_names() -> set[Any]:
    classes = _settings_classes(PretrainRecipe.model_fields["network"].annotation)
    return {name for each in classes for name in _literals(each)}


def _method_names() -> str:
    return ", ".join(repr(name) for kind in (Recipe, PretrainRecipe) for name in _method_classes(kind))
