"""Cross pseudo supervision: two networks that begin differently teach each other."""

from __future__ import annotations

from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.methods.base import MakeNetwork, Method, strong_and_weak, supervised_loss
from medcontrast.schedules import gaussian_ramp_up
from medcontrast.settings.methods import CPSSettings


class CPS(Method):
    """Supervised loss of both networks, and each one's loss to the other's arg-max on unlabeled rows.

    The first network, `student`, predicts. `train.init_from` fills it alone: two equal networks would stay equal.

    Paper: Chen et al. 2021, "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", section 3.
    Deviation: Pseudo-labels on unlabeled rows alone (labeled rows have labels), and Dice beside the cross-entropy, as
        in the supervised half.
    """

    def __init__(self, settings: CPSSettings, make_network: MakeNetwork) -> None:
        super().__init__()
        self.settings = settings
        self.student = make_network()
        self.partner = make_network()

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        settings, labeled = self.settings, batch["labeled"]
        strong, _ = strong_and_weak(batch)
        first, second = self.student(strong).logits, self.partner(strong).logits
        label = batch["label"][labeled]
        supervised = supervised_loss(first[labeled], label, settings.segmentation) + supervised_loss(
            second[labeled], label, settings.segmentation
        )
        consistency = self._learn_from(first[~labeled], second[~labeled]) + self._learn_from(
            second[~labeled], first[~labeled]
        )
        weight = settings.consistency_weight * gaussian_ramp_up(info.step, settings.ramp_up_steps)
        return {"loss": supervised + weight * consistency, "supervised": supervised, "consistency": consistency}

    def _learn_from(self, logits: Tensor, other: Tensor) -> Tensor:
        return supervised_loss(logits, other.detach().argmax(dim=1, keepdim=True), self.settings.segmentation)
