"""Pydantic's faults in words for people: the keys as they were written, and the nearest one to an unknown key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

_SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def sentences(
    error: ValidationError, where: str, settings: type[BaseModel], names: Mapping[str, str] | None = None
) -> str:
    """Every fault that pydantic found, one a line.

    Args:
        error: What it raised.
        where: File or place of the tree.
        settings: The class that it validated.
        names: Place -> the names to offer where a union stands whose members `settings` does not know all of.
    """
    faults = [_sentence(fault, settings, names or {}) for fault in error.errors(include_url=False)]
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return "\n".join([f"{count} in {where}:", *(f"  - {fault}" for fault in faults)])


def settings_classes(annotation: Any) -> list[type[BaseModel]]:
    """Every settings class that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in settings_classes(part)]


def names_of(model: type[BaseModel]) -> set[Any]:
    """The values of `name` or `kind` that choose this class among the members of a union."""
    return {
        value
        for name in ("name", "kind")
        if name in model.model_fields
        for value in get_args(model.model_fields[name].annotation)
    }


def _sentence(fault: Any, settings: type[BaseModel], names: Mapping[str, str]) -> str:
    keys, _ = _walk(fault["loc"], settings)
    place = ".".join(str(key) for key in keys)
    kind, value = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return f"{place}: unknown key{_nearest(fault['loc'], settings)}"
    if kind == "missing":
        return f"{place}: missing"
    if kind == "value_error":
        return f"{place}: {fault['ctx']['error']}" if place else str(fault["ctx"]["error"])
    if kind.startswith("union_tag"):
        key = fault["ctx"]["discriminator"].strip("'")
        known = names.get(place) or fault["ctx"].get("expected_tags", "those of the documentation")
        got = f"but got {value[key]!r}" if isinstance(value, dict) and key in value else "but there is none"
        return f"{place}.{key}: expected one of {known}, {got}"
    if place in names and kind == "dict_type":
        return f"{place}: expected a mapping with a name out of {names[place]}, but got {value!r}"
    if kind == "tuple_type":
        example = "[train.steps=1000]" if keys[-1:] == ["set"] else "[first, second]"
        return (
            f"{place}: expected a list such as {example}, but got {'{...}' if isinstance(value, dict) else repr(value)}"
        )
    if isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
        short = len(value.lower().partition("e")[2]) < 4  # such as e-07
        plain = f"{Decimal(value):f}" if short and abs(Decimal(value).adjusted()) < 20 else "it out in digits"
        return f"{place}: {value!r} is read as a word, not a number; write {plain}"
    shown = "{...}" if isinstance(value, dict) else repr(value)
    return f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}, but got {shown}"


def _nearest(location: Sequence[int | str], settings: type[BaseModel]) -> str:
    _, model = _walk(location[:-1], settings)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"


def _walk(location: Sequence[int | str], settings: type[BaseModel]) -> tuple[list[int | str], Any]:
    """Follows pydantic's place of a fault through the annotations of the settings.

    Returns:
        The keys and indices alone, without pydantic's name of the chosen member that follows every union; and the
        annotation of what lies there, None where it is not known.
    """
    keys: list[int | str] = []
    here: Any = settings
    rest = list(location)
    while rest:
        keys.append(rest.pop(0))
        members = _members(_below(here, keys[-1]))
        if len(members) > 1 and rest:
            tag = rest.pop(0)
            members = [each for each in members if tag in _tags(each)]
        here = members[0] if len(members) == 1 else None
    return keys, here


def _below(annotation: Any, key: int | str) -> Any:
    """The annotation of what `key` leads to."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(key))
        return None if field is None else field.annotation
    parts = get_args(annotation)
    if get_origin(annotation) is dict:
        return parts[1]
    if get_origin(annotation) is tuple and isinstance(key, int):
        return parts[0] if parts[-1] is Ellipsis else parts[min(key, len(parts) - 1)]
    return None


def _members(annotation: Any) -> list[Any]:
    """The members of a union but None; the annotation itself where it is none."""
    if annotation is None or annotation is NoneType:
        return []
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [found for part in get_args(annotation) for found in _members(part)]
    return [annotation]


def _tags(annotation: Any) -> set[Any]:
    return names_of(annotation) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else set()
