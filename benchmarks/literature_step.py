"""One fba_net step as public semi-supervised repositories write theirs: what the project's step is measured against.

float32 in PyTorch's own layout and layers; the student is called once for labeled and once for unlabeled rows; Dice in
a loop over rows and classes; the teacher's average in a loop over parameters; every term is fetched by .item() and
logged in every step. The numbers are those of `medcontrast.methods.fba_net`, which the benchmark checks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TextIO

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

from medcontrast.schedules import gaussian_ramp_up
from medcontrast.settings.methods import ContrastSettings, FBANetSettings

Clock = Callable[[str], AbstractContextManager[None]]


class LiteratureStep:
    """The networks, the head, the optimiser and one step of them.

    Args:
        student: In evaluation or training mode, as it shall be.
        hidden: The head's first layer.
        last: The head's last layer.
        settings: Of the method; hard targets, copy-paste, features and plain means over pairs, as its default has them.
        lr: Learning rate.
        weight_decay: Of AdamW.
        clip_norm: Largest norm of the gradient.
        log: Where every step leaves a line.
    """

    def __init__(
        self,
        student: nn.Module,
        hidden: nn.Linear,
        last: nn.Linear,
        settings: FBANetSettings,
        *,
        lr: float,
        weight_decay: float,
        clip_norm: float,
        log: TextIO,
    ) -> None:
        self.student, self.hidden, self.last, self.settings = student, hidden, last, settings
        self.teacher = copy.deepcopy(student)
        for parameter in self.teacher.parameters():
            parameter.detach_()
        trained = [*student.parameters(), *hidden.parameters(), *last.parameters()]
        self.optimizer = AdamW(trained, lr=lr, weight_decay=weight_decay)
        self.trained, self.clip_norm, self.log = trained, clip_norm, log
        classes = int(student.classes) - 1  # type: ignore[arg-type]
        self.memory: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(classes)]

    def step(
        self, strong: Tensor, weak: Tensor, label: Tensor, labeled: Tensor, boxes: Tensor, number: int, clock: Clock
    ) -> dict[str, float]:
        """One optimiser step; its terms.

        Args:
            strong: (b, c, x, y, z).
            weak: The same.
            label: (b, 1, x, y, z), -1 in unlabeled rows.
            labeled: (b,) bool.
            boxes: (u, 1, x, y, z) bool, where unlabeled rows take voxels of labeled ones.
            number: Steps done so far.
            clock: Times what runs inside `with clock(name)`.
        """
        with clock("forward"):
            terms, fresh = self._terms(strong, weak, label, labeled, boxes, number)
        with clock("optimiser"):
            self.optimizer.zero_grad()
        with clock("backward"):
            terms["loss"].backward()
        with clock("optimiser"):
            nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
            self.optimizer.step()
        with clock("EMA"):
            decay = min(1 - 1 / (number + 1), self.settings.ema_decay)
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                old.data.mul_(decay).add_(new.data, alpha=1 - decay)
            self._remember(fresh)
        with clock("logging"):
            values = {name: term.item() for name, term in terms.items()}
            self.log.write(
                f"iteration {number}: " + ", ".join(f"{name} {value}" for name, value in values.items()) + "\n"
            )
            self.log.flush()
        return values

    def _terms(
        self, strong: Tensor, weak: Tensor, label: Tensor, labeled: Tensor, boxes: Tensor, number: int
    ) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        settings, truth = self.settings, label[labeled]
        with torch.no_grad():
            pseudo = self.teacher(weak[~labeled]).logits.argmax(dim=1, keepdim=True)
        inside = boxes.float()
        mixed = strong[labeled] * inside + strong[~labeled] * (1 - inside)
        target = (truth * inside + pseudo * (1 - inside)).long()
        first = self.student(strong[labeled])
        second = self.student(mixed)
        terms = {
            "supervised": _dice(first.logits, truth) + functional.cross_entropy(first.logits, truth[:, 0]),
            "consistency": _dice(second.logits, target) + functional.cross_entropy(second.logits, target[:, 0]),
        }
        features = torch.cat([first.features, second.features])
        contrast, fresh = self._contrast(features, torch.cat([truth, target]), len(truth))
        ramp = gaussian_ramp_up(number, settings.consistency.ramp_up_steps)
        loss = terms["supervised"] + settings.consistency.weight * ramp * terms["consistency"]
        weight = settings.contrast.weight * gaussian_ramp_up(number, settings.contrast.ramp_up_steps)
        terms["loss"] = loss + weight * (contrast["pull_foreground"] + contrast["pull_background"] + contrast["push"])
        return terms | contrast, fresh

    def _contrast(
        self, features: Tensor, label: Tensor, rows: int
    ) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        settings, classes = self.settings.contrast, len(self.memory)
        cells, labels = _cells(features, settings.region), _cells(label, settings.region)
        true = torch.arange(len(cells)) < rows * (len(cells) // len(features))
        sums = {name: features.new_zeros(()) for name in ("pull_foreground", "pull_background", "push")}
        fresh = []
        for k in range(classes):
            inside = (labels == k + 1).float()
            least = 0.15 * settings.region**3
            voxels = inside.sum(dim=(1, 2, 3, 4))
            valid = (voxels >= least) & (settings.region**3 - voxels >= least)
            chosen = _evenly(valid, settings.regions)
            foreground = self._embed(_average(cells, inside))[chosen]
            background = self._embed(_average(cells, 1 - inside))[chosen]
            counts, old = valid[chosen], self.memory[k]
            foreground, background, kept = foreground[counts], background[counts], true[chosen][counts]
            sums["pull_foreground"] = sums["pull_foreground"] + _pull(foreground, old[0], settings) / classes
            sums["pull_background"] = sums["pull_background"] + _pull(background, old[1], settings) / classes
            both = _push(foreground, [*old[1], background], settings) + _push(
                background, [*old[0], foreground], settings
            )
            sums["push"] = sums["push"] + 0.5 * both / classes
            fresh.append((foreground[kept].detach(), background[kept].detach()))
        return sums, fresh

    def _embed(self, pooled: Tensor) -> Tensor:
        hidden = functional.gelu(self.hidden(functional.layer_norm(pooled, pooled.shape[-1:])))
        last = self.last(hidden)
        return functional.softplus(functional.layer_norm(last, last.shape[-1:]), beta=4)

    def _remember(self, fresh: list[tuple[Tensor, Tensor]]) -> None:
        for memory, new in zip(self.memory, fresh, strict=True):
            for old, more in zip(memory, new, strict=True):
                joined = torch.cat([*old, more])[-self.settings.contrast.memory :]
                old[:] = [joined] if len(joined) else []


def _dice(logits: Tensor, label: Tensor) -> Tensor:
    probabilities, total = logits.softmax(dim=1), logits.new_zeros(())
    rows, classes = logits.shape[:2]
    for row in range(rows):
        for k in range(1, classes):
            wanted, given = (label[row, 0] == k).float(), probabilities[row, k]
            overlap = (wanted * given).sum()
            total = total + 1 - (2 * overlap + 1e-5) / (wanted.sum() + given.sum() + 1e-5)
    return total / (rows * (classes - 1))


def _cells(volume: Tensor, side: int) -> Tensor:
    for axis in (2, 3, 4):
        volume = volume.unfold(axis, side, side)
    cells = volume.permute(0, 2, 3, 4, 1, 5, 6, 7)
    return cells.reshape(-1, *cells.shape[4:])


def _average(cells: Tensor, weight: Tensor) -> Tensor:
    return (cells * weight).sum(dim=(2, 3, 4)) / weight.sum(dim=(2, 3, 4)).clamp_min(1e-3)


def _evenly(valid: Tensor, wanted: int) -> Tensor:
    places = valid.nonzero()[:, 0]
    if len(places) <= wanted:
        return places
    return places[torch.linspace(0, len(places) - 1, wanted).round().long()]


def _pull(embeddings: Tensor, old: list[Tensor], settings: ContrastSettings) -> Tensor:
    def mean(reference: Tensor, left_out: Tensor) -> Tensor:
        similarity = functional.cosine_similarity(embeddings[:, None], reference[None], dim=2)
        terms = _below(similarity.clamp_max(0.9995), 0.1) * ~left_out
        return (terms * _rank_weights(similarity, left_out, settings.pull_rank_decay)).sum() / max(
            1, int((~left_out).sum())
        )

    now = mean(embeddings, torch.eye(len(embeddings), dtype=torch.bool))
    if not old:
        return now
    return 0.5 * (now + mean(old[0], torch.zeros(len(embeddings), len(old[0]), dtype=torch.bool)))


def _push(embeddings: Tensor, references: list[Tensor], settings: ContrastSettings) -> Tensor:
    reference = torch.cat(references)
    similarity = functional.cosine_similarity(embeddings[:, None], reference[None], dim=2)
    terms = _below(1 - similarity.clamp_min(0.0005), 1 - 0.9995)
    weights = _rank_weights(similarity, torch.zeros_like(similarity, dtype=torch.bool), settings.push_rank_decay)
    return (terms * weights).sum() / max(1, similarity.numel())


def _below(value: Tensor, knot: float) -> Tensor:
    straight = -math.log(knot) + (knot - value) / knot
    return torch.where(value < knot, straight, -torch.log(value.clamp_min(knot)))


def _rank_weights(similarity: Tensor, left_out: Tensor, decay: float) -> Tensor:
    order = similarity.detach().masked_fill(left_out, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return torch.exp(-decay * order.argsort(dim=1).float())
