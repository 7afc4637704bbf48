"""Heads that only pre-training has: they turn an encoder's features into embeddings that a loss compares.

Letters: b rows, c feature channels, d embedding channels, k prototypes.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


class ProjectionHead(nn.Module):
    """Linear, ReLU, linear: features (b, c) to embeddings (b, d), not normalised; dropped after pre-training.

    Paper: Chen 2020 (SimCLR), section 4.2; MoCo v2 (Chen 2020) takes the same.
    """

    def __init__(self, feature_channels: int, embedding_channels: int) -> None:
        """Builds the two layers.

        Args:
            feature_channels: c, also of the hidden layer.
            embedding_channels: d.
        """
        super().__init__()
        self.hidden = nn.Linear(feature_channels, feature_channels)
        self.last = nn.Linear(feature_channels, embedding_channels)

    def forward(self, features: Tensor) -> Tensor:
        embedding: Tensor = self.last(nn.functional.relu(self.hidden(features)))
        return embedding


class DeepHead(nn.Module):
    """Linear layers, each but the last followed by batch norm and ReLU; the last by batch norm without weights.

    Paper: Chen 2021 (MoCo v3), section 4.3: three layers project, two predict.
    """

    def __init__(self, in_channels: int, hidden_channels: int, embedding_channels: int, *, layers: int) -> None:
        """Builds the layers.

        Args:
            in_channels: c.
            hidden_channels: Of all layers but the last.
            embedding_channels: d.
            layers: Linear layers, at least 1.
        """
        super().__init__()
        widths = [in_channels, *[hidden_channels] * (layers - 1), embedding_channels]
        parts: list[nn.Module] = []
        for place, (before, after) in enumerate(itertools.pairwise(widths)):
            last = place == layers - 1
            parts += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after, affine=not last)]
            if not last:
                parts.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*parts)

    def forward(self, features: Tensor) -> Tensor:
        """Features (b, c) to embeddings (b, d)."""
        embedding: Tensor = self.layers(features)
        return embedding


class PrototypeHead(nn.Module):
    """Three layers to a bottleneck, scaled to length 1, and its cosine with each of k prototypes: the logits (b, k).

    Prototypes count by their direction alone, which is weight normalisation with its length fixed at 1.

    Paper: Caron 2021 (DINO), section 3.1 and appendix C; Salimans 2016 for weight normalisation.
    """

    def __init__(self, in_channels: int, hidden_channels: int, bottleneck_channels: int, prototypes: int) -> None:
        """Builds the layers.

        Args:
            in_channels: c.
            hidden_channels: Of the first two layers.
            bottleneck_channels: d.
            prototypes: k.
        """
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, bottleneck_channels),
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck_channels))
        nn.init.normal_(self.prototypes)
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features (b, c) to logits (b, k)."""
        bottleneck = self.layers(features)
        # not in 16 bits: a temperature of 0.04 makes a cosine's rounding 25 times as large
        with torch.autocast(device_type=bottleneck.device.type, enabled=False):
            bottleneck = bottleneck.to(torch.promote_types(bottleneck.dtype, torch.float32))
            directions = functional.normalize(self.prototypes, dim=-1)
            return functional.linear(functional.normalize(bottleneck, dim=-1), directions)
