"""FBA-Net in its default form: a mean teacher with foreground/background contrast on pooled decoder features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medcontrast.batch import Batch, StepInfo
from medcontrast.distributed import gather_with_gradient
from medcontrast.losses.consistency import mse_consistency, sharpen
from medcontrast.losses.foreground_background import pull, push
from medcontrast.losses.segmentation import soft_dice_cross_entropy
from medcontrast.methods.base import MakeNetwork, TeacherMethod, strong_and_weak, supervised_loss
from medcontrast.networks.heads import Embeddings, ForegroundBackgroundHead
from medcontrast.networks.queue import EmbeddingQueue
from medcontrast.schedules import gaussian_ramp_up
from medcontrast.settings.methods import FBANetSettings
from medcontrast.transforms.copy_paste import mix, paste_boxes


class FBANet(TeacherMethod):
    """Supervised + consistency with the teacher on unlabeled rows + pull and push of class embeddings.

    Every foreground class has its own foreground (its soft-max map) and background (the rest); binary is a case of it.

    Paper: Chung et al. 2023, "FBA-Net: Foreground and Background Aware Contrastive Learning for Semi-Supervised
        Atrium Segmentation", equations of L_pull and L_push.
    Deviation: One decoder and an EMA teacher instead of three decoders; heads pool decoder features instead of
        flattening logits. docs/methods.md has the reasons; `fba_legacy` is the published form.
    """

    def __init__(self, settings: FBANetSettings, make_network: MakeNetwork) -> None:
        super().__init__(make_network, settings.ema_decay)
        self.settings = settings
        contrast = settings.contrast
        classes = int(self.student.classes) - 1  # type: ignore[arg-type]
        self.head = ForegroundBackgroundHead(int(self.student.feature_channels), contrast.embedding_channels)  # type: ignore[arg-type]
        self.foreground_memory = EmbeddingQueue(contrast.memory, classes, contrast.embedding_channels)
        self.background_memory = EmbeddingQueue(contrast.memory, classes, contrast.embedding_channels)
        self._fresh: Embeddings | None = None

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        settings, labeled = self.settings, batch["labeled"]
        strong, weak = strong_and_weak(batch)
        label = batch["label"][labeled]
        with torch.no_grad():
            probabilities = self.teacher(weak[~labeled]).logits.float().softmax(dim=1)
            student_input, target = self._perturb(batch, strong, self._target(probabilities), info)
        output = self.student(torch.cat([strong[labeled], student_input]))
        rows = len(label)
        terms = {"supervised": supervised_loss(output.logits[:rows], label, settings.segmentation)}
        terms["consistency"] = self._consistency(output.logits[rows:], target)
        maps = torch.cat([_one_hot(label, target.shape[1]), target])[:, 1:]
        terms |= self._contrast(output.features, maps)
        consistency = settings.consistency.weight * gaussian_ramp_up(info.step, settings.consistency.ramp_up_steps)
        contrast = settings.contrast.weight * gaussian_ramp_up(info.step, settings.contrast.ramp_up_steps)
        contrast_terms = terms["pull_foreground"] + terms["pull_background"] + terms["push"]
        loss = terms["supervised"] + consistency * terms["consistency"] + contrast * contrast_terms
        return {"loss": loss, **terms}

    def _target(self, probabilities: Tensor) -> Tensor:
        consistency = self.settings.consistency
        if consistency.target == "soft":
            return sharpen(probabilities, consistency.temperature)
        hard = functional.one_hot(probabilities.argmax(dim=1), probabilities.shape[1])
        return hard.movedim(-1, 1).to(probabilities.dtype)

    def _perturb(self, batch: Batch, strong: Tensor, target: Tensor, info: StepInfo) -> tuple[Tensor, Tensor]:
        """What the student sees of the unlabeled rows, and what it shall answer."""
        labeled, consistency = batch["labeled"], self.settings.consistency
        unlabeled_image = strong[~labeled]
        if consistency.perturbation == "noise":
            return unlabeled_image, target
        rows = batch["index"][~labeled]
        partner = torch.arange(len(rows), device=strong.device) % int(labeled.sum())
        boxes = paste_boxes(
            strong.shape[2:], consistency.paste_fraction, seed=info.seed, step=info.step, rows=rows, device=strong.device
        )
        # both directions of the exchange: every other row is unlabeled outside the box, the rest inside it
        boxes = boxes ^ (rows.to(strong.device) % 2 == 0).view(-1, 1, 1, 1, 1)
        label = batch["label"][labeled][partner]
        truth = _one_hot(label, target.shape[1])
        boxes = boxes & (label >= 0)  # nothing is pasted where the label is ignored
        return mix(strong[labeled][partner], unlabeled_image, boxes), mix(truth, target, boxes)

    def _consistency(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.settings.consistency.target == "soft":
            return mse_consistency(logits, target)
        segmentation = self.settings.segmentation
        return soft_dice_cross_entropy(
            logits,
            target,
            dice_weight=segmentation.dice_weight,
            cross_entropy_weight=segmentation.cross_entropy_weight,
            include_background=segmentation.include_background,
        )

    def _contrast(self, features: Tensor, maps: Tensor) -> dict[str, Tensor]:
        """Pull and push of each class's foreground and background embeddings, averaged over classes."""
        contrast = self.settings.contrast
        embeddings = Embeddings(*(gather_with_gradient(part) for part in self.head(features, maps)))
        terms: dict[str, list[Tensor]] = {"pull_foreground": [], "pull_background": [], "push": []}
        for k in range(maps.shape[1]):
            foreground, foreground_valid = embeddings.foreground[:, k], embeddings.foreground_valid[:, k]
            background, background_valid = embeddings.background[:, k], embeddings.background_valid[:, k]
            decay = contrast.pull_rank_decay
            terms["pull_foreground"].append(pull(foreground, rank_decay=decay, valid=foreground_valid))
            terms["pull_background"].append(pull(background, rank_decay=decay, valid=background_valid))
            terms["push"].append(
                push(
                    foreground,
                    background,
                    rank_decay=contrast.push_rank_decay,
                    foreground_valid=foreground_valid,
                    background_valid=background_valid,
                )
            )
        return {name: torch.stack(values).mean() for name, values in terms.items()}


def _one_hot(label: Tensor, classes: int) -> Tensor:
    """(b, 1, x, y, z) class indices as (b, k, x, y, z); all zero where ignored."""
    valid = label >= 0
    hot = functional.one_hot(label.clamp_min(0)[:, 0], classes).movedim(-1, 1)
    return (hot * valid).float()
