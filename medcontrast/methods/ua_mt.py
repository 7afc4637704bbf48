"""Uncertainty-aware mean teacher: the student learns from its teacher only where that is sure of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medcontrast.batch import Batch, StepInfo
from medcontrast.losses.consistency import entropy, maximum_entropy, mse_consistency
from medcontrast.methods.base import MakeNetwork, TeacherMethod, share_over_rows, strong_and_weak, supervised_loss
from medcontrast.schedules import gaussian_ramp_up
from medcontrast.settings.methods import UAMTSettings
from medcontrast.transforms.draws import device_generator

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


class UAMT(TeacherMethod):
    """Supervised loss on labeled rows, squared difference to the teacher on the certain voxels of unlabeled rows.

    A voxel is certain where the entropy of the mean of several noisy passes is below a threshold that ramps from
    `threshold_start` ln C to ln C, with C classes, over the whole run; `ramp_up_steps` is the weight's alone. (In the
    paper both ramps end with the run.)

    Paper: Yu et al. 2019, "Uncertainty-aware Self-ensembling Model", section 2.
    Deviation: The target is the teacher's plain answer on the weak view, without noise; its batch norm goes by
        its running statistics; dropout acts in the noisy passes where the network has any. Means are taken row by row.
        The public teacher is in training mode throughout, and its student is what is tested.
    """

    def __init__(self, settings: UAMTSettings, make_network: MakeNetwork) -> None:
        super().__init__(make_network, settings.ema_decay)
        self.settings = settings

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        settings, labeled = self.settings, batch["labeled"]
        strong, weak = strong_and_weak(batch)
        logits = self.student(strong).logits
        ramp = gaussian_ramp_up(info.step, settings.ramp_up_steps)
        with torch.no_grad():
            target = self.teacher(weak[~labeled]).logits.float().softmax(dim=1)
            opened = gaussian_ramp_up(info.step, info.total)
            share = settings.threshold_start + (1.0 - settings.threshold_start) * opened
            certain = self._uncertainty(weak[~labeled], batch["index"][~labeled], info) < share * maximum_entropy(
                target.shape[1]
            )
        supervised = supervised_loss(logits[labeled], batch["label"][labeled], settings.segmentation)
        consistency = share_over_rows(mse_consistency(logits[~labeled], target, certain), certain)
        loss = supervised + settings.consistency_weight * ramp * consistency
        return {"loss": loss, "supervised": supervised, "consistency": consistency}

    def _uncertainty(self, image: Tensor, rows: Tensor, info: StepInfo) -> Tensor:
        """Entropy (b, 1, x, y, z) of the mean soft-max of several noisy passes."""
        settings = self.settings
        generators = [device_generator(info.seed, info.step, row, "uncertainty", image.device) for row in rows.tolist()]
        total = torch.zeros((), device=image.device)
        with _dropout(self.teacher):
            for _ in range(settings.passes):
                noise = torch.stack([_normal(image[0], generator) for generator in generators])
                noise = (settings.noise_std * noise).clamp(-2.0 * settings.noise_std, 2.0 * settings.noise_std)
                total = total + self.teacher(image + noise).logits.float().softmax(dim=1)
        return entropy(total / settings.passes)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)


@contextmanager
def _dropout(network: nn.Module) -> Iterator[None]:
    """Dropout acts inside, and nothing else changes its mode."""
    layers = [module for module in network.modules() if isinstance(module, _DROPOUTS)]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()
