"""Settings of every pre-training method, one class each; `name` in a recipe chooses among them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medcontrast.settings.base import Settings
from medcontrast.settings.generator import HVAESettings
from medcontrast.settings.multi_level import MultiLevelSettings

Decay = Annotated[float, Field(ge=0.0, le=1.0)]
Temperature = Annotated[float, Field(gt=0.0)]
Channels = Annotated[int, Field(ge=2)]


class SimCLRSettings(Settings):
    """SimCLR (Chen et al. 2020): two views of an image against all other views of the batch."""

    name: Literal["simclr"]
    temperature: Temperature = 0.2
    embedding_channels: Channels = 128
    """Of the head, two layers deep, that only pre-training has."""

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it learns from."""
        return ("first", "second")


class MoCoSettings(Settings):
    """MoCo v2 (Chen et al. 2020): one crop against another's key and a queue of past keys."""

    name: Literal["moco_v2"]
    temperature: Temperature = 0.2
    ema_decay: Decay = 0.999
    """Of the momentum encoder; the same from the first step on."""
    embedding_channels: Channels = 128
    queue: int = Field(default=65536, ge=1)
    """Keys of past steps that are kept."""

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it learns from."""
        return ("query", "key")


class LeOCLRSettings(Settings):
    """LeOCLR (Alkhalefi et al. 2024): the original image and two crops of it, on MoCo v2.

    With a random crop as its anchor it is MoCo v2 with two keys, the control that its paper lacks.
    """

    name: Literal["leoclr"]
    temperature: Temperature = 0.2
    ema_decay: Decay = 0.999
    embedding_channels: Channels = 128
    queue: int = Field(default=65536, ge=1)
    roles: Literal["anchor_query", "crops_query"] = "anchor_query"
    """anchor_query: the original is the query, the crops are keys (the paper's); crops_query: the other way round."""
    reduction: Literal["sum", "mean"] = "mean"
    """Of the two terms; the paper's sum doubles the gradient against MoCo's at one learning rate."""
    enqueue: Literal["first", "both"] = "first"
    """anchor_query alone: whose keys go into the queue, the first crop's or both crops'."""

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it learns from."""
        return ("anchor", "first", "second")


PretrainMethodSettings = Annotated[
    SimCLRSettings | MoCoSettings | LeOCLRSettings | MultiLevelSettings | HVAESettings,
    Field(discriminator="name"),
]
