"""FBA-Net in its default form: a mean teacher with foreground/background contrast on pooled decoder features."""

from __future__ import annotations

import torch
from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.labels import is_known
from medcontrast.losses.consistency import entropy, maximum_entropy, mse_consistency, mutual_consistency, sharpen
from medcontrast.losses.segmentation import soft_dice_cross_entropy
from medcontrast.methods.base import MakeNetwork, TeacherMethod, one_hot, rows_in_turn, strong_and_weak, supervised_loss
from medcontrast.methods.contrast import ForegroundBackgroundContrast
from medcontrast.schedules import gaussian_ramp_up
from medcontrast.settings.methods import FBANetSettings
from medcontrast.transforms.copy_paste import exchange_boxes, mix

_CHANNELS = {"features": "feature_channels", "logits": "classes"}
"""Which attribute of a network says how many channels the part of its output has that the head pools."""


class FBANet(TeacherMethod):
    """Supervised + consistency with the teacher on unlabeled rows + foreground/background contrast on all rows.

    The student sees the strong view of unlabeled rows, some of which take a box of another row, or all of it but a
    box; labeled rows stay whole. Its target is mixed in the same way from the teacher's answers to the weak view, and
    the labels where the other row is a labeled one. Contrast maps are the labels and those targets. Every foreground
    class has its own foreground and background; binary is a case of it.

    Paper: Chung et al. 2023, FBA-Net (contrast); Tarvainen and Valpola 2017 (teacher); Bai et al. 2023, BCP
        (exchange of boxes).
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

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        settings, labeled = self.settings, batch["labeled"]
        strong, weak = strong_and_weak(batch)
        label = batch["label"][labeled]
        rows = len(label)
        with torch.no_grad():
            answer = self.teacher(weak[~labeled]).logits
            target = self._target(answer)
            confidence = _certainty(answer) if self._weighs else torch.ones_like(answer[:, :1])
            unlabeled, target, confidence = self._perturb(batch, strong, target, confidence, info)
        outputs = self.student.decode_all(torch.cat([strong[labeled], unlabeled]))  # type: ignore[operator]
        logits = [output.logits for output in outputs]
        terms = {
            "supervised": _mean([supervised_loss(each[:rows], label, settings.segmentation) for each in logits]),
            "consistency": _mean([self._consistency(each[rows:], target, confidence) for each in logits]),
        }
        ramp = gaussian_ramp_up(info.step, settings.consistency.ramp_up_steps)
        loss = terms["supervised"] + settings.consistency.weight * ramp * terms["consistency"]
        if len(logits) > 1:
            terms["mutual"] = mutual_consistency(logits, settings.consistency.mutual_temperature)
            loss = loss + settings.consistency.mutual_weight * ramp * terms["mutual"]
        if settings.contrast.weight:
            contrast = self._contrast(getattr(outputs[0], settings.contrast.pooled), label, target, confidence)
            weight = settings.contrast.weight * gaussian_ramp_up(info.step, settings.contrast.ramp_up_steps)
            loss = loss + weight * torch.stack(list(contrast.values())).sum()
            terms |= contrast
        return {"loss": loss, **terms}

    def _contrast(self, pooled: Tensor, label: Tensor, target: Tensor, confidence: Tensor) -> dict[str, Tensor]:
        """Pull and push of what the student's head pools, by labels and the unlabeled rows' targets."""
        maps = torch.cat([one_hot(label, target.shape[1]), target])[:, 1:]
        known = torch.cat([is_known(label), torch.ones_like(target[:, :1], dtype=torch.bool)])
        weigh = self.settings.contrast.weigh_by_confidence
        weight = torch.cat([torch.ones_like(label, dtype=confidence.dtype), confidence]) if weigh else None
        terms: dict[str, Tensor] = self.contrast(pooled, maps, known, labeled_rows=len(label), confidence=weight)
        return terms

    def after_step(self, info: StepInfo) -> None:
        super().after_step(info)
        self.contrast.remember()

    def _target(self, logits: Tensor) -> Tensor:
        """The teacher's answer (b, k, x, y, z): sharpened soft-max, or its arg-max as 0 and 1."""
        consistency = self.settings.consistency
        if consistency.target == "soft":
            return sharpen(logits.float().softmax(dim=1), consistency.temperature)
        return one_hot(logits.argmax(dim=1, keepdim=True), logits.shape[1])

    def _perturb(
        self, batch: Batch, strong: Tensor, target: Tensor, confidence: Tensor, info: StepInfo
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the student sees of the unlabeled rows, what it shall answer, and how certain that is."""
        labeled, consistency = batch["labeled"], self.settings.consistency
        unlabeled = strong[~labeled]
        if consistency.perturbation == "noise":
            return unlabeled, target, confidence
        boxes = exchange_boxes(
            strong.shape[2:],
            consistency.paste_fraction,
            consistency.paste_probability,
            seed=info.seed,
            step=info.step,
            rows=batch["index"][~labeled].tolist(),  # drawn on the CPU: one wait for the device, not one a row
            device=strong.device,
        )
        ours = (unlabeled, target, confidence)
        if consistency.paste_from == "unlabeled":
            theirs = [rows_in_turn(each, len(unlabeled), first=1) for each in ours]
        else:
            partner, label = (rows_in_turn(each[labeled], len(unlabeled)) for each in (strong, batch["label"]))
            boxes = boxes & is_known(label)  # nothing is pasted from where the label is ignored
            theirs = [partner, one_hot(label, target.shape[1]).to(target.dtype), torch.ones_like(confidence)]
        partner, target, confidence = (
            mix(inside, outside, boxes) for inside, outside in zip(theirs, ours, strict=True)
        )
        return partner, target, confidence

    def _consistency(self, logits: Tensor, target: Tensor, confidence: Tensor) -> Tensor:
        consistency = self.settings.consistency
        weight = confidence if consistency.weigh_by_confidence else None
        if consistency.target == "soft":
            return mse_consistency(logits, target, weight)
        return soft_dice_cross_entropy(logits, target, **self.settings.segmentation.model_dump(), weight=weight)


def _certainty(logits: Tensor) -> Tensor:
    """1 - entropy / ln(classes), of logits (b, k, x, y, z): (b, 1, x, y, z), 1 where a single class takes all."""
    certainty = 1.0 - entropy(logits.float().softmax(dim=1)) / maximum_entropy(logits.shape[1])
    return certainty.clamp_min(0.0)  # rounding


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()
