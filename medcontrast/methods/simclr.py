"""SimCLR: the two views of an image find each other among all views of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from medcontrast.batch import Batch, StepInfo
from medcontrast.distributed import gather_with_gradient
from medcontrast.losses.info_nce import nt_xent
from medcontrast.methods.base import Method
from medcontrast.methods.momentum import MakeEncoder, views_of
from medcontrast.networks.projection import ProjectionHead
from medcontrast.settings.pretraining import SimCLRSettings


class SimCLR(Method):
    """NT-Xent over the views of all processes; both views go through the encoder in one batch.

    Paper: Chen 2020 (SimCLR), algorithm 1.
    Deviation: over several processes batch normalisation keeps each process's own statistics, where the paper's are
        global.
    """

    def __init__(self, settings: SimCLRSettings, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.settings = settings
        self.student = make_encoder()
        self.head = ProjectionHead(self.student.feature_channels, settings.embedding_channels)

    def losses(self, batch: Batch, info: StepInfo) -> dict[str, Tensor]:
        first, second = views_of(batch, self.settings.views, "simclr")
        embedding = self.head(self.student(torch.cat([first, second])))
        first, second = (gather_with_gradient(part) for part in embedding.chunk(2))
        return {"loss": nt_xent(first, second, temperature=self.settings.temperature)}
