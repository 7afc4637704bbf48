"""DINO: a student sees small and large crops and follows what its own average says of the large ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcontrast.batch import Batch, StepInfo
from medcontrast.distributed import mean_over_processes
from medcontrast.losses.self_distillation import moved_center, self_distillation
from medcontrast.methods.averaged import AveragedMethod
from medcontrast.methods.momentum import MakeEncoder, views_of
from medcontrast.networks.projection import PrototypeHead
from medcontrast.schedules import linear_pace
from medcontrast.settings.pretraining import DINOSettings

_GLOBAL = 2
"""Views that the teacher sees, the first ones."""


class DINO(AveragedMethod):
    """Cross-entropy of the student's soft-max over prototypes to the teacher's, over pairs of different views.

    The teacher's logits are centred by an average over past batches and sharpened by a lower temperature, which
    together keep its answers from being all alike. `teacher_entropy` and `center_norm` are logged to see that they do.

    Attributes:
        center: (k,), moved once a step, by the logits of all its micro-batches and processes.

    Paper: Caron 2021 (DINO), algorithm 1, section 3.1.
    Deviation: weight decay does not grow over the run, and there is no stochastic depth.
    """

    center: Tensor
    head: PrototypeHead

    def __init__(self, settings: DINOSettings, make_encoder: MakeEncoder) -> None:
        encoder = make_encoder()
        head = PrototypeHead(
            encoder.feature_channels, settings.hidden_channels, settings.bottleneck_channels, settings.prototypes
        )
        super().__init__(encoder, head, ema_decay=settings.ema_decay, rising=True)
        self.settings = settings
        self.register_buffer("center", torch.zeros(settings.prototypes))
        self._fresh: list[Tensor] = []

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The prototypes, which rest in the first epochs, and the rest."""
        prototypes = self.head.prototypes
        others = [each for each in self.parameters() if each.requires_grad and each is not prototypes]
        return {"network": others, "prototypes": [prototypes]}

    def rate(self, part: str, rate: float, info: StepInfo) -> float:
        return 0.0 if part == "prototypes" and info.epoch < self.settings.frozen_epochs else rate

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        settings = self.settings
        views = views_of(batch, settings.views, settings.name)
        # views of one size go through together
        student: list[Tensor] = []
        for group in (views[:_GLOBAL], views[_GLOBAL:]):
            if group:
                student += self.head(self.student(torch.cat(group))).chunk(len(group))
        teacher = self.averaged(torch.cat(views[:_GLOBAL]))
        temperature = linear_pace(
            info.step,
            settings.teacher_ramp_up_steps,
            start=settings.teacher_temperature_start,
            end=settings.teacher_temperature,
        )
        loss = self_distillation(
            student,
            teacher.chunk(_GLOBAL),
            self.center,
            student_temperature=settings.student_temperature,
            teacher_temperature=temperature,
        )
        if self.training:
            self._fresh.append(mean_over_processes(teacher.to(self.center.dtype).mean(0)))
        return {"loss": loss, **self._signs_of_collapse(teacher, temperature)}

    @torch.no_grad()
    def _signs_of_collapse(self, teacher: Tensor, temperature: float) -> dict[str, Tensor]:
        answers = torch.softmax((teacher.to(self.center.dtype) - self.center) / temperature, dim=-1)
        return {"teacher_entropy": torch.special.entr(answers).sum(-1).mean(), "center_norm": self.center.norm()}

    def after_step(self, info: StepInfo) -> None:
        """Moves the teacher and the centre."""
        super().after_step(info)
        if self._fresh:
            mean = torch.stack(self._fresh).mean(0)
            self.center.copy_(moved_center(self.center, mean, self.settings.center_momentum))
            self._fresh.clear()

    def inference_network(self) -> nn.Module:
        """The teacher's encoder, which the paper finds ahead of the student's."""
        encoder: nn.Module = self.momentum[0]
        return encoder
