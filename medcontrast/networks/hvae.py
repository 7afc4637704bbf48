"""The mechanism of an image in a causal model: a conditional hierarchical variational auto-encoder.

Abduction finds the noise of an image under its parents, action changes the parents, prediction makes the image again.

Letters: b rows, c channels, h, w pixels, p numbers of the parents, z latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.networks.hvae_blocks import Block, DecoderBlock, Latent, positive, scaled_and_shifted
from medcontrast.networks.parents import Parents

ScaleForm = Literal["fixed", "learned", "pixelwise"]
PriorForm = Literal["conditional", "exogenous"]
ParentsForm = Literal["shift", "factor_and_shift"]
Zeroed = TypeVar("Zeroed", nn.Conv2d, nn.Linear)
BIAS_SIDE = 64
"""Levels of at most this many pixels a side have a learned map of their own."""


class Reconstruction(NamedTuple):
    """What one pass in training gives; image and location in -1..1.

    Attributes:
        target: (b, c, h, w), the image that came in.
        mean: (b, c, h, w), location of the likelihood.
        scale: Its scale, of a shape that broadcasts.
        latents: Posterior and prior of every latent layer, the coarsest first.
    """

    target: Tensor
    mean: Tensor
    scale: Tensor
    latents: list[Latent]


class Noise(NamedTuple):
    """Exogenous noise of an image, which an intervention leaves as it is.

    Attributes:
        latents: (b, z, *sides) of every latent layer, the coarsest first.
        residual: (b, c, h, w), (image - mean) / scale under the image's own parents.
    """

    latents: list[Tensor]
    residual: Tensor


class HVAE(nn.Module):
    """Encoder upwards, decoder downwards; prior, posterior and decoder know the parents, the encoder does not.

    Level i has 1 / 2^i of the image's sides; the last level always has one place. A level with 0 latent channels is
    deterministic, so that `latent_channels=(0, 0, 0, 16)` with one block at the last level is the single-latent form.
    At first every KL is exactly 0 and the image's mean 0: the last convolution of every block starts at 0.

    With a conditional prior a latent may carry what the parents decide at no cost in KL, because the prior, told the
    parents, expects it; held under another parent it then makes the old image. With an exogenous one the parents enter
    the posteriors and the levels finer than every latent alone: what they decide costs KL in a latent. As a factor and
    a shift (feature-wise modulation, Perez 2018) they also act on the image's mean itself, so that a change of contrast
    or of level needs no layer in between.

    Paper: De Sousa Ribeiro 2023, "High Fidelity Image Counterfactuals with Probabilistic Causal Models", sections 3 and
        4 (direct effect: latents are held when a parent changes); Roschewitz 2025, section 3.
    Deviation: the prior of a layer is fed by the same stream as the posterior (the very deep VAE of Child 2021), which
        is a function of the coarser latents and of the parents; the public code carries a second stream. `std` is the
        likelihood's scale itself; the public code's "std_init 0.01" means 0.0581.
    """

    def __init__(
        self,
        parents: Parents,
        *,
        in_channels: int,
        sides: tuple[int, int],
        filters: Sequence[int] = (16, 32, 64, 128),
        latent_channels: Sequence[int] = (0, 8, 8, 16),
        encoder_blocks: Sequence[int] = (1, 1, 1, 1),
        decoder_blocks: Sequence[int] = (1, 1, 1, 1),
        bottleneck: int = 2,
        dropout: float = 0.0,
        std: float = 0.058,
        std_form: ScaleForm = "fixed",
        prior: PriorForm = "conditional",
        parents_as: ParentsForm = "shift",
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """Builds the network.

        Args:
            parents: How attributes become numbers.
            in_channels: c.
            sides: h, w; multiples of 2^(levels - 2).
            filters: Widths, one a level, the finest first.
            latent_channels: z of each block of a level; 0 for none.
            encoder_blocks: Blocks of each level.
            decoder_blocks: Blocks of each level.
            bottleneck: A block's inner width is its width divided by this.
            dropout: In every block.
            std: Scale of the likelihood, in an image of -1..1.
            std_form: fixed; learned, one number a channel; pixelwise, a map.
            prior: conditional, told the parents as published; exogenous, the latents' prior knows nothing of them.
            parents_as: shift, a bias in every block as published; factor_and_shift, a factor too, and both on the mean.
            value_range: What -1 and 1 stand for in the images that come in and go out.

        Raises:
            InputError: Lists of different lengths, sides that do not halve, no latent channel, or an exogenous prior
                with latents at the finest level, so that the parents would enter nowhere.
        """
        super().__init__()
        lists = (filters, latent_channels, encoder_blocks, decoder_blocks)
        levels = len(filters)
        if levels < 2 or len({len(each) for each in lists}) != 1 or min(decoder_blocks) < 1 or min(encoder_blocks) < 1:
            raise InputError(
                "filters, latent_channels, encoder_blocks and decoder_blocks need one number for each of at least 2 "
                f"levels, blocks 1 or more, but got {[list(each) for each in lists]}."
            )
        if not latent_channels[-1]:
            raise InputError("latent_channels is 0 at the last level, where nothing would read what the encoder finds.")
        if prior == "exogenous" and latent_channels[0]:
            raise InputError(
                "prior exogenous: latent_channels must be 0 at the first level at least, where the parents enter, but "
                f"got {list(latent_channels)}."
            )
        step = 2 ** (levels - 2)
        if any(side % step or side < step for side in sides):
            raise InputError(f"{levels} levels need image sides that are multiples of {step}, but got {list(sides)}.")
        self.parents, self.in_channels, self.sides = parents, in_channels, tuple(sides)
        self.value_range, self.std_form = value_range, std_form
        level_sides = [(sides[0] // 2**level, sides[1] // 2**level) for level in range(levels - 1)] + [(1, 1)]
        self.encoder = _Encoder(in_channels, filters, encoder_blocks, level_sides, bottleneck, dropout)
        self.decoder = _Decoder(
            parents.channels,
            filters,
            latent_channels,
            decoder_blocks,
            level_sides,
            bottleneck,
            dropout,
            prior,
            parents_as,
        )
        self.mean = _zero(nn.Conv2d(filters[0], in_channels, 1))
        scaled = parents_as == "factor_and_shift"
        self.tone = _zero(nn.Linear(parents.channels, 2 * in_channels)) if scaled else None
        log_std = math.log2(2.0**std - 1.0)
        if std_form == "pixelwise":
            self.log_std = _zero(nn.Conv2d(filters[0], in_channels, 1))
            nn.init.constant_(self.log_std.bias, log_std)  # type: ignore[arg-type]
        else:
            number = torch.full((1, in_channels, 1, 1), log_std)
            self.shared_log_std = nn.Parameter(number, requires_grad=std_form == "learned")

    @property
    def latent_width(self) -> int:
        """Channels of all latent layers together."""
        return sum(block.latent_channels for block in self.decoder.modules() if isinstance(block, DecoderBlock))

    def forward(self, image: Tensor, numbers: Tensor) -> Reconstruction:
        """One pass with latents drawn from the posterior.

        Args:
            image: (b, c, h, w) in `value_range`.
            numbers: (b, p), from `parents.encode`.
        """
        target = self.normalise(image)
        return Reconstruction(target, *self._decoded(numbers, maps=self.encoder(target)))

    def abduct(self, image: Tensor, numbers: Tensor) -> Noise:
        """The noise behind an image: the posterior's means, and what they leave unexplained.

        Args:
            image: (b, c, h, w) in `value_range`.
            numbers: (b, p), the image's own parents.
        """
        target = self.normalise(image)
        mean, scale, latents = self._decoded(numbers, maps=self.encoder(target), temperature=0.0)
        residual = (target - mean.clamp(-1.0, 1.0)) / scale.clamp_min(1e-12)
        return Noise([latent.value for latent in latents], residual)

    def predict(self, noise: Noise, numbers: Tensor) -> Tensor:
        """The image of this noise under these parents (b, p): (b, c, h, w) in `value_range`."""
        mean, scale, _ = self._decoded(numbers, values=noise.latents)
        return self.denormalise((mean.clamp(-1.0, 1.0) + scale * noise.residual).clamp(-1.0, 1.0))

    def counterfactual(self, image: Tensor, numbers: Tensor, intervened: Tensor) -> Tensor:
        """What the image would be under other parents: abduction, action, prediction.

        Args:
            image: (b, c, h, w) in `value_range`.
            numbers: (b, p), the image's own parents.
            intervened: (b, p), the parents it is given.

        Returns:
            (b, c, h, w) in `value_range`. With std_form fixed or learned it is image + (mean* - mean), clamped: what
            the mean does not explain is copied. Equal parents give the image itself.
        """
        return self.predict(self.abduct(image, numbers), intervened)

    def sample(self, numbers: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Images (b, c, h, w) from the prior under parents (b, p): the likelihood's means."""
        mean, _, _ = self._decoded(numbers, temperature=temperature)
        return self.denormalise(mean.clamp(-1.0, 1.0))

    def normalise(self, image: Tensor) -> Tensor:
        """From `value_range` to -1..1.

        Raises:
            InputError: An image of another shape than the network was made for.
        """
        if image.ndim != 4 or tuple(image.shape[1:]) != (self.in_channels, *self.sides):
            wanted = ("rows", self.in_channels, *self.sides)
            raise InputError(
                f"this generator was made for images of shape {wanted}, but got {tuple(image.shape)}; "
                "give it images of the size that it was trained on."
            )
        low, high = self.value_range
        return (image - low) * (2.0 / (high - low)) - 1.0

    def denormalise(self, image: Tensor) -> Tensor:
        """From -1..1 to `value_range`."""
        low, high = self.value_range
        return (image + 1.0) * ((high - low) / 2.0) + low

    def _decoded(self, numbers: Tensor, **how: Any) -> tuple[Tensor, Tensor, list[Latent]]:
        """Mean and scale of the likelihood, and the latents; `how` is the decoder's."""
        context = self.parents(numbers)
        features, latents = self.decoder(context, **how)
        mean = self.mean(features)
        if self.tone is not None:
            mean = scaled_and_shifted(mean, self.tone(context))
        return mean, self._scale(features), latents

    def _scale(self, features: Tensor) -> Tensor:
        return positive(self.log_std(features) if self.std_form == "pixelwise" else self.shared_log_std)


