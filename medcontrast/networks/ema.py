"""The teacher of a student: an exponential moving average (EMA) of its weights."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from medcontrast.errors import InputError

Module = TypeVar("Module", bound=nn.Module)


def make_teacher(student: Module) -> Module:
    """A copy of `student` that no gradient reaches; it keeps the student's training mode."""
    return copy.deepcopy(student).requires_grad_(False)


def teacher_decay(decay: float, step: int) -> float:
    """Decay used at `step`: min(1 - 1 / (step + 1), decay), so that early random weights are forgotten.

    A decay of 1 stays 1: it freezes the teacher whatever the step.
    """
    return 1.0 if decay == 1.0 else min(1.0 - 1.0 / (step + 1), decay)


@torch.no_grad()
def update_teacher(
    teacher: nn.Module,
    student: nn.Module,
    decay: float,
    step: int | None,
    *,
    buffers: Literal["copy", "own"] = "copy",
) -> None:
    """Moves the teacher towards the student, in place: teacher <- d teacher + (1 - d) student.

    To be called once after each optimiser step. d is `teacher_decay(decay, step)`: at step 0 the teacher becomes the
    student.

    Args:
        teacher: From `make_teacher`.
        student: The network that is trained.
        decay: 0 makes the teacher the student, 1 leaves it (buffers too).
        step: Optimiser steps done before this one, from 0. None: the decay itself at every step, as in MoCo.
        buffers: What becomes of buffers, such as batch normalisation's running statistics: "copy" takes the student's,
            "own" leaves them, for a teacher that runs in training mode and makes its own.

    Raises:
        InputError: A decay outside 0..1.

    Paper: Tarvainen and Valpola 2017, section 2.
    Deviation: buffers are copied, which the paper leaves open: the running statistics are averages already.
    """
    if not 0.0 <= decay <= 1.0:
        raise InputError(f"ema_decay lies in 0..1, but got {decay}.")
    weight = 1.0 - (decay if step is None else teacher_decay(decay, step))
    if weight == 0.0:
        return
    averaged = _pairs(dict(teacher.named_parameters()), dict(student.named_parameters()))
    copied = _pairs(dict(teacher.named_buffers()), dict(student.named_buffers()))
    if buffers == "own":
        copied = []
    if weight == 1.0:
        averaged, copied = [], averaged + copied
    if averaged:
        torch._foreach_lerp_([old for old, _ in averaged], [new for _, new in averaged], weight)
    for old, new in copied:
        old.copy_(new)


def _pairs(teacher: dict[str, Tensor], student: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    if teacher.keys() != student.keys():
        raise ValueError(f"teacher and student differ in {sorted(teacher.keys() ^ student.keys())}")
    return [(teacher[name], student[name]) for name in teacher]
