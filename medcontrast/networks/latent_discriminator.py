"""A discriminator of latents: it looks for an image's categorical parents in what should not know them.

Letters: b rows, z latent channels, s, t places of a latent's level, k values of a parent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 64
"""Channels of its convolutions."""


class LatentDiscriminator(nn.Module):
    """Two convolutions over the latents of all levels, their mean over places, and a linear layer for each parent.

    Paper: Lample 2017 (Fader Networks), section 3, for a discriminator of attributes on a latent; Ganin 2016 for the
        reversed gradient, by which one step trains both sides.
    """

    def __init__(self, latent_channels: int, widths: Sequence[int]) -> None:
        """Builds it.

        Args:
            latent_channels: z of all latent layers together.
            widths: k of every parent.
        """
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(latent_channels, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.SiLU(),
        )
        self.heads = nn.ModuleList(nn.Linear(WIDTH, width) for width in widths)

    def forward(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Logits (b, k) of every parent, of latents (b, z, s, t) whose coarser ones are repeated to the finest."""
        sides = max((tuple(latent.shape[2:]) for latent in latents), key=lambda side: side[0] * side[1])
        joined = torch.cat([functional.interpolate(latent, size=sides, mode="nearest") for latent in latents], dim=1)
        features = self.layers(joined).mean(dim=(2, 3))
        return [head(features) for head in self.heads]


def reversed_gradient(value: Tensor, weight: float) -> Tensor:
    """The same values, through which a gradient goes back times -weight."""
    return value.detach() - weight * (value - value.detach())
