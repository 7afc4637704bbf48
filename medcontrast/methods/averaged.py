"""What the pre-training methods with a momentum encoder share: an average of the student's past weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcontrast.batch import StepInfo
from medcontrast.methods.base import Method
from medcontrast.networks.ema import make_teacher, update_teacher
from medcontrast.networks.encoders2d import Encoder
from medcontrast.schedules import cosine_to_one


class AveragedMethod(Method):
    """A student with its head, and an average of both that no gradient reaches.

    The average runs in the student's mode, so that batch normalisation, where there is any, takes the statistics of its
    own batch and keeps its own running ones.

    Attributes:
        student: The encoder that is trained.
        head: Its projection.
        momentum: Averages of both.

    Paper: He 2020 (MoCo), section 3.2, for a decay that stays; Grill 2020 (BYOL), section 3.2, for one that rises from
        its start to 1 along half a cosine.
    """

    student: Encoder

    def __init__(self, encoder: Encoder, head: nn.Module, *, ema_decay: float, rising: bool) -> None:
        """Copies encoder and head.

        Args:
            encoder: The student.
            head: Its projection.
            ema_decay: Of the average, at the first step.
            rising: Whether it goes to 1 over the run.
        """
        super().__init__()
        self.student, self.head = encoder, head
        self.momentum = make_teacher(nn.ModuleList([encoder, head]))
        self.ema_decay, self.rising = ema_decay, rising

    def after_step(self, info: StepInfo) -> None:
        """Moves the average."""
        decay = cosine_to_one(info.step, info.total, start=self.ema_decay) if self.rising else self.ema_decay
        update_teacher(self.momentum, nn.ModuleList([self.student, self.head]), decay, None, buffers="own")

    def load_student(self, tensors: dict[str, Tensor]) -> int:
        loaded = super().load_student(tensors)
        self.momentum[0].load_state_dict(self.student.state_dict())
        return loaded

    @torch.no_grad()
    def averaged(self, image: Tensor) -> Tensor:
        """What the average makes of images (b, c, x, y), without gradient."""
        encoder, head = self.momentum
        out: Tensor = head(encoder(image))
        return out
