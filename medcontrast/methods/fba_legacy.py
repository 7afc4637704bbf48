"""FBA-Net as its public code has it: three decoders, heads on logits, no teacher. For comparison, not for use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcontrast.batch import Batch, StepInfo
from medcontrast.losses.consistency import mutual_consistency
from medcontrast.losses.foreground_background import pull, push
from medcontrast.losses.segmentation import dice_cross_entropy
from medcontrast.methods.base import MakeNetwork, Method, strong_and_weak
from medcontrast.networks.heads import LegacyForegroundBackgroundHead
from medcontrast.schedules import gaussian_ramp_up
from medcontrast.settings.methods import FBALegacySettings


class FBALegacy(Method):
    """Dice of every decoder + sharpened consistency between decoders + pull and push of each decoder's head.

    Ranks start at -1, similarities are clamped, and an embedding's pair with itself counts, as in the public code.

    Paper: Chung et al. 2023, FBA-Net, public code.
    Deviation: Sharpening, Dice and consistency are written for any number of classes; two are the public form. The
        heads see one map of all logits, so that their foreground is not a class's own.
    """

    def __init__(self, settings: FBALegacySettings, make_network: MakeNetwork) -> None:
        super().__init__()
        self.settings = settings
        self.student = make_network()
        classes = int(self.student.classes)  # type: ignore[arg-type]
        self.heads = nn.ModuleList(
            LegacyForegroundBackgroundHead(classes, settings.patch, settings.embedding_channels) for _ in range(3)
        )

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        settings, labeled = self.settings, batch["labeled"]
        strong, _ = strong_and_weak(batch)
        logits = [output.logits.float() for output in self.student.decode_all(strong)]  # type: ignore[operator]
        label = batch["label"][labeled]
        dice = torch.stack(
            [dice_cross_entropy(each[labeled], label, dice_weight=1.0, cross_entropy_weight=0.0) for each in logits]
        ).sum()
        terms = {
            "dice": dice,
            "consistency": mutual_consistency(logits, settings.temperature),
            **self._contrast(logits),
        }
        # the public code counts the step before it asks for the weight
        ramp = gaussian_ramp_up(info.step + 1, settings.ramp_up_steps, hold_steps=settings.ramp_hold_steps)
        contrast = terms["pull_foreground"] + terms["pull_background"] + terms["push"]
        loss = settings.dice_weight * dice + settings.consistency_weight * ramp * terms["consistency"]
        return {"loss": loss + settings.contrast_weight * contrast, **terms}

    def _contrast(self, logits: list[Tensor]) -> dict[str, Tensor]:
        settings = self.settings
        sums: dict[str, Tensor] = {}
        for head, each in zip(self.heads, logits, strict=True):
            embeddings = head(each)
            foreground, background = embeddings.foreground[:, 0], embeddings.background[:, 0]
            terms = {
                "pull_foreground": _legacy_pull(foreground, settings.pull_rank_decay),
                "pull_background": _legacy_pull(background, settings.pull_rank_decay),
                "push": push(foreground, background, rank_decay=settings.push_rank_decay, rank_start=-1, form="clamp"),
            }
            for name, value in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
        return sums


def _legacy_pull(embeddings: Tensor, rank_decay: float) -> Tensor:
    return pull(embeddings, rank_decay=rank_decay, rank_start=-1, form="clamp", exclude_diagonal=False)
