"""The networks of a prediction: one checkpoint each, all of them fit to work together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcontrast.checkpoint import header_recipe, load_hashed_weights, resolve_checkpoint, unusable_header
from medcontrast.errors import CheckpointError, InputError
from medcontrast.inference.device import Autocast, autocast_on
from medcontrast.inference.fused import fused
from medcontrast.labels import LabelTable
from medcontrast.networks.build import build_network
from medcontrast.networks.channels_last import lay_out_for
from medcontrast.settings import Recipe, require_segmentation


@dataclass(frozen=True)
class Member:
    """One trained network with all that is known about it.

    Attributes:
        network: In evaluation mode, on its device, rewritten for inference (`fused`).
        recipe: What it was trained by.
        labels: Its label table.
        channels: Names of its image channels.
        path: The checkpoint file.
        sha256: Of that file.
        header: The checkpoint's header.
        precision: What its forward passes compute in.
        autocast: Context of them.
    """

    network: nn.Module
    recipe: Recipe
    labels: LabelTable
    channels: tuple[str, ...]
    path: Path
    sha256: str
    header: dict[str, Any] = field(repr=False)
    precision: str = "float32"
    autocast: Autocast = field(default=nullcontext, repr=False)

    def to_json(self) -> dict[str, Any]:
        """What the record says of it; no folder of the training machine is named."""
        recipe = self.recipe.model_dump(mode="json")
        recipe["data"]["root"] = None
        recipe["data"]["manifest"] = Path(recipe["data"]["manifest"]).name
        if recipe["train"]["init_from"] is not None:
            recipe["train"]["init_from"] = Path(recipe["train"]["init_from"]).name
        return {
            "checkpoint": f"{self.path.absolute().parent.name}/{self.path.name}",
            "sha256": self.sha256,
            "network": self.header["network"],
            "step": self.header["step"],
            "recipe": recipe,
        }


def load_members(checkpoints: Sequence[Path], device: torch.device) -> tuple[Member, ...]:
    """Loads every checkpoint and checks that their outputs can be averaged.

    Args:
        checkpoints: Run folders or checkpoint files.
        device: Where the networks will compute.

    Raises:
        CheckpointError: One is missing, damaged or foreign; or two differ in labels, channels, spacing or intensity.
    """
    if not checkpoints:
        raise CheckpointError("No checkpoint is given; name a run folder or a checkpoint with --ckpt.")
    members = tuple(load_member(path, device) for path in checkpoints)
    for member in members[1:]:
        _require_alike(member, members[0])
    return members


def load_member(path: Path, device: torch.device) -> Member:
    """Loads one checkpoint.

    Raises:
        CheckpointError: Missing, damaged, foreign, or its parts do not fit together.
    """
    file = resolve_checkpoint(path)
    tensors, header, sha256 = load_hashed_weights(file)
    recipe = require_segmentation(header_recipe(header, file), where=str(file))
    try:
        labels = LabelTable.from_json(header["labels"], where=str(file))
        channels = tuple(str(channel) for channel in header["channels"])
        network = _network(recipe, len(channels), labels.classes)
    except (InputError, TypeError) as error:
        raise unusable_header(file, error) from None
    _load(network, tensors, file)
    network = lay_out_for(device, fused(network)).to(device)
    computing = autocast_on(device, recipe.train.precision)
    return Member(network, recipe, labels, channels, file, sha256, header, *computing)


def _network(recipe: Recipe, in_channels: int, classes: int) -> nn.Module:
    settings = recipe.network
    return build_network(
        settings.name,
        in_channels=in_channels,
        classes=classes,
        **settings.plain(),
    )


def _load(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    odd = [f"{name} is missing" for name in own if name not in tensors]
    odd += [f"{name} is unknown" for name in tensors if name not in own]
    odd += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if odd:
        more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise CheckpointError(f"{path}: its tensors do not fit the network of its own recipe: {odd[0]}{more}.")
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path}: {broken[0]} holds NaN or infinite weights; take an earlier checkpoint.")
    network.load_state_dict(tensors)


def _require_alike(member: Member, first: Member) -> None:
    ours, theirs = member.recipe.data, first.recipe.data
    pairs: dict[str, tuple[Any, Any]] = {
        "labels": (member.labels.values, first.labels.values),
        "label names": ([label.name for label in member.labels.labels], [label.name for label in first.labels.labels]),
        "channels": (list(member.channels), list(first.channels)),
        "spacing_mm": (ours.spacing_mm, theirs.spacing_mm),
        "intensity": (ours.intensity.model_dump(exclude_none=True), theirs.intensity.model_dump(exclude_none=True)),
    }
    for name, (mine, other) in pairs.items():
        if mine != other:
            raise CheckpointError(
                f"{member.path}: cannot be averaged with {first.path}: its {name} are {mine}, not {other}. "
                "Give checkpoints of one task and one preparation."
            )
