"""Heads that turn a network's output into foreground and background embeddings of a volume.

Letters: b rows, c feature channels, k activation maps, d embedding channels, n voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcontrast.errors import InputError


class Embeddings(NamedTuple):
    """Embeddings of the inside and the outside of each activation map.

    Attributes:
        foreground: (b, k, d).
        background: (b, k, d).
        foreground_valid: (b, k) bool; False where the map is empty, and the embedding means nothing.
        background_valid: (b, k) bool; False where the map fills the volume.
    """

    foreground: Tensor
    background: Tensor
    foreground_valid: Tensor
    background_valid: Tensor


class ForegroundBackgroundHead(nn.Module):
    """Pools decoder features inside and outside of activation maps and embeds each by one small MLP.

    embedding = MLP(sum_v A(v) f(v) / sum_v A(v)), and the same with 1 - A. Rows do not see each other. No patch size is
    fixed; with 16 feature and 128 embedding channels it has 4,768 parameters. float32 (float64 if given it), autocast
    off.

    Paper: FBA-Net (Chung 2023), with the pooling of class-agnostic activation maps (C2AM, Xie 2022).
    Deviation: FBA-Net flattens a map of the logits into a Linear layer, which holds 16 M weights, fixes the patch, and
        gives nearly the same embedding for any image at first. Here features are pooled; layer normalisation without
        parameters before and after the MLP takes out what normalised, rectified features share in every volume. The
        end is a soft-plus where FBA-Net has a ReLU: embeddings stay in one orthant, where push and pull both have a
        gradient, and no unit can die.
    """

    def __init__(
        self,
        feature_channels: int,
        embedding_channels: int = 128,
        *,
        hidden_channels: int = 32,
        minimum_voxels: float = 1.0,
    ) -> None:
        """Builds the MLP.

        Args:
            feature_channels: c.
            embedding_channels: d.
            hidden_channels: Width of the MLP's one hidden layer.
            minimum_voxels: An inside or outside with less weight than this many voxels is not valid.
        """
        super().__init__()
        self.minimum_voxels = minimum_voxels
        self.hidden = nn.Linear(feature_channels, hidden_channels)
        self.last = nn.Linear(hidden_channels, embedding_channels)
        for layer in (self.hidden, self.last):
            # A bias is the same for every volume: at first it would only hide what differs.
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, activation: Tensor, weight: Tensor | None = None) -> Embeddings:
        """Embeds the inside and the outside of each map.

        Args:
            features: (b, c, *spatial).
            activation: (b, k, *spatial) in 0..1, for example the soft-max of the foreground classes.
            weight: (b, 1, *spatial) in 0..1, how much each voxel counts on either side; default 1.
        """
        with torch.autocast(device_type=features.device.type, enabled=False):
            inside = _full(activation)
            outside = 1.0 - inside
            if weight is not None:
                inside, outside = inside * _full(weight), outside * _full(weight)
            foreground, foreground_voxels = masked_average(features, inside)
            background, background_voxels = masked_average(features, outside)
            return Embeddings(
                self._embed(foreground),
                self._embed(background),
                foreground_voxels >= self.minimum_voxels,
                background_voxels >= self.minimum_voxels,
            )

    def _embed(self, pooled: Tensor) -> Tensor:
        hidden = functional.gelu(self.hidden(functional.layer_norm(pooled, pooled.shape[-1:])))
        last = self.last(hidden)
        return functional.softplus(functional.layer_norm(last, last.shape[-1:]), beta=4)


class LegacyForegroundBackgroundHead(nn.Module):
    """FBA-Net's public head: a map of the logits, flattened, through one Linear layer a kind.

    activation A = sigmoid(batch norm(3x3x3 stride-2 convolution of the logits)), n voxels; foreground = ReLU(Linear(A /
    n)), background = ReLU(Linear((1 - A) / n)). For a patch of 112x112x80 and 128 channels it has 32.1 M parameters. It
    runs in float32, autocast off.

    Paper: FBA-Net (Chung 2023), public code.
    """

    def __init__(self, classes: int, patch: Sequence[int], embedding_channels: int = 128) -> None:
        """Builds the layers.

        Args:
            classes: Channels of the logits.
            patch: x, y, z of every patch, in voxels.
            embedding_channels: d.
        """
        super().__init__()
        self.patch = tuple(patch)
        self.voxels = math.prod((side + 1) // 2 for side in patch)
        self.activation = nn.Sequential(nn.Conv3d(classes, 1, 3, stride=2, padding=1), nn.BatchNorm3d(1), nn.Sigmoid())
        self.foreground = nn.Linear(self.voxels, embedding_channels)
        self.background = nn.Linear(self.voxels, embedding_channels)

    def forward(self, logits: Tensor) -> Embeddings:
        """Embeds logits (b, classes, x, y, z); k is 1 and every embedding valid.

        Raises:
            InputError: Logits of another patch than the head was made for.
        """
        if tuple(logits.shape[2:]) != self.patch:
            raise InputError(
                f"This head was made for patches of {self.patch}, but got {tuple(logits.shape[2:])}: "
                "the legacy head is tied to one patch size. Give the method the patch that the data has."
            )
        with torch.autocast(device_type=logits.device.type, enabled=False):
            inside = self.activation(_full(logits)).flatten(1)
            foreground = functional.relu(self.foreground(inside / self.voxels)).unsqueeze(1)
            background = functional.relu(self.background((1.0 - inside) / self.voxels)).unsqueeze(1)
        valid = torch.ones(foreground.shape[:2], dtype=torch.bool, device=logits.device)
        return Embeddings(foreground, background, valid, valid)


def masked_average(features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Average of features (b, c, *spatial) under weights (b, k, *spatial): (b, k, c), and the weights' sums (b, k).

    Finite, and without weights zero: the sums that divide are at least a thousandth of a voxel.
    """
    flat, weight = _full(features).flatten(2), _full(weight).flatten(2)
    dtype = torch.promote_types(flat.dtype, weight.dtype)
    flat, weight = flat.to(dtype), weight.to(dtype)
    voxels = weight.sum(-1)
    return torch.einsum("bcn,bkn->bkc", flat, weight) / voxels.clamp_min(1e-3).unsqueeze(-1), voxels.detach()


def _full(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
