"""What every method is: networks and losses, and what one step means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from medcontrast.batch import Batch, StepInfo
from medcontrast.distributed import gather, rank, share_of_mean, world_size
from medcontrast.labels import is_known
from medcontrast.losses.segmentation import dice_cross_entropy
from medcontrast.networks.ema import make_teacher, update_teacher
from medcontrast.settings.methods import SegmentationLossSettings

MakeNetwork = Callable[[], nn.Module]


class Method(nn.Module, ABC):
    """Owns every trained network and every loss; all a resume needs is in its state_dict.

    Attributes:
        student: The network that the optimiser trains.
    """

    student: nn.Module

    @abstractmethod
    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        """Named scalar terms of one micro-batch, `loss` (what is minimised) among them."""

    def after_step(self, info: StepInfo) -> None:
        """Called once per optimiser step, never per micro-batch."""

    def inference_network(self) -> nn.Module:
        """The network a user should predict with: the teacher where there is one."""
        return self.student

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What the optimiser trains, by parts that learn at rates of their own; by default one part."""
        return {"all": [parameter for parameter in self.parameters() if parameter.requires_grad]}

    def rate(self, part: str, rate: float, info: StepInfo) -> float:
        """A part's learning rate in this step; at 0 it rests, and nothing moves it. By default the recipe's `rate`."""
        return rate

    def load_student(self, tensors: dict[str, Tensor]) -> int:
        """Takes over tensors whose name and shape fit the student; returns how many."""
        own = self.student.state_dict()
        fitting = {name: value for name, value in tensors.items() if name in own and own[name].shape == value.shape}
        self.student.load_state_dict(fitting, strict=False)
        return len(fitting)


class TeacherMethod(Method):
    """A method with an exponential-moving-average teacher.

    The teacher runs in evaluation mode throughout: no dropout, and batch norm (where a network has it) by the
    running statistics, which are copied from the student after every step.
    """

    def __init__(self, make_network: MakeNetwork, ema_decay: float) -> None:
        super().__init__()
        self.student = make_network()
        self.teacher = make_teacher(self.student).eval()
        self.ema_decay = ema_decay

    def train(self, mode: bool = True) -> TeacherMethod:
        """Sets the mode of everything but the teacher, which stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def after_step(self, info: StepInfo) -> None:
        update_teacher(self.teacher, self.student, self.ema_decay, info.step)

    def inference_network(self) -> nn.Module:
        return self.teacher

    def load_student(self, tensors: dict[str, Tensor]) -> int:
        loaded = super().load_student(tensors)
        self.teacher.load_state_dict(self.student.state_dict())
        return loaded


def supervised_loss(
    logits: Tensor, label: Tensor, settings: SegmentationLossSettings, where: Tensor | None = None
) -> Tensor:
    """Dice and cross-entropy of labeled rows; this process's share of the mean over all processes' rows.

    Args:
        logits: (b, k, x, y, z).
        label: (b, 1, x, y, z) class indices, negative where ignored.
        settings: Weights of the two parts, and whether Dice counts the background.
        where: (b, 1, x, y, z) bool, the voxels that count; default: all.
    """
    loss = dice_cross_entropy(logits, label, **settings.model_dump(), weight=where)
    known = is_known(label)
    return share_over_rows(loss, known if where is None else known & where)


def share_over_rows(mean: Tensor, where: Tensor) -> Tensor:
    """`share_of_mean` of a loss over those rows in which `where` (b, 1, x, y, z) bool is True anywhere."""
    return share_of_mean(mean, where.flatten(1).any(dim=1))


def rows_in_turn(rows: Tensor, count: int, *, first: int = 0) -> Tensor:
    """`count` of all processes' rows, taken in turn: the partners of this process's `count` rows.

    Row i of all processes' rows gets row i + `first` of all processes' `rows`, whatever the number of processes.
    Nothing is moved between them where each has its own partners.

    Args:
        rows: (b, ...), as many on every process.
        count: Rows that want a partner, as many on every process.
        first: By how much partners are shifted.
    """
    wanted = torch.arange(count, device=rows.device) + first
    if world_size() == 1 or (count == len(rows) and not first):
        return rows[wanted % len(rows)]
    joined = gather(rows)
    return joined[(wanted + rank() * count) % len(joined)]


def strong_and_weak(batch: Batch) -> tuple[Tensor, Tensor]:
    """The batch's two views."""
    return batch["views"]["strong"], batch["views"]["weak"]


def one_hot(label: Tensor, classes: int) -> Tensor:
    """(b, 1, x, y, z) class indices as (b, k, x, y, z) float32 of 0 and 1; all 0 where ignored."""
    known = is_known(label)
    shape = (len(label), classes, *label.shape[2:])
    return torch.zeros(shape, device=label.device).scatter_(1, label.clamp_min(0), known.float())
