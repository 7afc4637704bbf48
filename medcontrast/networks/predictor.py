"""A predictor of an image's parents: it says which scanner, age or class an image looks like.

Letters: b rows, c channels, x, y pixels, p numbers of the parents.
"""

from __future__ import annotations

from torch import Tensor, nn

from medcontrast.networks.encoders2d import build_encoder

PREDICTOR_SHIFT = 0.1
"""Of the sides: how far a predictor's training images are moved, lest it learn those of rare domains by heart."""


class Predictor(nn.Module):
    """The parents of an image, as a generator's numbers: logits of categories, standardised numbers."""

    def __init__(self, channels: int, width: int, *, norm: str = "batch") -> None:
        """Builds a ResNet-20 with a linear layer on it.

        Args:
            channels: c.
            width: p.
            norm: As for `build_encoder`.
        """
        super().__init__()
        self.encoder = build_encoder("resnet20", in_channels=channels, norm=norm)
        self.head = nn.Linear(self.encoder.feature_channels, width)

    def forward(self, image: Tensor) -> Tensor:
        """(b, p) of images (b, c, x, y) in 0..1."""
        found: Tensor = self.head(self.encoder((image - 0.5) / 0.25))
        return found
