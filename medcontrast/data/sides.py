"""Structures of the left and of the right, told apart by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations

LEFT_RIGHT_AXIS = 0
"""Of a patch: scans are turned so that x runs to the right."""
_LEFT = re.compile(r"left|link(s|e[mnrs]?)|gauche|izquierd[ao]|sinistr[aeio]")
_RIGHT = re.compile(r"right|recht(s|e[mnrs]?)|droite?|derech[ao]|destr[aeio]")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a word ends in kidneyLeft and in LKidney."""


def names_a_side(names: Sequence[str]) -> bool:
    """Whether a name says left or right, or two names differ in a side alone."""
    words = [word for name in names for word in _words(name)]
    return any(side.fullmatch(word) for word in words for side in (_LEFT, _RIGHT)) or sided_pair(names) is not None


def sided_pair(names: Sequence[str]) -> tuple[str, str] | None:
    """Two names that differ in nothing but their side, the left one first.

    A side is a word (left, rechte), or a word's first letter (L and R, lh and rh, LV and RV).
    """
    words = {name: _words(name) for name in names}
    for left, right in permutations(names, 2):
        if len(words[left]) != len(words[right]):
            continue
        other = [pair for pair in zip(words[left], words[right], strict=True) if pair[0] != pair[1]]
        if len(other) == 1 and _are_sides(*other[0]):
            return left, right
    return None


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", _HUMP.sub(" ", name).casefold())


def _are_sides(left: str, right: str) -> bool:
    if _LEFT.fullmatch(left) and _RIGHT.fullmatch(right):
        return True
    return left[0] == "l" and right[0] == "r" and left[1:] == right[1:]
