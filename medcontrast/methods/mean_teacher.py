"""Mean teacher: the student agrees with an average of its own past on unlabeled scans."""

from __future__ import annotations

import torch
from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.losses.consistency import mse_consistency
from medcontrast.methods.base import MakeNetwork, TeacherMethod, strong_and_weak, supervised_loss
from medcontrast.schedules import gaussian_ramp_up
from medcontrast.settings.methods import MeanTeacherSettings


class MeanTeacher(TeacherMethod):
    """Supervised loss on labeled rows, squared difference to the teacher on unlabeled rows.

    Paper: Tarvainen and Valpola 2017, "Mean teachers are better role models", section 3.
    Deviation: The consistency is taken on unlabeled rows alone, as the left-atrium line of papers does; the
        perturbation is the recipe's strong view (student) against its weak view (teacher).
    """

    def __init__(self, settings: MeanTeacherSettings, make_network: MakeNetwork) -> None:
        super().__init__(make_network, settings.ema_decay)
        self.settings = settings

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        strong, weak = strong_and_weak(batch)
        labeled = batch["labeled"]
        logits = self.student(strong).logits
        with torch.no_grad():
            target = self.teacher(weak[~labeled]).logits.float().softmax(dim=1)
        supervised = supervised_loss(logits[labeled], batch["label"][labeled], self.settings.segmentation)
        consistency = mse_consistency(logits[~labeled], target)
        weight = self.settings.consistency_weight * gaussian_ramp_up(info.step, self.settings.ramp_up_steps)
        return {"loss": supervised + weight * consistency, "supervised": supervised, "consistency": consistency}
