"""Steps, rows, optimiser, schedule; and how a trained network is run and scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medcontrast.settings.base import Settings, require_used
from medcontrast.settings.data import PatchSide


class OptimizerSettings(Settings):
    """SGD or AdamW."""

    name: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(default=0.002, gt=0.0, le=10.0)
    """Learning rate before the schedule's factor."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """sgd alone."""
    nesterov: bool = False
    """sgd alone."""

    @model_validator(mode="after")
    def _fits_the_name(self) -> OptimizerSettings:
        require_used(self, "name", {"momentum": ("sgd",), "nesterov": ("sgd",)})
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class ScheduleSettings(Settings):
    """Factor on the learning rate over the steps."""

    name: Literal["constant", "step", "poly", "cosine"] = "poly"
    power: float = Field(default=0.9, gt=0.0)
    """poly alone."""
    every: int = Field(default=2500, ge=1)
    """step alone: steps between two drops."""
    factor: float = Field(default=0.1, gt=0.0, le=1.0)
    """step alone: what the rate is multiplied by at each drop."""
    warm_up_steps: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_the_name(self) -> ScheduleSettings:
        require_used(self, "name", {"power": ("poly",), "every": ("step",), "factor": ("step",)})
        return self


Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


class LoopSettings(Settings):
    """What the loop does. Rows are those of one optimiser step over all devices and micro-batches together."""

    steps: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches a step is split into; must divide the rows. What compares rows (contrast, exchanged boxes) sees one
    micro-batch at a time, and micro-batches count alike however many of their rows are ignored altogether."""
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    clip_norm: float | None = Field(default=12.0, gt=0.0)
    """Largest norm of the gradient; null turns clipping off."""
    precision: Precision = "auto"
    """auto: bf16-mixed where the device computes in bfloat16, else 32-true."""
    save_every: int = Field(default=200, ge=1)
    """Steps between two writes of the resume checkpoint."""
    log_every: int = Field(default=20, ge=1)
    init_from: str | None = None
    """Another run folder or checkpoint, relative to the recipe file, to start from: its whole encoder or generator of
    images, or, of a segmentation, its tensors of the same name and shape."""

    @property
    def streams(self) -> dict[str, int]:
        """Rows of a step by the setting that says how many."""
        raise NotImplementedError


class TrainSettings(LoopSettings):
    """The loop of a segmentation method."""

    labeled_rows: int = Field(default=4, ge=1)
    unlabeled_rows: int = Field(default=0, ge=0)
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between two validations, which choose `best`; null keeps `last` alone."""

    @property
    def streams(self) -> dict[str, int]:
        return {"labeled_rows": self.labeled_rows, "unlabeled_rows": self.unlabeled_rows}


class PretrainSettings(LoopSettings):
    """The loop of a pre-training method."""

    rows: int = Field(default=256, ge=1)
    """Images of one step."""

    @property
    def streams(self) -> dict[str, int]:
        return {"rows": self.rows}


class InferenceSettings(Settings):
    """How a mask is made from a scan."""

    window: tuple[PatchSide, PatchSide, PatchSide] | None = None
    """Sliding window in voxels; null means the training patch. A larger one is faster, and cost Dice wherever it was
    measured, with batch norm too (docs/findings.md)."""
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Share by which neighbouring windows overlap."""
    weighting: Literal["gaussian", "uniform"] = "gaussian"
    window_batch: int = Field(default=4, ge=1)
    """Windows in one forward pass."""
    flips: bool = False
    """Average over the mirrored versions of each window, along augment.spatial.flip_axes: others were never learned."""
    network: Literal["teacher", "student"] = "teacher"
    """student where the method has no teacher."""
    largest_component: Literal["none", "each", "joint"] = "none"
    """Keep only the largest component: of each label, or of all labels joined."""


class EvaluationSettings(Settings):
    """How predictions are scored."""

    tolerance_mm: float = Field(default=1.0, gt=0.0)
    """Surface Dice counts surface within this distance as right."""
