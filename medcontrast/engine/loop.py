"""The training loop: the only one that trains a method (what only scores is trained by fit_briefly.py).

Every batch and every random draw is a function of (seed, step, row), so a resume needs only the step and the tensors.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from medcontrast import checkpoint
from medcontrast.allocator import freed_memory_kept
from medcontrast.batch import ON_CPU, Batch, StepInfo
from medcontrast.data.loading import reading
from medcontrast.data.sampler import TwoStreamSampler
from medcontrast.distributed import mean_over_processes
from medcontrast.engine.build import learning_rate, make_optimizer
from medcontrast.engine.curves import Curves
from medcontrast.engine.feed import Feed
from medcontrast.engine.job import job_of
from medcontrast.engine.progress import TrainingProgress
from medcontrast.engine.run import Run
from medcontrast.engine.run_files import CURVES, forget_replaced
from medcontrast.engine.stopping import StopRequest
from medcontrast.engine.validate import Validator
from medcontrast.errors import CheckpointError, InputError, NonFiniteLossError
from medcontrast.methods import Method
from medcontrast.networks.channels_last import lay_out_for
from medcontrast.say import say

MOST_LEFT_OUT = 30
"""Steps in a row that a scaler of the loss may leave out: from 65,536 it has then come down to 0.00006."""


@dataclass
class RunState:
    """Where a run stands; saved with every checkpoint.

    Attributes:
        step: Steps that are done.
        seconds: Of training.
        best_dice: Of the validation that best.safetensors is from.
        best_step: When that was.
        validated_step: The last step that was validated.
    """

    step: int = 0
    seconds: float = 0.0
    best_dice: float | None = None
    best_step: int | None = None
    validated_step: int = 0


@dataclass
class Trainer:
    """One run on its devices.

    Attributes:
        run: The folder with recipe and manifest.
        fabric: Devices and precision.
        console: Where progress is shown.
        state: Where the run stands.
        source: The checkpoint that `initialise` took tensors from, and its SHA-256.
    """

    run: Run
    fabric: Fabric
    console: Console
    state: RunState = field(default_factory=RunState)
    source: dict[str, str] | None = None

    def __post_init__(self) -> None:
        self.job = job_of(self.run)
        self.method: Method = self.job.method
        self.optimizer = make_optimizer(self.run.recipe.train.optimizer, self.method)
        self.parameters = [parameter for parameter in self.method.parameters() if parameter.requires_grad]
        self._left_out = 0

    def initialise(self) -> None:
        """Takes tensors over from `train.init_from`, where the recipe names one."""
        source = self.run.recipe.train.init_from
        if source is None:
            return
        place = self.run.folder / source  # an absolute path stays what it is
        if not place.exists():
            needed = self.run.recipe.about.needs
            raise CheckpointError(
                f"train.init_from {place}: there is no such checkpoint or run folder. The recipe needs {needed}."
            )
        path = checkpoint.resolve_checkpoint(place)
        tensors, header, digest = checkpoint.load_hashed_weights(path)
        self.source = {"file": f"{path.parent.name}/{path.name}", "sha256": digest}
        self._say(self.job.take_over(tensors, header, where=path))

    def resume(self) -> None:
        """Goes back to the last checkpoint: tensors, optimiser, step; log and curves are cut back to it."""
        saved = checkpoint.load_resume(self.run.resume_file)
        # what wrote no such step had validated whatever it saved
        self.state = RunState(**{"validated_step": saved["progress"]["step"], **saved["progress"]})
        total = self.run.recipe.train.steps
        if self.state.step >= total and not self._validation_due():
            raise InputError(
                f"{self.run.folder}: this run is finished ({self.state.step} of {total} steps). "
                f"To go on, ask for more: --set train.steps={self.state.step + total} (schedules are of all steps, so "
                "that the learning rate goes up again)"
            )
        self.run.require_recipe(saved["header"]["recipe"])
        self.run.require_same_cases(saved["header"], self.job.header())
        self.job.require_same_meaning(saved["header"], where=self.run.resume_file)
        self._require_same_choice(saved.get("chosen_on"))
        try:
            self.method.load_state_dict(saved["method"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if saved.get("precision"):
                self.fabric.strategy.precision.load_state_dict(saved["precision"])
        except (RuntimeError, ValueError, KeyError):
            raise CheckpointError(
                f"{self.run.resume_file}: its tensors are not those of this recipe's method; it was written by another "
                "version of medcontrast, or resolved.yaml was changed. Train again with --overwrite."
            ) from None
        if self.fabric.is_global_zero:
            self.run.cut_log(self.state.step, validated=self._validated())
        self._say(
            f"Resuming at step {self.state.step} of {total}, by the recipe and the manifest that this folder keeps; "
            "what they were made from is not read."
        )

    def _require_same_choice(self, before: list[str] | None) -> None:
        """Refuses other validation cases once a best network was chosen: Dice of other cases is no larger or smaller.

        Earlier versions did not keep the names.
        """
        if self.state.best_dice is not None and before is not None and before != list(self.job.chosen_on):
            raise CheckpointError(
                f"{self.run.folder}: its validation cases are not those by which the best network was chosen so far. "
                "Put them back, or train anew in another folder."
            )

    @freed_memory_kept()
    def fit(self, stop: StopRequest) -> RunState:
        """Trains to the recipe's last step, or until somebody asks to stop; always leaves a checkpoint."""
        train, fabric = self.run.recipe.train, self.fabric
        lay_out_for(fabric.device, self.method)
        wrapped, optimizer = fabric.setup(self.method, self.optimizer)
        # what a resume loaded lies on the CPU; loading it once more takes it to where the parameters are now
        self.optimizer.load_state_dict(self.optimizer.state_dict())
        wrapped.mark_forward_method("losses")
        loader, sampler, validator = self._opened()
        curves = Curves(self.run.folder / CURVES, resumed=self.state.step) if fabric.is_global_zero else None
        if self.state.step == 0:
            self.save()  # from the first moment on there is something to resume from
            if fabric.is_global_zero:
                forget_replaced(self.run.folder)
        began, before = time.monotonic(), self.state.seconds
        shown = TrainingProgress(self.console, self.state.step, train.steps, enabled=fabric.is_global_zero)
        with shown, reading(loader, fabric.device) as batches:
            infos = self._infos(sampler)
            feed = Feed(batches, (info for info in infos for _ in range(train.accumulate)), self._ready, fabric.device)
            if validator is not None and self._validation_due():  # the run ended in the middle of it
                self._validate(validator, shown, curves)
            for info in infos:
                wrapped.train()
                terms = self._step(wrapped, optimizer, feed, info)
                done = info.step + 1
                self.state.step, self.state.seconds = done, before + time.monotonic() - began
                shown.advance(done, terms["loss"])
                self._record(done, terms, curves)
                stopping = self._should_stop(stop)
                if validator is not None and self._validation_due():
                    self.save()  # whoever asks to stop, now or meanwhile, may not wait for a validation
                    self._validate(validator, shown, curves)
                    stopping = self._should_stop(stop)
                if stopping:
                    break
                if done % train.save_every == 0 and done < train.steps and not self._validated():
                    self.save()
        if not self._validated():
            self.save()
        if curves is not None:
            curves.close()
        return self.state

    def _opened(self) -> tuple[DataLoader[Any], TwoStreamSampler, Validator | None]:
        """Batches and validation; every file that cannot be used is named before training starts."""
        fabric = self.fabric
        loader, sampler = self.job.loader(
            rank=fabric.global_rank, world_size=fabric.world_size, start_step=self.state.step
        )
        self.job.header()  # reads scans, which are surely there now: saving a checkpoint must not fail for one
        validator = self.job.validator(fabric.device, fabric.autocast)
        if fabric.is_global_zero:
            if validator is not None:
                validator.open()
            for sentence in self.job.warnings(loader, validator):
                self._say(f"Warning: {sentence}")
        return loader, sampler, validator

    def _infos(self, sampler: TwoStreamSampler) -> list[StepInfo]:
        """Of every step that is left."""
        total, seed = self.run.recipe.train.steps, self.run.recipe.seed
        return [StepInfo(step, total, sampler.epoch(step), seed) for step in range(self.state.step, total)]

    def _step(self, wrapped: Any, optimizer: Any, feed: Feed, info: StepInfo) -> dict[str, float]:
        """One optimiser step over all micro-batches; returns the mean of every term."""
        train, seed = self.run.recipe.train, self.run.recipe.seed
        rate = learning_rate(train.optimizer, train.schedule, info.step, train.steps)
        rates = {part: self.method.rate(part, rate, info) for part in self.method.parts()}
        for part, group in zip(rates, optimizer.param_groups, strict=True):
            group["lr"] = rates[part]
        means: dict[str, Tensor] = {}
        for micro in range(train.accumulate):
            # dropout draws from the global generator: seeding it here makes it, too, a function of the step
            torch.manual_seed(hash((seed, info.step, micro, self.fabric.global_rank)) % 2**63)
            batch = next(feed)
            with self.fabric.no_backward_sync(wrapped, enabled=micro + 1 < train.accumulate):
                # Fabric enters its autocast for a marked method only where it wraps the module, as for DDP
                with self.fabric.autocast():
                    terms = wrapped.losses(batch, info)
                joined = dict(zip(terms, mean_over_processes(torch.stack(list(terms.values()))), strict=True))
                _require_finite(joined, terms, batch, info)
                self.fabric.backward(terms["loss"] / train.accumulate)
            feed.prepare()
            for name, value in joined.items():
                means[name] = means.get(name, torch.zeros_like(value)) + value / train.accumulate
        _let_rest(optimizer)
        # without a limit the norm is looked at alone
        limit = math.inf if train.clip_norm is None else train.clip_norm
        norm = torch.as_tensor(self.fabric.clip_gradients(wrapped, optimizer, max_norm=limit, error_if_nonfinite=False))
        self._require_finite_gradient(norm, info)
        if train.clip_norm is not None:
            means["gradient_norm"] = norm
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.method.after_step(info)
        shown = {"lr" if len(rates) == 1 else f"lr_{part}": value for part, value in rates.items()}
        values = torch.stack(list(means.values())).tolist()  # one wait for the device, not one a term
        return {**dict(zip(means, values, strict=True)), **shown}

    def _require_finite_gradient(self, norm: Tensor, info: StepInfo) -> None:
        """A finite loss may have a gradient that is not, and one such step is the end of every weight."""
        self._left_out = 0 if bool(torch.isfinite(norm)) else self._left_out + 1
        # in 16-mixed it may happen: the scaler leaves such a step out and halves its scale
        scaled = getattr(self.fabric.strategy.precision, "scaler", None) is not None
        if self._left_out > (MOST_LEFT_OUT if scaled else 0):
            raise NonFiniteLossError(
                f"The gradient is not finite at step {info.step}, though the loss is. The last checkpoint is from "
                "before this step. Try a smaller train.optimizer.lr or train.precision 32-true."
            )

    def _ready(self, batch: Batch, info: StepInfo) -> Batch:
        moved = self.fabric.to_device(batch)
        for name in ON_CPU:
            if name in batch:
                moved[name] = batch[name]  # type: ignore[literal-required]
        return self.job.with_views(moved, info)

    def _record(self, step: int, terms: dict[str, float], curves: Curves | None) -> None:
        if curves is None or (step % self.run.recipe.train.log_every and step != 1):
            return
        seconds = round(self.state.seconds, 2)
        # in 16-mixed a gradient may be infinite for a step, and JSON has no word for it
        rounded = {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in terms.items()}
        self.run.log({"step": step, "seconds": seconds, **rounded})
        curves.scalars(step, {f"train/{name}": value for name, value in terms.items()})

    def _validation_due(self) -> bool:
        step, every = self.state.step, self.job.validate_every
        if not every or self._validated():
            return False
        return step % every == 0 or step == self.run.recipe.train.steps

    def _validated(self) -> bool:
        """Whether this step was validated, and saved with what came of it."""
        return self.state.validated_step == self.state.step

    def _validate(self, validator: Validator, shown: TrainingProgress, curves: Curves | None) -> None:
        if curves is not None:  # one process is enough; the others wait below
            report = validator(self.job.network(), self.state.step)  # what is saved, not what teaches
            dice = report.mean_dice
            self.run.log({**report.by_target, "step": self.state.step, "validation_dice": dice})
            curves.scalars(self.state.step, {f"validation/{name}": value for name, value in report.by_target.items()})
            curves.picture(self.state.step, "validation/case", report.picture)
            shown.validated(self.state.step, dice)
            if self.state.best_dice is None or dice > self.state.best_dice:
                self.state.best_dice, self.state.best_step = dice, self.state.step
                self._save_weights(self.run.folder / checkpoint.BEST, chosen_on=validator.names)
        self.state.validated_step = self.state.step
        self.save()  # what is the best so far must outlive the process

    def _should_stop(self, stop: StopRequest) -> bool:
        due = stop.due()
        if self.fabric.world_size > 1:  # all processes must leave the loop at the same step
            due = self.fabric.strategy.reduce_boolean_decision(due, all=False)
            stop.reason = stop.reason or ("another process was stopped" if due else None)
        return due

    def save(self) -> None:
        """Writes last.pt and last.safetensors, each whole or not at all."""
        if self.fabric.is_global_zero:
            self._save_weights(self.run.folder / checkpoint.LAST)
            checkpoint.save_resume(
                self.run.resume_file,
                {
                    "method": self.method.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "progress": vars(self.state),
                    "precision": self.fabric.strategy.precision.state_dict(),
                    "header": self._header(),
                    "inference_prefix": self._inference_prefix(),
                    "chosen_on": list(self.job.chosen_on),
                },
            )
        self.fabric.barrier()

    def _save_weights(self, path: Any, **more: Any) -> None:
        checkpoint.save_weights(path, self.job.network().state_dict(), {**self._header(), **more})

    def _inference_prefix(self) -> str:
        network = self.job.network()
        return next(f"{name}." for name, module in self.method.named_modules() if module is network)

    def _header(self) -> dict[str, Any]:
        return {
            "recipe": self.run.recipe.model_dump(mode="json"),
            "network": "student" if self.job.network() is self.method.student else "teacher",
            "step": self.state.step,
            **self.job.header(),
        }

    def _say(self, sentence: str) -> None:
        if self.fabric.is_global_zero:
            say(self.console, sentence)


def _let_rest(optimizer: Any) -> None:
    """Takes the gradients of resting parts away: weight decay and averages of past gradients leave them alone too."""
    for group in optimizer.param_groups:
        if group["lr"] == 0.0:
            for parameter in group["params"]:
                parameter.grad = None


def _require_finite(joined: dict[str, Tensor], terms: dict[str, Tensor], batch: Batch, info: StepInfo) -> None:
    """Judges by the mean over all processes, so that all of them stop and none waits for another's gradient."""
    if bool(torch.isfinite(joined["loss"])):
        return
    if bool(torch.isfinite(terms["loss"])):
        raise NonFiniteLossError(
            f"The loss of another process is not finite at step {info.step}; it names its cases. The last checkpoint "
            "is from before this step."
        )
    shown = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in terms.items())
    raise NonFiniteLossError(
        f"The loss is not finite at step {info.step} ({shown}); cases {', '.join(batch['case'])}. "
        "The last checkpoint is from before this step. Try a smaller train.optimizer.lr, train.precision 32-true, "
        "or `medcontrast data check` on the manifest."
    )