class _Encoder(nn.Module):
    """Blocks and average pooling; gives the features of every level before it is pooled."""

    def __init__(
        self,
        in_channels: int,
        filters: Sequence[int],
        blocks: Sequence[int],
        sides: Sequence[tuple[int, int]],
        bottleneck: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, filters[0], 3, padding=1)
        self.sides = tuple(sides)
        self.widen = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in pairwise(filters))
        self.levels = nn.ModuleList(
            nn.ModuleList(
                Block(width, width, bottleneck=bottleneck, kernel=_kernel(side), dropout=dropout) for _ in range(number)
            )
            for width, number, side in zip(filters, blocks, sides, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features (b, filters[i], *sides[i]) of every level, the finest first."""
        features, maps = self.stem(image), []
        for number, blocks in enumerate(self.levels):
            if number:
                features = self.widen[number - 1](functional.adaptive_avg_pool2d(features, self.sides[number]))
            for block in blocks:  # type: ignore[attr-defined]
                features = features + block(features)
            maps.append(features)
        return maps


class _Decoder(nn.Module):
    """Learned maps, up-sampling and blocks from the coarsest level to the finest."""

    def __init__(
        self,
        context: int,
        filters: Sequence[int],
        latent_channels: Sequence[int],
        blocks: Sequence[int],
        sides: Sequence[tuple[int, int]],
        bottleneck: int,
        dropout: float,
        prior: PriorForm,
        parents_as: ParentsForm,
    ) -> None:
        super().__init__()
        self.sides = tuple(sides)
        finest_latent = next(level for level, latent in enumerate(latent_channels) if latent)
        told = [prior == "conditional" or level < finest_latent for level in range(len(filters))]
        self.narrow = nn.ModuleList(nn.Conv2d(o, i, 1) for i, o in pairwise(filters))
        self.bias = nn.ParameterList(
            nn.Parameter(torch.zeros(1, width, *side) if max(side) <= BIAS_SIDE else torch.zeros(1, width, 1, 1))
            for width, side in zip(filters, sides, strict=True)
        )
        self.levels = nn.ModuleList(
            nn.ModuleList(
                DecoderBlock(
                    width,
                    latent,
                    context,
                    told=knows,
                    scaled=parents_as == "factor_and_shift",
                    bottleneck=bottleneck,
                    kernel=_kernel(side),
                    dropout=dropout,
                )
                for _ in range(number)
            )
            for width, latent, number, side, knows in zip(filters, latent_channels, blocks, sides, told, strict=True)
        )

    def forward(
        self,
        context: Tensor,
        *,
        maps: Sequence[Tensor] | None = None,
        values: Sequence[Tensor] | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, list[Latent]]:
        """Features of the finest level, and the latents.

        Args:
            context: (b, d), the parents' vector.
            maps: The encoder's, for latents of the posterior; else of the prior.
            values: Latents to use as they are, the coarsest first.
            temperature: On the scale of what is drawn; 0 takes the mean.
        """
        rows, given = len(context), iter(values or ())
        features: Tensor | None = None
        latents: list[Latent] = []
        for number in reversed(range(len(self.levels))):
            bias = self.bias[number].expand(rows, -1, *self.sides[number])
            if features is None:
                features = bias
            else:
                larger = functional.interpolate(self.narrow[number](features), size=self.sides[number], mode="nearest")
                features = larger + bias
            for block in self.levels[number]:  # type: ignore[attr-defined]
                value = next(given) if values is not None and block.latent_channels else None
                seen = None if maps is None else maps[number]
                features, latent = block(features, context, seen=seen, value=value, temperature=temperature)
                if latent is not None:
                    latents.append(latent)
        assert features is not None
        return features, latents


def _kernel(sides: tuple[int, int]) -> int:
    return 1 if max(sides) <= 2 else 3


def _zero(layer: Zeroed) -> Zeroed:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
