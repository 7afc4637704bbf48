"""Parents of an image in a causal model: its attributes as numbers, and as one vector for every layer.

Letters: b rows, p numbers, d channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medcontrast.errors import InputError


class Parent(NamedTuple):
    """One attribute that an image depends on.

    Attributes:
        name: As the manifest has it.
        values: What a categorical attribute can be, in the order of its one-hot code; None where it is a number.
        mean: Of a number: taken off.
        std: Of a number: divided by.
    """

    name: str
    values: tuple[str, ...] | None = None
    mean: float = 0.0
    std: float = 1.0

    @property
    def width(self) -> int:
        """How many numbers stand for it."""
        return 1 if self.values is None else len(self.values)


class Parents(nn.Module):
    """Turns attributes into numbers (`encode`) and numbers into one vector for every layer (`forward`).

    A categorical attribute becomes its one-hot code, a number (value - mean) / std; then two layers with SiLU.

    Paper: De Sousa Ribeiro 2023, section 4: an image's mechanism takes its parents at every layer.
    """

    def __init__(self, parents: Sequence[Parent], channels: int = 32) -> None:
        """Builds the layers.

        Args:
            parents: At least one, each name once.
            channels: d.

        Raises:
            InputError: None, or a name twice.
        """
        super().__init__()
        names = [parent.name for parent in parents]
        if not names or len(set(names)) != len(names):
            raise InputError(f"a generator needs at least one parent and each of them once, but got {names}.")
        self.parents = tuple(parents)
        self.width = sum(parent.width for parent in self.parents)
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Linear(self.width, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU()
        )

    def forward(self, numbers: Tensor) -> Tensor:
        """(b, p) as (b, d).

        Raises:
            InputError: Another number of columns.
        """
        if numbers.ndim != 2 or numbers.shape[1] != self.width:
            raise InputError(f"the parents take {self.width} numbers a row, but got shape {tuple(numbers.shape)}.")
        vector: Tensor = self.layers(numbers)
        return vector

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """Attributes of b rows as (b, p) float32.

        Raises:
            InputError: An attribute is missing, not a number, or has a value that is not in its list.
        """
        return torch.tensor([[number for parent in self.parents for number in _numbers(parent, row)] for row in rows])

    def find(self, name: str) -> Parent:
        """The parent of that name.

        Raises:
            InputError: There is none.
        """
        for parent in self.parents:
            if parent.name == name:
                return parent
        known = ", ".join(parent.name for parent in self.parents)
        raise InputError(f"The generator has no parent {name!r}; its parents are {known}.")

    def columns(self, name: str) -> slice:
        """Where a parent's numbers stand in a row of `encode`."""
        start = 0
        for parent in self.parents:
            if parent is self.find(name):
                break
            start += parent.width
        return slice(start, start + self.find(name).width)


def _numbers(parent: Parent, row: Mapping[str, Any]) -> list[float]:
    value = row.get(parent.name)
    if value is None:
        raise InputError(f"attribute {parent.name} is missing; the case has {', '.join(row) or 'none'}.")
    if parent.values is not None:
        if str(value) not in parent.values:
            raise InputError(f"{parent.name} is {value!r}, but the generator knows {', '.join(parent.values)}.")
        return [float(str(value) == known) for known in parent.values]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"attribute {parent.name} is {value!r}, but the generator takes a number.")
    return [(float(value) - parent.mean) / parent.std]
