"""Supervised training on the labeled rows: the baseline that every other method must beat."""

from __future__ import annotations

from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.methods.base import MakeNetwork, Method, strong_and_weak, supervised_loss
from medcontrast.settings.methods import SupervisedSettings


class Supervised(Method):
    """Dice and cross-entropy on the strong view of labeled rows."""

    def __init__(self, settings: SupervisedSettings, make_network: MakeNetwork) -> None:
        super().__init__()
        self.settings = settings
        self.student = make_network()

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        strong, _ = strong_and_weak(batch)
        labeled = batch["labeled"]
        loss = supervised_loss(
            self.student(strong[labeled]).logits, batch["label"][labeled], self.settings.segmentation
        )
        return {"loss": loss}
