"""Tests of a loss or a gradient that is not finite: by hand (a method whose loss is spoiled at one step)."""

from __future__ import annotations

import math
import types

import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console

from medcontrast.batch import StepInfo
from medcontrast.checkpoint import load_resume
from medcontrast.engine.loop import MOST_LEFT_OUT, Trainer
from medcontrast.errors import NonFiniteLossError


def test_a_loss_that_is_not_finite_names_step_and_cases(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree("mean_teacher", save_every=2))
    trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
    losses = trainer.method.losses

    def broken(method, batch, info):
        terms = losses(batch, info)
        return {**terms, "loss": terms["loss"] * math.nan} if info.step == 3 else terms

    trainer.method.losses = types.MethodType(broken, trainer.method)
    sentence = (
        r"^The loss is not finite at step 3 \(loss nan, supervised [\d.]+, consistency [\d.]+\); "
        r"cases case_0[01], case_0[01], case_0[23], case_0[23]\. The last checkpoint is from before this step\."
    )
    with pytest.raises(NonFiniteLossError, match=sentence):
        trainer.fit(tiny.stop_after(0))
    saved = load_resume(run.resume_file)
    assert saved["progress"]["step"] == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved["method"].values())


def test_a_scaler_may_leave_out_some_steps_in_a_row_but_not_all(tiny, tmp_path):
    """In 16-mixed a gradient may overflow; a run in which every one does would end without having learned."""
    run = tiny.make_run(tmp_path, tiny.recipe_tree("supervised"))
    trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
    trainer.fabric.strategy.precision.scaler = object()
    bad, good, info = torch.tensor(math.inf), torch.tensor(1.0), StepInfo(7, 100)
    for norm in [bad] * MOST_LEFT_OUT + [good] + [bad] * MOST_LEFT_OUT:
        trainer._require_finite_gradient(norm, info)
    with pytest.raises(NonFiniteLossError, match=r"^The gradient is not finite at step 7, though the loss is\. "):
        trainer._require_finite_gradient(bad, info)


class FiniteWithoutGradient(torch.autograd.Function):
    """The value itself; its gradient is NaN."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


@pytest.mark.parametrize("clip_norm", [None, 12.0])
def test_a_gradient_that_is_not_finite_stops_before_it_is_taken(tiny, tmp_path, clip_norm):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(save_every=2, clip_norm=clip_norm))
    trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
    losses = trainer.method.losses

    def broken(method, batch, info):
        terms = losses(batch, info)
        return {**terms, "loss": FiniteWithoutGradient.apply(terms["loss"])} if info.step == 3 else terms

    trainer.method.losses = types.MethodType(broken, trainer.method)
    with pytest.raises(NonFiniteLossError, match=r"^The gradient is not finite at step 3, though the loss is\. "):
        trainer.fit(tiny.stop_after(0))
    assert load_resume(run.resume_file)["progress"]["step"] == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in trainer.method.state_dict().values())
