"""The contract between data and methods: what a training batch holds.

Letters: b rows, c channels, x, y, z voxels; images of two dimensions have no z.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

if TYPE_CHECKING:  # this floor stays free of torch
    from torch import Tensor

ON_CPU = ("index", "labeled")
"""These stay on the CPU whatever the device: draws are made there by the row's number, and a mask takes its rows."""


class Batch(TypedDict):
    """Rows of a step; labeled rows come first.

    Attributes:
        image: (b, c, x, y, z) float32, after the deterministic transforms and the crop, which is larger than the
            patch where views look beyond it; (b, c, x, y) in 0..1 where images train.
        case: Case names, one a row.
        index: (b,) int64, the row's place in the step, the same whatever the number of processes; on the CPU.
        label: (b, 1, x, y, z) int64 class indices; -1 where ignored, and everywhere in an unlabeled row. Of volumes, as
            the next two.
        labeled: (b,) bool; on the CPU, as `index`.
        spacing_mm: (b, 3) float32.
        target: (b,) int64 class of the whole image, -1 where it has none. Of images, as the next one.
        quality: (b,) int64, 1 for images that are of low quality as they are, else 0.
        partner: As `image`: one drawn from the row's image and its counterfactuals. Where a view asks for it.
        lesion_box: (b, 4) float32, what a row's patches are taken around: top, left, bottom, right in shares of the
            image's sides; NaN where it has no lesion box. Where a view's crop asks for it.
        attributes: (b, p) float32, the parents of each image as a generator's numbers. Where a generator trains.
        views: Versions of `image` made on the device; those of volumes have the patch's sides and share one geometry,
            and `label` is in it too.
    """

    image: Tensor
    case: list[str]
    index: Tensor
    label: NotRequired[Tensor]
    labeled: NotRequired[Tensor]
    spacing_mm: NotRequired[Tensor]
    target: NotRequired[Tensor]
    quality: NotRequired[Tensor]
    partner: NotRequired[Tensor]
    lesion_box: NotRequired[Tensor]
    attributes: NotRequired[Tensor]
    views: NotRequired[dict[str, Tensor]]


class StepInfo(NamedTuple):
    """Where training stands.

    Attributes:
        step: Optimiser steps done before this one, from 0.
        total: Steps of the whole run.
        epoch: Passes over the labeled cases done so far.
        seed: The run's seed; with step and row it decides every random draw.
    """

    step: int
    total: int
    epoch: int = 0
    seed: int = 0
