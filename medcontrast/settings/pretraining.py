"""Settings of every pre-training method, one class each; `name` in a recipe chooses among them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medcontrast.settings.base import Decay, Settings, require_used
from medcontrast.settings.generator import HVAEFinetuneSettings, HVAESettings
from medcontrast.settings.multi_level import MultiLevelSettings

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
    """Of the two terms; the sum doubles the gradient against MoCo's at one learning rate."""
    enqueue: Literal["first", "both"] = "first"
    """anchor_query alone: whose keys go into the queue, the first crop's or both crops'."""

    @model_validator(mode="after")
    def _fits_the_roles(self) -> LeOCLRSettings:
        require_used(self, "roles", {"enqueue": ("anchor_query",)})
        return self

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it learns from."""
        return ("anchor", "first", "second")


class MoCoV3Settings(Settings):
    """MoCo v3 (Chen et al. 2021): two views find each other's keys among those of the batch; no queue."""

    name: Literal["moco_v3"]
    temperature: Temperature = 0.2
    ema_decay: Decay = 0.99
    """Of the momentum encoder at the first step; it goes to 1 along half a cosine."""
    embedding_channels: Channels = 256
    hidden_channels: Channels = 4096
    """Of the head and of the prediction head."""
    freeze_patches: bool = False
    """Network vit: the embedding of patches stays the random projection that it is, against unstable steps."""

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it learns from."""
        return ("first", "second")


class DINOSettings(Settings):
    """DINO (Caron et al. 2021): a student follows its own average over prototypes; no negatives."""

    name: Literal["dino"]
    local_views: int = Field(default=8, ge=0, le=16)
    """Small crops that the student alone sees, as augment.views.local_1, local_2, ..."""
    prototypes: Channels = 65536
    hidden_channels: Channels = 2048
    bottleneck_channels: Channels = 256
    """Of what is compared with the prototypes."""
    student_temperature: Temperature = 0.1
    teacher_temperature_start: Temperature = 0.04
    teacher_temperature: Temperature = 0.04
    """Reached after teacher_ramp_up_steps, along a line."""
    teacher_ramp_up_steps: int = Field(default=0, ge=0)
    center_momentum: Decay = 0.9
    ema_decay: Decay = 0.996
    """Of the teacher at the first step; it goes to 1 along half a cosine."""
    frozen_epochs: int = Field(default=1, ge=0)
    """First epochs in which the prototypes do not move."""

    @model_validator(mode="after")
    def _ramp(self) -> DINOSettings:
        default = type(self).model_fields["teacher_temperature_start"].default
        if not self.teacher_ramp_up_steps and self.teacher_temperature_start not in (default, self.teacher_temperature):
            raise ValueError("teacher_temperature_start does nothing without teacher_ramp_up_steps")
        return self

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it learns from; the teacher sees the first two."""
        return ("global_first", "global_second", *(f"local_{number + 1}" for number in range(self.local_views)))


PretrainMethodSettings = Annotated[
    SimCLRSettings
    | MoCoSettings
    | MoCoV3Settings
    | DINOSettings
    | LeOCLRSettings
    | MultiLevelSettings
    | HVAESettings
    | HVAEFinetuneSettings,
    Field(discriminator="name"),
]
