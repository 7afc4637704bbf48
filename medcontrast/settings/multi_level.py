"""Settings of multi-level contrastive pre-training: levels, queue, mining."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medcontrast.settings.base import Settings, Weight


class NegativeMiningSettings(Settings):
    """Negatives that count: those with a similarity up to a pace, easy (unlike) ones first."""

    by: Literal["share", "cosine"] = "share"
    """share: the pace is a share of each query's negatives, the least similar ones; cosine: the largest similarity, and
    nothing counts until the encoder has spread out or the pace has reached it."""
    start: float = Field(default=0.5, ge=-1.0, le=1.0)
    """Pace at step 0; it rises in equal steps to 1, where all count."""
    ramp_up_steps: int = Field(default=1000, ge=0)

    @model_validator(mode="after")
    def _a_share(self) -> NegativeMiningSettings:
        if self.by == "share" and self.start <= 0.0:
            raise ValueError(f"start: a share of the negatives is above 0, but got {self.start:g}")
        return self


class QueryMiningSettings(Settings):
    """Queries that count: those with a loss below a pace, easy (low) ones first."""

    start: float = Field(gt=0.0)
    """Loss at epoch 0."""
    growth: float = Field(default=1.1, gt=1.0)
    """Factor on the pace after every epoch."""
    soft: bool = False
    """Queries count by 1 - loss / pace instead of 1."""


class MultiLevelSettings(Settings):
    """Multi-level contrast of lesion and healthy patches in two qualities (after CoMCL, Hou et al. 2024)."""

    name: Literal["multi_level"]
    temperature: float = Field(default=0.07, gt=0.0)
    ema_decay: float = Field(default=0.999, ge=0.0, le=1.0)
    embedding_channels: int = Field(default=128, ge=2)
    queue: int = Field(default=7200, ge=1)
    """Keys of past steps that are kept, of each quality."""
    high_weight: Weight = 1.0
    """Of lesion patches of high quality against healthy ones of high quality."""
    low_weight: Weight = 1.0
    """Of degraded lesion patches against degraded healthy ones."""
    cross_weight: Weight = 1.0
    """Of degraded lesion patches, with another, clean crop of the lesion as positive, against healthy ones."""
    cross_negatives: Literal["low", "both"] = "low"
    """low: healthy patches of the query's quality, so that quality tells nothing; both: clean ones too."""
    queued: Literal["healthy", "all"] = "healthy"
    """healthy: healthy patches alone are negatives; all: lesions too, as in MoCo."""
    queries: Literal["lesion", "all"] = "all"
    """all: healthy patches are told from each other too, without which an encoder with fresh weights ends in one point;
    lesion: lesion patches alone, as in the public code, which starts from pre-trained weights."""
    mine_negatives: NegativeMiningSettings | None = NegativeMiningSettings()
    """null: all count from the first step."""
    mine_queries: QueryMiningSettings | None = None
    """null: all count alike."""

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it learns from."""
        return ("query_high", "key_high", "query_low", "key_low")

    @model_validator(mode="after")
    def _some_level(self) -> MultiLevelSettings:
        if not (self.high_weight or self.low_weight or self.cross_weight):
            raise ValueError("one of high_weight, low_weight and cross_weight must be above 0")
        return self
