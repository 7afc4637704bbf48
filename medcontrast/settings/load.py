"""YAML to Recipe, and which of both kinds of recipe it is; settings/sentences.py puts the faults into words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from medcontrast.errors import RecipeError
from medcontrast.settings.generator import GeneratorMethodSettings
from medcontrast.settings.pretrain_recipe import PretrainRecipe
from medcontrast.settings.recipe import Recipe
from medcontrast.settings.sentences import names_of, sentences, settings_classes

AnyRecipe = Recipe | PretrainRecipe
_PATHS = ("data.manifest", "data.root", "train.init_from")
"""Settings that are paths, relative to the recipe file."""
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, and reads numbers in decimal digits alone.

    To SafeLoader 010 is 8 and 10:30 is 630, which nobody means who writes them here.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (as SafeLoader has it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

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


_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+.0123456789"),
)


class _YamlFault(Exception):
    pass


def load_recipe(path: Path, overrides: Sequence[str] = (), *, beside: Path | None = None) -> AnyRecipe:
    """Reads and validates a recipe; method.name says whether it segments or pre-trains.

    Args:
        path: The YAML file.
        overrides: `key.subkey=value` items, the value in YAML; they pass the same validation.
        beside: The file that the overrides stand in, and that their paths are relative to. By default they were typed,
            and their paths are relative to the working folder.

    Raises:
        RecipeError: With every fault, one a line.
    """
    tree = read_yaml(path)
    for override in overrides:
        _apply(tree, override, path, beside)
    return recipe_from_tree(tree, where=str(path))


def load_segmentation_recipe(path: Path, overrides: Sequence[str] = (), *, beside: Path | None = None) -> Recipe:
    """`load_recipe` for a command that only segmentation has.

    Raises:
        RecipeError: With every fault; or it pre-trains an encoder.
    """
    return require_segmentation(load_recipe(path, overrides, beside=beside), where=str(path))


def require_segmentation(recipe: AnyRecipe, *, where: str) -> Recipe:
    """The recipe itself, where it segments.

    Raises:
        RecipeError: It pre-trains an encoder, or makes images.
    """
    if isinstance(recipe, PretrainRecipe) and recipe.generates:
        raise _makes_images(recipe, where)
    if isinstance(recipe, PretrainRecipe):
        raise RecipeError(
            f"{where}: method {recipe.method.name} pre-trains an encoder of images and makes no masks; score it with "
            "`medcontrast probe`, or start a segmentation from it by train.init_from."
        )
    return recipe


def require_pretraining(recipe: AnyRecipe, *, where: str) -> PretrainRecipe:
    """The recipe itself, where it pre-trains.

    Raises:
        RecipeError: It segments volumes, or makes images.
    """
    if isinstance(recipe, Recipe):
        classes = _method_classes(PretrainRecipe).items()
        names = [name for name, each in classes if not issubclass(each, GeneratorMethodSettings)]
        raise RecipeError(
            f"{where}: method {recipe.method.name} segments volumes; this needs a recipe of one of the pre-training "
            f"methods {', '.join(names)}."
        )
    if recipe.generates:
        raise _makes_images(recipe, where)
    return recipe


def _makes_images(recipe: PretrainRecipe, where: str) -> RecipeError:
    return RecipeError(
        f"{where}: method {recipe.method.name} makes images and leaves no encoder behind; it is for `medcontrast "
        "counterfactuals`."
    )


def recipe_from_tree(tree: Any, *, where: str) -> AnyRecipe:
    """Validates a plain tree of dicts, lists and scalars, as strictly as a file.

    Raises:
        RecipeError: With every fault, one a line.
    """
    text, kind = tree_to_json(tree, where), _kind(tree)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RecipeError(sentences(error, where, kind, {"method": _method_names()})) from None


def tree_to_json(tree: Any, where: str) -> str:
    """The tree as JSON, which settings are validated from as strictly as YAML is read.

    Raises:
        RecipeError: It holds something that is no setting, such as a date.
    """
    try:
        return json.dumps(tree, allow_nan=False)
    except (ValueError, RecursionError) as error:
        if isinstance(error, RecursionError) or "Circular" in str(error):
            raise RecipeError(f"{where}: a value holds itself, or is nested too deep.") from None
        raise RecipeError(f"{where}: NaN and infinity are not settings; give a finite number.") from None
    except TypeError as error:
        raise RecipeError(f"{where}: a recipe holds numbers, words, lists and yes/no alone ({error}).") from None


def _kind(tree: Any) -> type[AnyRecipe]:
    method = tree.get("method") if isinstance(tree, dict) else None
    name = str(method.get("name")) if isinstance(method, dict) else None
    if name in _method_classes(Recipe):
        return Recipe
    views = isinstance(tree, dict) and isinstance(tree.get("augment"), dict) and "views" in tree["augment"]
    # a misspelled method still gets its other faults against the right settings
    return PretrainRecipe if name in _method_classes(PretrainRecipe) or views else Recipe


def pretrains(tree: Any) -> bool:
    """Whether a plain tree, such as a checkpoint's, is a recipe of images: of an encoder or a generator."""
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
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping of keys to values, but this file holds {type(tree).__name__}."
        )
    return tree


def _apply(tree: dict[str, Any], override: str, path: Path, beside: Path | None) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise RecipeError(f"--set {override}: expected KEY=VALUE, for example --set train.steps=100.")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, _YamlFault, RecursionError) as error:
        raise RecipeError(f"--set {override}: the value is not valid YAML: {' '.join(str(error).split())}.") from None
    *parents, last = key.strip().split(".")
    if key.strip() in _PATHS and isinstance(value, str) and not Path(value).is_absolute():
        if beside is None:
            value = str(Path(value).absolute())
        else:  # the same in every clone, wherever the command is started
            value = Path(os.path.relpath(beside.parent / value, path.parent)).as_posix()
    branch = tree
    for parent in parents:
        branch = branch.setdefault(parent, {})
        if not isinstance(branch, dict):
            raise RecipeError(f"--set {override}: {parent!r} holds a value, not further keys.")
    branch[last] = value


def _method_classes(recipe: type[AnyRecipe]) -> dict[str, type[BaseModel]]:
    classes = settings_classes(recipe.model_fields["method"].annotation)
    return {str(name): each for each in classes for name in names_of(each)}


def _method_names() -> str:
    return ", ".join(repr(name) for kind in (Recipe, PretrainRecipe) for name in _method_classes(kind))
