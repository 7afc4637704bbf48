"""Blocks of the hierarchical variational auto-encoder.

Letters: b rows, c channels, z latent channels, s, t places of the block's level.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

LN_2 = math.log(2.0)


def positive(number: Tensor, temperature: float = 1.0) -> Tensor:
    """A scale above 0 from any number: log2(1 + 2^(number + ln temperature)); 0 gives 1.

    The temperature enters before the soft-plus, as in the public code.
    """
    return functional.softplus(number + math.log(temperature) if temperature != 1.0 else number, beta=LN_2)


class Latent(NamedTuple):
    """One latent layer of one pass, each (b, z, s, t).

    Attributes:
        value: What was drawn, or given.
        mean: Of the posterior; of the prior where no image was seen.
        scale: Of the same.
        prior_mean: Of the prior.
        prior_scale: Of the prior.
    """

    value: Tensor
    mean: Tensor
    scale: Tensor
    prior_mean: Tensor
    prior_scale: Tensor


class Block(nn.Module):
    """Twice group norm, SiLU, convolution: to the inner width, then, after dropout, out.

    The parents come in between the two: as a bias before the second norm, or, with `scaled`, as a factor and a bias
    after it. The last convolution starts at 0, so that the block gives 0 at first.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        context: int = 0,
        scaled: bool = False,
        bottleneck: int = 2,
        kernel: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = max(1, in_channels // bottleneck)
        self.scaled = scaled
        self.first_norm = nn.GroupNorm(_groups(in_channels), in_channels)
        self.first = nn.Conv2d(in_channels, inner, kernel, padding=kernel // 2)
        self.context = nn.Linear(context, 2 * inner if scaled else inner) if context else None
        self.second_norm = nn.GroupNorm(_groups(inner), inner)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Conv2d(inner, out_channels, kernel, padding=kernel // 2)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """(b, c, s, t) and the parents' vector (b, d), where the block takes one."""
        hidden = self.first(functional.silu(self.first_norm(features)))
        if self.context is None:
            hidden = self.second_norm(hidden)
        elif self.scaled:
            hidden = scaled_and_shifted(self.second_norm(hidden), self.context(context))
        else:
            hidden = self.second_norm(hidden + self.context(context)[:, :, None, None])
        out: Tensor = self.second(self.dropout(functional.silu(hidden)))
        return out


def scaled_and_shifted(features: Tensor, numbers: Tensor) -> Tensor:
    """(b, c, s, t) times 1 + the first half of the numbers (b, 2c), plus the second."""
    factor, shift = numbers[:, :, None, None].chunk(2, dim=1)
    return features * (1.0 + factor) + shift


class DecoderBlock(nn.Module):
    """Prior and posterior of one latent layer, and how it joins the stream; without latent channels the last alone."""

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        context: int,
        *,
        told: bool,
        scaled: bool,
        bottleneck: int,
        kernel: int,
        dropout: float,
    ) -> None:
        """Builds the block.

        Args:
            channels: c.
            latent_channels: z; 0 for none.
            context: Length of the parents' vector.
            told: Whether prior and stream know the parents; the posterior always does.
            scaled: Whether the parents come in as factors too.
            bottleneck: A block's inner width is its width divided by this.
            kernel: Side of the convolutions.
            dropout: In every block.
        """
        super().__init__()
        plain: dict[str, Any] = {"scaled": scaled, "bottleneck": bottleneck, "kernel": kernel, "dropout": dropout}
        streams = {"context": context if told else 0, **plain}
        self.latent_channels = latent_channels
        if latent_channels:
            self.prior = Block(channels, 2 * latent_channels + channels, **streams)
            self.posterior = Block(2 * channels, 2 * latent_channels, context=context, **plain)
            self.join = nn.Conv2d(latent_channels, channels, 1)
        self.merge = Block(channels, channels, **streams)

    def forward(
        self, features: Tensor, context: Tensor, *, seen: Tensor | None, value: Tensor | None, temperature: float
    ) -> tuple[Tensor, Latent | None]:
        """The stream after this block, and its latent layer where it has one.

        Args:
            features: (b, c, s, t), the stream.
            context: (b, d), the parents' vector.
            seen: (b, c, s, t), the encoder's features; None draws from the prior.
            value: (b, z, s, t), a latent to use as it is.
            temperature: On the scale of what is drawn; 0 takes the mean.
        """
        latent = None
        if self.latent_channels:
            z = self.latent_channels
            mean, number, extra = self.prior(features, context).split([z, z, features.shape[1]], dim=1)
            prior_mean, prior_scale = mean, positive(number)
            if seen is not None:
                mean, number = self.posterior(torch.cat([features, seen], dim=1), context).chunk(2, dim=1)
            scale = positive(number)
            if value is None:
                value = mean
                if temperature > 0.0:
                    value = mean + positive(number, temperature) * torch.randn_like(mean)
            latent = Latent(value, mean, scale, prior_mean, prior_scale)
            features = features + extra + self.join(value)
        return features + self.merge(features, context), latent


def _groups(channels: int) -> int:
    return math.gcd(channels, max(1, min(32, channels // 4)))
