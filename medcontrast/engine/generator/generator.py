"""A trained generator and what it makes of images: abduction, action, prediction.

Letters: b rows, c channels, x, y pixels, p numbers of the parents.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcontrast.checkpoint import header_recipe, load_weights, resolve_checkpoint
from medcontrast.data.images.parents import as_category, parent_rows
from medcontrast.data.images.sources import ImageCase
from medcontrast.engine.build import build_generator
from medcontrast.errors import CheckpointError, InputError
from medcontrast.networks.hvae import HVAE
from medcontrast.networks.parents import Parent
from medcontrast.networks.transfer import load_generator_tensors
from medcontrast.settings import PretrainRecipe

UNIFORM = "uniform"
"""Asks for every value but an image's own: a draw among these and the image itself is uniform over values."""
_FAR = 4.0
"""Standard deviations from the mean of the training images, where hardly one of them lies."""


@dataclass(frozen=True)
class Generator:
    """A trained generator, in evaluation mode on its device.

    Attributes:
        network: The averaged weights.
        recipe: What it was trained by.
        file: The checkpoint.
        step: Steps it was trained for.
        loaded: Tensors that were taken from the file: all of the network's.
        device: Where it computes.
    """

    network: HVAE
    recipe: PretrainRecipe
    file: Path
    step: int
    loaded: int
    device: torch.device

    @property
    def parents(self) -> tuple[Parent, ...]:
        """What its images depend on."""
        return self.network.parents.parents

    def numbers(self, cases: Sequence[ImageCase], classes: Sequence[str], *, where: str) -> Tensor:
        """The parents (b, p) of images, on the CPU.

        Args:
            cases: The images.
            classes: Names of the targets.
            where: Manifest and split, for messages.

        Raises:
            InputError: An image lacks a parent, or has a value that the generator does not know.
        """
        rows = parent_rows(self.parents, cases, classes)
        try:
            return self.network.parents.encode(rows)
        except InputError:
            for case, row in zip(cases, rows, strict=True):
                try:
                    self.network.parents.encode([row])
                except InputError as error:
                    raise InputError(f"{where}: image {case.name}: {error}") from None
            raise

    @torch.no_grad()
    def counterfactual(self, image: Tensor, numbers: Tensor, intervened: Tensor) -> Tensor:
        """Images (b, c, x, y) in 0..1 under other parents (b, p), on the CPU."""
        place = self.device
        return self.network.counterfactual(image.to(place), numbers.to(place), intervened.to(place)).cpu()

    @torch.no_grad()
    def reconstruction(self, image: Tensor, numbers: Tensor) -> Tensor:
        """What the latents explain of images (b, c, x, y): the likelihood's mean, without the residual."""
        numbers = numbers.to(self.device)
        noise = self.network.abduct(image.to(self.device), numbers)
        bare = noise._replace(residual=torch.zeros_like(noise.residual))
        return self.network.predict(bare, numbers).cpu()


def load_generator(checkpoint: Path, device: torch.device) -> Generator:
    """The generator of a run folder or checkpoint.

    Raises:
        CheckpointError: Missing, damaged, not a generator's, or of another architecture than its recipe says.
    """
    file = resolve_checkpoint(checkpoint)
    tensors, header = load_weights(file)
    recipe = header_recipe(header, file)
    if not isinstance(recipe, PretrainRecipe) or not recipe.generates:
        raise CheckpointError(
            f"{file}: was trained by method {recipe.method.name}, which makes no images; counterfactuals need a run of "
            "method hvae or hvae_finetune."
        )
    try:
        network = build_generator(recipe, header_parents(header))
    except (KeyError, TypeError, InputError) as error:
        raise CheckpointError(f"{file}: its parents are not those of its recipe ({error}).") from None
    loaded = load_generator_tensors(network, tensors, where=str(file))
    return Generator(network.to(device).eval(), recipe, file, int(header["step"]), loaded, device)


def header_parents(header: Mapping[str, Any]) -> tuple[Parent, ...]:
    """The parents that a generator's checkpoint was trained with.

    Raises:
        KeyError: It is not a generator's.
        TypeError: It is of another version.
    """
    return tuple(Parent(**{**each, "values": each["values"] and tuple(each["values"])}) for each in header["parents"])


@dataclass(frozen=True)
class Action:
    """One intervention: parents and the values they are given, a word of a category or a number."""

    values: Mapping[str, str | float]

    def on_numbers(self, generator: Generator, numbers: Tensor) -> Tensor:
        """Parents (b, p) after it."""
        out = numbers.clone()
        for name, value in self.values.items():
            single = generator.network.parents.find(name)
            columns = generator.network.parents.columns(name)
            if single.values is None:
                out[:, columns] = (float(value) - single.mean) / single.std
            else:
                out[:, columns] = torch.tensor([float(value == known) for known in single.values])
        return out

    def on_facts(self, case: ImageCase, classes: Sequence[str]) -> dict[str, Any]:
        """Fields of an image's case that it changes."""
        found: dict[str, Any] = {}
        attributes = dict(case.attributes)
        for name, value in self.values.items():
            if name == "domain":
                found["domain"] = str(value)
            elif name == "target":
                found["target"] = list(classes).index(str(value))
            else:
                attributes[name] = float(value)
        return {**found, "attributes": attributes}


def extrapolations(generator: Generator, wanted: Sequence[Action]) -> list[str]:
    """Warnings of numbers far from those of the training images, each once: images of them are extrapolations."""
    warnings = []
    for name, value in dict.fromkeys(pair for action in wanted for pair in action.values.items()):
        parent = generator.network.parents.find(name)
        if parent.values is None and abs(float(value) - parent.mean) > _FAR * parent.std:
            warnings.append(
                f"{name} {value:g} is {abs(float(value) - parent.mean) / parent.std:.1f} standard deviations from the "
                f"mean of the training images, {parent.mean:.3g}; what the generator shows there it has hardly seen."
            )
    return warnings


def actions(generator: Generator, domains: Sequence[str], values: Mapping[str, str]) -> tuple[Action, ...]:
    """The interventions that are asked for.

    Args:
        generator: Knows which parents and values there are.
        domains: Names of domains, or UNIFORM for every one; empty leaves the domain as it is.
        values: Of other parents, as they were typed; UNIFORM, of a category, is every value of it. Where several
            parents are changed, there is an intervention for every combination.

    Raises:
        InputError: An unknown parent or value, a number that is none, or nothing to do.
    """
    if "domain" in values:
        raise InputError("the domain is given by --domain, not by --set domain=...")
    asked = {name: [text] for name, text in values.items()} | ({"domain": list(domains)} if domains else {})
    if not asked:
        raise InputError("an intervention needs a domain or another parent: --domain, or --set NAME=VALUE.")
    find = generator.network.parents.find
    choices = [[(name, value) for value in _values(find(name), texts)] for name, texts in asked.items()]
    return tuple(Action(dict(chosen)) for chosen in itertools.product(*choices))


def _values(parent: Parent, texts: Sequence[str]) -> tuple[str | float, ...]:
    if UNIFORM in texts and parent.values is not None and UNIFORM not in parent.values:
        return parent.values
    return tuple(dict.fromkeys(_value(parent, text) for text in texts))


def _value(parent: Parent, text: str) -> str | float:
    if parent.values is not None:
        word = as_category(text)
        if word not in parent.values:
            raise InputError(f"{parent.name} {text}: the generator knows {', '.join(parent.values)}.")
        return word
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise InputError(f"{parent.name} {text}: the generator takes a number.")
    return value
