"""MC-Net: decoders that go up differently learn from each other's sharpened answers."""

from __future__ import annotations

import torch
from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.losses.consistency import mutual_consistency
from medcontrast.methods.base import MakeNetwork, Method, strong_and_weak, supervised_loss
from medcontrast.schedules import gaussian_ramp_up
from medcontrast.settings.methods import MCNetSettings


class MCNet(Method):
    """Supervised loss averaged over decoders, and squared differences between decoders on all rows.

    Paper: Wu et al. 2022, "Mutual consistency learning for semi-supervised medical image segmentation" (MC-Net+).
    Deviation: Dice and cross-entropy, averaged over decoders, so that the supervised half weighs as in the other
        methods; the paper has 0.5 of the sum of Dice. The ramp-up is the recipe's.
    """

    def __init__(self, settings: MCNetSettings, make_network: MakeNetwork) -> None:
        super().__init__()
        self.settings = settings
        self.student = make_network()

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        settings, labeled = self.settings, batch["labeled"]
        strong, _ = strong_and_weak(batch)
        logits = [output.logits for output in self.student.decode_all(strong)]  # type: ignore[operator]
        label = batch["label"][labeled]
        supervised = torch.stack(
            [supervised_loss(each[labeled], label, settings.segmentation) for each in logits]
        ).mean()
        consistency = mutual_consistency(logits, settings.temperature)
        weight = settings.consistency_weight * gaussian_ramp_up(info.step, settings.ramp_up_steps)
        return {"loss": supervised + weight * consistency, "supervised": supervised, "consistency": consistency}
