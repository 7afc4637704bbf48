"""Fine-tuning of a generator: what a predictor of the parents finds in a counterfactual must be what was intended."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcontrast import schedules
from medcontrast.batch import Batch, StepInfo
from medcontrast.distributed import gather, mean_over_processes
from medcontrast.losses.elbo import FreeEnergy
from medcontrast.losses.lagrangian import ascended, lagrangian
from medcontrast.losses.parents import parent_losses
from medcontrast.methods.base import TeacherMethod
from medcontrast.methods.hvae import energy_of, reconstructed
from medcontrast.networks.hvae import HVAE
from medcontrast.networks.parents import Parents
from medcontrast.networks.predictor import PREDICTOR_SHIFT, Predictor
from medcontrast.settings.generator import HVAEFinetuneSettings
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.shift import shifted


class HVAEFinetune(TeacherMethod):
    """The predictor's loss on counterfactuals to parents drawn anew, under a bound on the free energy of real images.

    First steps: the predictor learns from real images, moved by a few pixels, and the free energy that the generator
    starts with is measured. All others: the decoder, its layers for the parents and the likelihood learn; the predictor
    is frozen. The encoder never moves.

    Attributes:
        predictor: Of all parents; group norm, so that it sees rows one by one, whatever the number of processes.
        multiplier: Of the bound, at least 0; moved once a step.
        bound: On the free energy, in nats per pixel and channel.
        measured: Steps whose free energy `bound` is the mean of.

    Paper: Roschewitz 2025 (CF+); De Sousa Ribeiro 2023.
    Deviation: numbers count too, by the squared error of their standardised values. There is no dropout, which would
        differ between an image's mean and its counterfactual's. The multiplier follows by plain ascent
        (`losses.lagrangian.ascended`). Each process and micro-batch has its own free energy in the loss, which differs
        from that of the joined batch where damping squares it.
    """

    student: HVAE
    multiplier: Tensor
    bound: Tensor
    measured: Tensor

    def __init__(self, settings: HVAEFinetuneSettings, make_network: Callable[[], HVAE]) -> None:
        super().__init__(make_network, settings.ema_decay)
        self.settings = settings
        self.student.encoder.requires_grad_(False)
        parents = self.student.parents
        self.predictor = Predictor(self.student.in_channels, parents.width, norm="group")
        self.register_buffer("multiplier", torch.tensor(0.0))
        self.register_buffer("bound", torch.tensor(settings.bound or 0.0))
        self.register_buffer("measured", torch.tensor(0))
        self._fresh: list[Tensor] = []

    def train(self, mode: bool = True) -> HVAEFinetune:
        """Sets the mode of everything but the generators, which stay in evaluation mode."""
        super().train(mode)
        self.student.eval()
        return self

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {
            "generator": [each for each in self.student.parameters() if each.requires_grad],
            "predictor": list(self.predictor.parameters()),
        }

    def rate(self, part: str, rate: float, info: StepInfo) -> float:
        steps = self.settings.predictor_steps
        if (part == "predictor") is not self._predictor_learns(info):
            return 0.0
        if part == "generator":
            return rate
        pace = schedules.cosine(info.step, steps) * schedules.warm_up(info.step, steps // 10)
        return self.settings.predictor_lr * pace

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        """`loss`; the free energy and its parts in nats per pixel and channel; the predictor's loss for every parent.

        `real_*` is what the predictor learns, `counterfactual_*` what the generator learns.

        Raises:
            InputError: A batch without attributes.
        """
        learns = self._predictor_learns(info)
        self.predictor.train(self.training and learns)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not learns):
            found = reconstructed(self.student, batch, self.settings)
            energy = energy_of(found, self.settings, beta=self.settings.beta)
        if self.training:
            self._fresh.append(mean_over_processes(energy.loss))
        image, own = batch["image"], batch["attributes"]
        if learns:
            rows = batch["index"].tolist()
            draws = [row_generator(info.seed, info.step, row, "predictor's shift") for row in rows]
            terms = self._predicted(shifted(image, PREDICTOR_SHIFT, draws), own)
            # 0 times itself: several processes wait for a gradient of every parameter
            loss = _total(terms) + 0.0 * sum(each.sum() for each in self.parts()["generator"])
            return {"loss": loss, **self._logged(energy), **_named("real", self.student.parents, terms)}
        wanted = drawn_parents(self.student.parents, own, batch["index"].tolist(), info)
        terms = self._predicted(self.student.counterfactual(image, own, wanted), wanted)
        loss = lagrangian(
            _total(terms),
            energy.loss,
            bound=self.bound,
            multiplier=self.multiplier,
            damping=self.settings.damping,
        )
        return {"loss": loss, **self._logged(energy), **_named("counterfactual", self.student.parents, terms)}

    @torch.no_grad()
    def after_step(self, info: StepInfo) -> None:
        """Moves the averaged weights, and the bound (while the predictor learns) or its multiplier."""
        super().after_step(info)
        if not self._fresh:
            return
        value = torch.stack(self._fresh).mean()
        self._fresh.clear()
        if not self._predictor_learns(info):
            self.multiplier.copy_(
                ascended(self.multiplier, value, bound=self.bound, rate=self.settings.multiplier_rate)
            )
        elif self.settings.bound is None:
            self.measured.add_(1)
            self.bound.add_((value - self.bound) / self.measured)

    def _predictor_learns(self, info: StepInfo) -> bool:
        return info.step < self.settings.predictor_steps

    def _predicted(self, image: Tensor, wanted: Tensor) -> list[Tensor]:
        widths = [parent.width for parent in self.student.parents.parents]
        return parent_losses(self.predictor(image), wanted, widths)

    def _logged(self, energy: FreeEnergy) -> dict[str, Tensor]:
        parts = {"negative_log_likelihood": energy.negative_log_likelihood, "kl": energy.kl}
        return {"free_energy": energy.loss, **parts, "bound": self.bound, "multiplier": self.multiplier}


def drawn_parents(parents: Parents, own: Tensor, rows: list[int], info: StepInfo) -> Tensor:
    """New parents (b, p) of every row: each category uniform over its values, each number that of some row.

    All parents are drawn anew at once and apart from each other; what an image has may be drawn again. Numbers come
    from the rows of all processes, so that they occur as they do in the data.

    Args:
        parents: Says which columns are what.
        own: (b, p), the images' own.
        rows: Their places in the step; with seed and step they decide every draw.
        info: Of the step.
    """
    pool, out = gather(own), own.clone()
    for place, row in enumerate(rows):
        generator = row_generator(info.seed, info.step, row, "intervention")
        for parent in parents.parents:
            columns = parents.columns(parent.name)
            if parent.values is None:
                out[place, columns] = pool[int(generator.integers(len(pool))), columns]
            else:
                value = torch.tensor(int(generator.integers(len(parent.values))))
                out[place, columns] = functional.one_hot(value, len(parent.values)).to(out)
    return out


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()


def _named(kind: str, parents: Parents, terms: list[Tensor]) -> dict[str, Tensor]:
    return {f"{kind}_{parent.name}": term for parent, term in zip(parents.parents, terms, strict=True)}
