"""Settings of every method, one class each; `name` in a recipe chooses among them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from medcontrast.settings.base import Decay, Settings, Weight, require_used


class SegmentationLossSettings(Settings):
    """Dice and cross-entropy on labeled rows."""

    dice_weight: Weight = 1.0
    cross_entropy_weight: Weight = 1.0
    include_background: bool = False
    """Whether Dice counts the background class too."""

    @model_validator(mode="after")
    def _weighs_something(self) -> SegmentationLossSettings:
        if not self.dice_weight and not self.cross_entropy_weight:
            raise ValueError("dice_weight and cross_entropy_weight are both 0, so that labels teach nothing")
        return self


class SupervisedSettings(Settings):
    """Labeled rows alone."""

    name: Literal["supervised"]
    segmentation: SegmentationLossSettings = SegmentationLossSettings()


class MeanTeacherSettings(Settings):
    """Mean teacher (Tarvainen and Valpola 2017)."""

    name: Literal["mean_teacher"]
    segmentation: SegmentationLossSettings = SegmentationLossSettings()
    ema_decay: Decay = 0.99
    consistency_weight: Weight = 0.1
    """Of the squared difference between student and teacher soft-max; after the ramp-up."""
    ramp_up_steps: int = Field(default=400, ge=0)


class ConsistencySettings(Settings):
    """What the teacher teaches on unlabeled rows."""

    weight: Weight = 1.0
    """After the ramp-up."""
    ramp_up_steps: int = Field(default=300, ge=0)
    perturbation: Literal["noise", "copy_paste"] = "copy_paste"
    """noise: the strong view alone; copy_paste: some unlabeled rows take a box of another row too, or all of it but a
    box."""
    paste_from: Literal["labeled", "unlabeled"] = "labeled"
    """Whose box: a labeled row's with its labels, or another unlabeled row's with the teacher's answer (copy_paste)."""
    paste_fraction: float = Field(default=0.667, gt=0.0, lt=1.0)
    """Side of the exchanged box as a share of the patch's side (copy_paste)."""
    paste_probability: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of unlabeled rows that exchange a box (copy_paste); the others keep to the strong view."""
    target: Literal["soft", "hard"] = "hard"
    """soft: squared difference to the sharpened teacher; hard: Dice and cross-entropy to its arg-max."""
    temperature: float = Field(default=0.5, gt=0.0, le=1.0)
    """Sharpening of soft targets; 1 leaves them."""
    weigh_by_confidence: bool = False
    """The teacher's voxels count by its certainty, 1 - entropy / ln(classes); pasted labels count fully."""
    mutual_weight: Weight = 1.0
    """With network.decoders 2 or 3: of the squared differences between the student's decoders; ramped up too."""
    mutual_temperature: float = Field(default=0.1, gt=0.0, le=1.0)
    """With several decoders: sharpening of the decoder that is learned from."""

    @model_validator(mode="after")
    def _fits_the_choices(self) -> ConsistencySettings:
        require_used(
            self, "perturbation", dict.fromkeys(("paste_from", "paste_fraction", "paste_probability"), ("copy_paste",))
        )
        require_used(self, "target", {"temperature": ("soft",)})
        return self


class ContrastSettings(Settings):
    """Foreground and background embeddings, pulled together among themselves and pushed apart."""

    weight: Weight = 0.02
    """Of pull(foreground) + pull(background) + push; after the ramp-up. 0 leaves the terms out."""
    ramp_up_steps: int = Field(default=300, ge=0)
    embedding_channels: int = Field(default=64, ge=2)
    pooled: Literal["features", "logits"] = "features"
    """What the head averages inside and outside of the maps: the last decoder features, or the logits they give."""
    region: int = Field(default=4, ge=0, le=64)
    """Side in voxels of the cells whose insides and outsides are embedded, along class borders; must divide the
    patch. 0 embeds whole patches, one foreground and one background a row, which the head alone tells apart. A cell of
    one voxel cannot hold both."""
    regions: int = Field(default=256, ge=2)
    """Most cells of a class in one micro-batch (train.accumulate); chosen evenly where there are more."""
    weigh_by_confidence: bool = False
    """Voxels of unlabeled rows count by the teacher's certainty, 1 - entropy / ln(classes), when they are pooled."""
    pull_rank_decay: float = Field(default=0.0, ge=0.0)
    """0 weighs all pairs alike; the paper's 0.25 is for a handful of pairs."""
    push_rank_decay: float = Field(default=0.0, ge=0.0)
    """The paper: 2.5."""
    memory: int = Field(default=256, ge=0)
    """Embeddings of labeled rows of past steps that are references too, for each class and kind; 0 keeps none."""

    @field_validator("region")
    @classmethod
    def _holds_both_kinds(cls, region: int) -> int:
        if region == 1:
            raise ValueError("must be 0, or 2 or more: a cell of one voxel cannot hold a foreground and a background")
        return region


