"""The free energy of a variational auto-encoder: discretised likelihood, Kullback-Leibler divergence, free bits.

Letters: b rows, c channels, h, w pixels, z latent channels, s latent sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.losses.precision import in_full_precision

Form = Literal["gaussian", "logistic"]
HALF_BIN = 1.0 / 255.0
"""Half the width of one of 256 grey levels in -1..1."""
EDGE = 0.999
"""Beyond it the first and the last level have the whole tail."""


class FreeEnergy(NamedTuple):
    """What a generator minimises, in nats per pixel and channel of the image.

    Attributes:
        loss: negative_log_likelihood + beta * the KL term with free bits.
        negative_log_likelihood: Of the image, mean over channels and pixels.
        kl: Without beta and free bits.
    """

    loss: Tensor
    negative_log_likelihood: Tensor
    kl: Tensor


@in_full_precision
def discretised_log_likelihood(image: Tensor, mean: Tensor, scale: Tensor, *, form: Form = "gaussian") -> Tensor:
    """log[F((x - m + 1/255) / s) - F((x - m - 1/255) / s)] of every pixel of an image of 256 levels in -1..1.

    The darkest and the brightest level take the whole tail, so that the 256 probabilities of a pixel sum to 1.

    Args:
        image: (b, c, h, w) in -1..1.
        mean: (b, c, h, w), the location m.
        scale: Above 0, the scale s; any shape that broadcasts.
        form: F is the distribution function of the normal or of the logistic distribution.

    Returns:
        (b, c, h, w), nats.

    Paper: Salimans 2017 (PixelCNN++), section 2.1, for the logistic; De Sousa Ribeiro 2023, for the Gaussian.
    Deviation: the logarithm of the difference is taken without the difference, from log F. The public code takes a tanh
        approximation of F and clamps the difference at 1e-12, where a pixel further than 7 s from its mean has no
        gradient.
    """
    if form not in _LOG_F:
        raise InputError(f"There is no likelihood {form!r}; the forms are {', '.join(_LOG_F)}.")
    log_f = _LOG_F[form]
    above, below = (image - mean + HALF_BIN) / scale, (image - mean - HALF_BIN) / scale
    # F(a) - F(b) = F(-b) - F(-a): on the negative side both logarithms keep their digits
    mirrored = above + below > 0
    upper, lower = torch.where(mirrored, -below, above), torch.where(mirrored, -above, below)
    large, small = log_f(upper), log_f(lower)
    inside = large + _log1mexp(large - small)
    return torch.where(image < -EDGE, log_f(above), torch.where(image > EDGE, log_f(-below), inside))


@in_full_precision
def gaussian_kl(mean: Tensor, scale: Tensor, prior_mean: Tensor, prior_scale: Tensor) -> Tensor:
    """KL(N(mean, scale^2) || N(prior_mean, prior_scale^2)), element by element, in nats.

    ln(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) - 1/2.
    """
    ratio = scale / prior_scale
    distance = (mean - prior_mean) / prior_scale
    return 0.5 * (ratio.square() + distance.square() - 1.0) - ratio.log()


@in_full_precision
def free_energy(
    log_likelihood: Tensor, kl: Sequence[Tensor], *, beta: float = 1.0, free_nats: float = 0.0
) -> FreeEnergy:
    """Negative log-likelihood + beta * KL, both per pixel and channel of the image.

    Args:
        log_likelihood: (b, c, h, w), from `discretised_log_likelihood`.
        kl: (b, z, s, s) of every latent layer, from `gaussian_kl`; z and s may differ from layer to layer.
        beta: At least 0, weight of the KL.
        free_nats: At least 0. A latent channel whose KL (summed over its pixels, mean over rows) is below this many
            nats counts as this many, and so has no gradient.

    Raises:
        InputError: No latent layer, or a negative weight.

    Paper: Kingma 2016 (inverse autoregressive flow), appendix C.8, for free bits; Higgins 2017 for beta.
    Deviation: one group for free bits is a channel of a layer.
    """
    if not kl:
        raise InputError("a free energy needs the KL of at least one latent layer.")
    if beta < 0.0 or free_nats < 0.0:
        raise InputError(f"beta and free_nats must be 0 or above, but got {beta} and {free_nats}.")
    pixels = log_likelihood[0].numel()
    channels = torch.cat([layer.flatten(2).sum(2).mean(0) for layer in kl])
    reconstruction = -log_likelihood.mean()
    limited = channels.clamp_min(free_nats) if free_nats else channels
    return FreeEnergy(reconstruction + beta * limited.sum() / pixels, reconstruction, channels.sum() / pixels)


def _log1mexp(positive: Tensor) -> Tensor:
    """log(1 - exp(-x)) of x > 0, by the one of two forms that keeps its digits."""
    safe = positive.clamp_min(torch.finfo(positive.dtype).tiny)
    near = safe < 0.6931471805599453
    # each branch gets values that are fine for it, so that the other's infinite derivative never comes back
    small, large = torch.where(near, safe, torch.ones_like(safe)), torch.where(near, torch.ones_like(safe), safe)
    return torch.where(near, torch.log(-torch.expm1(-small)), torch.log1p(-torch.exp(-large)))


_LOG_F = {"gaussian": torch.special.log_ndtr, "logistic": functional.logsigmoid}
