"""Bidirectional copy-paste: labeled and unlabeled rows exchange a box, and the mixed rows are learned whole."""

from __future__ import annotations

import torch
from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.components import keep_largest
from medcontrast.methods.base import MakeNetwork, TeacherMethod, rows_in_turn, strong_and_weak, supervised_loss
from medcontrast.settings.methods import BCPSettings
from medcontrast.transforms.copy_paste import mix, paste_boxes


class BCP(TeacherMethod):
    """Dice and cross-entropy of mixed rows: to the label where a voxel has one, to the teacher's arg-max elsewhere.

    `supervised` is the loss over voxels of labeled rows, `consistency` that over voxels of unlabeled rows. In the
    pre-training both rows of a pair are labeled, and every voxel of their mixtures counts.

    Paper: Bai et al. 2023, "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation", section 3.
    Deviation: Every pair is exchanged in both directions, where the public code takes half of the pairs for each, so
        that every labeled row is seen whole in every step, as in the other methods. Each pair draws its own box. The
        pre-training is the first part of the same run, and its network keeps being averaged into the teacher.
        Dice leaves the background out and the teacher is in evaluation mode; the public code does neither.
    """

    def __init__(self, settings: BCPSettings, make_network: MakeNetwork) -> None:
        super().__init__(make_network, settings.ema_decay)
        self.settings = settings

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        strong, weak = strong_and_weak(batch)
        labeled, index = batch["labeled"], batch["index"]
        ours, label, rows = strong[labeled], batch["label"][labeled], index[labeled]
        if info.step < self.settings.pretrain_steps:
            others, their_label = (rows_in_turn(each, len(each), first=-1) for each in (ours, label))
            own, logits = self._mixtures(ours, others, rows, info)
            mixed_label = mix(torch.cat([label, label]), torch.cat([their_label, their_label]), own)
            supervised = supervised_loss(logits, mixed_label, self.settings.segmentation)
            return {"loss": supervised, "supervised": supervised}
        with torch.no_grad():
            target = self._target(self.teacher(weak[~labeled]).logits)
        other, target = rows_in_turn(strong[~labeled], len(ours)), rows_in_turn(target, len(ours))
        own, logits = self._mixtures(ours, other, rows, info)
        supervised, consistency = (
            supervised_loss(logits, torch.cat([each, each]), self.settings.segmentation, where)
            for each, where in ((label, own), (target, ~own))
        )
        loss = supervised + self.settings.unlabeled_weight * consistency
        return {"loss": loss, "supervised": supervised, "consistency": consistency}

    def _mixtures(self, ours: Tensor, other: Tensor, rows: Tensor, info: StepInfo) -> tuple[Tensor, Tensor]:
        """Where both mixtures of every pair show `ours` (2b, 1, x, y, z), and the student's logits of them."""
        boxes = paste_boxes(
            ours.shape[2:],
            self.settings.paste_fraction,
            seed=info.seed,
            step=info.step,
            rows=rows.tolist(),
            device=ours.device,
        )
        own = torch.cat([boxes, ~boxes])
        return own, self.student(mix(torch.cat([ours, ours]), torch.cat([other, other]), own)).logits

    def _target(self, logits: Tensor) -> Tensor:
        """The teacher's arg-max (b, 1, x, y, z), stray pieces removed."""
        label = logits.argmax(dim=1, keepdim=True)
        kept = self.settings.largest_component
        if kept == "none":
            return label
        cleaned = [keep_largest(row[0].numpy(), kept) for row in label.cpu()]
        return torch.stack([torch.from_numpy(row) for row in cleaned]).unsqueeze(1).to(label)