class UAMTSettings(Settings):
    """Uncertainty-aware mean teacher (Yu et al. 2019)."""

    name: Literal["ua_mt"]
    segmentation: SegmentationLossSettings = SegmentationLossSettings()
    ema_decay: Decay = 0.99
    consistency_weight: Weight = 0.1
    """Of the squared difference to the teacher where it is certain; after the ramp-up."""
    ramp_up_steps: int = Field(default=400, ge=0)
    passes: int = Field(default=8, ge=2)
    """Stochastic passes of the teacher whose mean gives the uncertainty."""
    noise_std: float = Field(default=0.1, gt=0.0)
    """Of the noise on each pass, in units of the normalised image; it is cut at twice this."""
    threshold_start: float = Field(default=0.75, gt=0.0, le=1.0)
    """Voxels count whose entropy is below this share of ln(classes); the share ramps up to 1 over the whole run."""


class CPSSettings(Settings):
    """Cross pseudo supervision (Chen et al. 2021): two networks teach each other."""

    name: Literal["cps"]
    segmentation: SegmentationLossSettings = SegmentationLossSettings()
    consistency_weight: Weight = 0.1
    """Of each network's loss to the other's hard prediction; after the ramp-up."""
    ramp_up_steps: int = Field(default=400, ge=0)


class MCNetSettings(Settings):
    """Mutual consistency of several decoders (MC-Net+, Wu et al. 2022); needs network.decoders 2 or 3."""

    name: Literal["mc_net"]
    segmentation: SegmentationLossSettings = SegmentationLossSettings()
    consistency_weight: Weight = 1.0
    """Of the squared differences between decoders, summed over ordered pairs; after the ramp-up."""
    ramp_up_steps: int = Field(default=400, ge=0)
    temperature: float = Field(default=0.1, gt=0.0, le=1.0)
    """Sharpening of the decoder that is learned from."""


class BCPSettings(Settings):
    """Bidirectional copy-paste (Bai et al. 2023) with a mean teacher."""

    name: Literal["bcp"]
    segmentation: SegmentationLossSettings = SegmentationLossSettings()
    ema_decay: Decay = 0.99
    unlabeled_weight: Weight = 0.5
    """Of the voxels that the teacher labels, beside 1 for those with a label."""
    paste_fraction: float = Field(default=0.667, gt=0.0, lt=1.0)
    """Side of the exchanged box as a share of the patch's side."""
    pretrain_steps: int = Field(default=120, ge=0)
    """First steps, in which labeled rows exchange boxes among themselves and the teacher teaches nothing."""
    largest_component: Literal["none", "each", "joint"] = "each"
    """What is kept of the teacher's labels: the largest piece of each class, or of all joined."""


class FBANetSettings(Settings):
    """FBA-Net in its default form: mean teacher with foreground/background heads on decoder features."""

    name: Literal["fba_net"]
    segmentation: SegmentationLossSettings = SegmentationLossSettings()
    ema_decay: Decay = 0.99
    consistency: ConsistencySettings = ConsistencySettings()
    contrast: ContrastSettings = ContrastSettings()


class FBALegacySettings(Settings):
    """The form of FBA-Net's public code: several decoders, heads on logits, no teacher."""

    name: Literal["fba_legacy"]
    patch: tuple[int, int, int]
    """Must be the recipe's data.patch: the heads' first layer is tied to it."""
    dice_weight: Weight = 0.5
    consistency_weight: Weight = 1.0
    temperature: float = Field(default=0.1, gt=0.0, le=1.0)
    ramp_up_steps: int = Field(default=6000, ge=0)
    ramp_hold_steps: int = Field(default=150, ge=1)
    contrast_weight: Weight = 1.0
    embedding_channels: int = Field(default=128, ge=2)
    pull_rank_decay: float = Field(default=0.25, ge=0.0)
    push_rank_decay: float = Field(default=2.5, ge=0.0)


MethodSettings = Annotated[
    SupervisedSettings
    | MeanTeacherSettings
    | UAMTSettings
    | CPSSettings
    | MCNetSettings
    | BCPSettings
    | FBANetSettings
    | FBALegacySettings,
    Field(discriminator="name"),
]
