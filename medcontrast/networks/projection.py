"""Heads that only pre-training has: they turn an encoder's features into embeddings that a loss compares.

Letters: b rows, c feature channels, d embedding channels.
"""

from __future__ import annotations

from torch import Tensor, nn


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
