"""FBA-Net in its default form: a mean teacher with foreground/background contrast on pooled decoder features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medcontrast.batch import Batch, StepInfo
from medcontrast.losses.consistency import entropy, maximum_entropy, mse_consistency, mutual_consistency, sharpen
from medcontrast.losses.segmentation import soft_dice_cross_entropy
from medcontrast.methods.base import MakeNetwork, TeacherMethod, one_hot, rows_in_turn, strong_and_weak, supervised_loss
from medcontrast.methods.contrast import ForegroundBackgroundContrast
from medcontrast.networks.ema import make_teacher, update_teacher
from medcontrast.networks.output import Output
from medcontrast.schedules import gaussian_ramp_up
from medcontrast.settings.methods import FBANetSettings
from medcontrast.transforms.copy_paste import exchange_boxes, mix

_CHANNELS = {"features": "feature_channels", "logits": "classes"}
"""Which attribute of a network says how many channels the part of its output has that the head pools."""


@dataclass(frozen=True)
class _Lesson:
    """What a network sees of the unlabeled rows, what it shall answer, and how certain that is.

    Attributes:
        image: (b, c, x, y, z).
        target: (b, k, x, y, z) probabilities.
        confidence: (b, 1, x, y, z).
    """

    image: Tensor
    target: Tensor
    confidence: Tensor


class FBANet(TeacherMethod):
    """Supervised + consistency with the teacher on unlabeled rows + foreground/background contrast on all rows.

    The student sees the strong view of unlabeled rows, some of which take a box of a labeled row, or all of it but a
    box; labeled rows stay whole. Its target is mixed in the same way from the teacher's answer to the weak view and the
    labels. Contrast maps are the labels and those targets. Every foreground class has its own foreground and
    background; binary is a case of it.

    With a partner, a second network that begins differently sees the same, has a teacher of its own, and each of the
    two learns from the other's teacher. The student predicts and is contrasted; `train.init_from` fills it alone: two
    equal networks would stay equal.

    Paper: Chung et al. 2023, FBA-Net (contrast); Tarvainen and Valpola 2017 (teacher); Bai et al. 2023, BCP
        (exchange of boxes); Chen et al. 2021, CPS (partner).
    Deviation: An EMA teacher, and one decoder unless the network has more (their mutual consistency is then a term of
        its own, and the first one predicts and gives the features); heads pool decoder features in cells along
        class borders instead of flattening logits. docs/methods.md has the reasons; `fba_legacy` is the public form.
    """

    def __init__(self, settings: FBANetSettings, make_network: MakeNetwork) -> None:
        super().__init__(make_network, settings.ema_decay)
        self.settings = settings
        self._weighs = settings.consistency.weigh_by_confidence or settings.contrast.weigh_by_confidence
        self.contrast = ForegroundBackgroundContrast(
            settings.contrast,
            feature_channels=int(getattr(self.student, _CHANNELS[settings.contrast.pooled])),
            classes=int(self.student.classes) - 1,  # type: ignore[arg-type]
        )
        if not settings.contrast.weight:
            self.contrast.requires_grad_(False)  # DDP waits for the gradient of everything that takes one
        if settings.partner:
            self.partner = make_network()
            self.partner_teacher = make_teacher(self.partner).eval()

    def train(self, mode: bool = True) -> FBANet:
        super().train(mode)
        if self.settings.partner:
            self.partner_teacher.eval()
        return self

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        settings = self.settings
        boxes = self._boxes(batch, info)
        lesson = self._lesson(self.partner_teacher if settings.partner else self.teacher, batch, boxes)
        outputs = self._answers(self.student, batch, lesson)
        terms = self._terms(outputs, batch, lesson)
        if settings.partner:
            other = self._lesson(self.teacher, batch, boxes)
            more = self._terms(self._answers(self.partner, batch, other), batch, other)
            terms = {name: value + more[name] for name, value in terms.items()}
        ramp = gaussian_ramp_up(info.step, settings.consistency.ramp_up_steps)
        loss = terms["supervised"] + settings.consistency.weight * ramp * terms["consistency"]
        if "mutual" in terms:
            loss = loss + settings.consistency.mutual_weight * ramp * terms["mutual"]
        if settings.contrast.weight:
            contrast = self._contrast(getattr(outputs[0], settings.contrast.pooled), batch, lesson)
            weight = settings.contrast.weight * gaussian_ramp_up(info.step, settings.contrast.ramp_up_steps)
            loss = loss + weight * torch.stack(list(contrast.values())).sum()
            terms |= contrast
        return {"loss": loss, **terms}

    def _answers(self, network: nn.Module, batch: Batch, lesson: _Lesson) -> list[Output]:
        """Of every decoder, to the labeled rows and, after them, what is seen of the unlabeled ones."""
        strong, _ = strong_and_weak(batch)
        rows = torch.cat([strong[batch["labeled"]], lesson.image])
        return network.decode_all(rows)  # type: ignore[operator]

    def _terms(self, outputs: list[Output], batch: Batch, lesson: _Lesson) -> dict[str, Tensor]:
        """What one network loses to labels, to its lesson, and between its decoders where it has several."""
        label, logits = batch["label"][batch["labeled"]], [output.logits for output in outputs]
        rows = len(label)
        terms = {
            "supervised": _mean([supervised_loss(each[:rows], label, self.settings.segmentation) for each in logits]),
            "consistency": _mean([self._consistency(each[rows:], lesson) for each in logits]),
        }
        if len(logits) > 1:
            terms["mutual"] = mutual_consistency(logits, self.settings.consistency.mutual_temperature)
        return terms

    def _contrast(self, pooled: Tensor, batch: Batch, lesson: _Lesson) -> dict[str, Tensor]:
        """Pull and push of what the student's head pools, by labels and the unlabeled rows' targets."""
        label, target = batch["label"][batch["labeled"]], lesson.target
        maps = torch.cat([one_hot(label, target.shape[1]), target])[:, 1:]
        known = torch.cat([label >= 0, torch.ones_like(target[:, :1], dtype=torch.bool)])
        weigh = self.settings.contrast.weigh_by_confidence
        weight = torch.cat([torch.ones_like(label, dtype=target.dtype), lesson.confidence]) if weigh else None
        terms: dict[str, Tensor] = self.contrast(pooled, maps, known, labeled_rows=len(label), confidence=weight)
        return terms

    def after_step(self, info: StepInfo) -> None:
        super().after_step(info)
        if self.settings.partner:
            update_teacher(self.partner_teacher, self.partner, self.ema_decay, info.step)
        self.contrast.remember()

    @torch.no_grad()
    def _lesson(self, teacher: nn.Module, batch: Batch, boxes: Tensor | None) -> _Lesson:
        """The strong view of unlabeled rows and a teacher's answer to the weak one, both with labeled rows' boxes."""
        labeled = batch["labeled"]
        strong, weak = strong_and_weak(batch)
        unlabeled, answer = strong[~labeled], teacher(weak[~labeled]).logits
        target = self._target(answer)
        confidence = _certainty(answer) if self._weighs else torch.ones_like(answer[:, :1])
        if boxes is None:
            return _Lesson(unlabeled, target, confidence)
        partner, label = (rows_in_turn(each[labeled], len(unlabeled)) for each in (strong, batch["label"]))
        boxes = boxes & (label >= 0)  # nothing is pasted from where the label is ignored
        truth = one_hot(label, target.shape[1]).to(target.dtype)
        return _Lesson(mix(partner, unlabeled, boxes), mix(truth, target, boxes), confidence.masked_fill(boxes, 1.0))

    def _target(self, logits: Tensor) -> Tensor:
        """The teacher's answer (b, k, x, y, z): sharpened soft-max, or its arg-max as 0 and 1."""
        consistency = self.settings.consistency
        if consistency.target == "soft":
            return sharpen(logits.float().softmax(dim=1), consistency.temperature)
        return one_hot(logits.argmax(dim=1, keepdim=True), logits.shape[1])

    def _boxes(self, batch: Batch, info: StepInfo) -> Tensor | None:
        """Where unlabeled rows take a labeled row's voxels, (b, 1, x, y, z) bool; None where they take none."""
        consistency = self.settings.consistency
        if consistency.perturbation == "noise":
            return None
        return exchange_boxes(
            batch["image"].shape[2:],
            consistency.paste_fraction,
            consistency.paste_probability,
            seed=info.seed,
            step=info.step,
            rows=batch["index"][~batch["labeled"]].tolist(),  # drawn on the CPU: one wait for the device, not one a row
            device=batch["image"].device,
        )

    def _consistency(self, logits: Tensor, lesson: _Lesson) -> Tensor:
        segmentation, consistency = self.settings.segmentation, self.settings.consistency
        weight = lesson.confidence if consistency.weigh_by_confidence else None
        if consistency.target == "soft":
            return mse_consistency(logits, lesson.target, weight)
        return soft_dice_cross_entropy(
            logits,
            lesson.target,
            dice_weight=segmentation.dice_weight,
            cross_entropy_weight=segmentation.cross_entropy_weight,
            include_background=segmentation.include_background,
            weight=weight,
        )


def _certainty(logits: Tensor) -> Tensor:
    """1 - entropy / ln(classes), of logits (b, k, x, y, z): (b, 1, x, y, z), 1 where a single class takes all."""
    certainty = 1.0 - entropy(logits.float().softmax(dim=1)) / maximum_entropy(logits.shape[1])
    return certainty.clamp_min(0.0)  # rounding


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()
