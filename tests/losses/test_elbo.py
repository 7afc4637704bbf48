"""Tests of the free energy: reference (plain float64 loops, Monte Carlo), by hand, property, gradient."""

import math

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.elbo import discretised_log_likelihood, free_energy, gaussian_kl

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1.0


def distribution(form, value):
    if form == "gaussian":
        return 0.5 * math.erfc(-value / math.sqrt(2.0))
    return 1.0 / (1.0 + math.exp(-value)) if value > -700 else 0.0


def reference(x, mean, scale, form):
    """From the equation: probability of one grey level; F is symmetric, so the left tail serves both sides."""
    if x > mean:
        x, mean = -x, -mean
    upper = 1.0 if x > 0.999 else distribution(form, (x - mean + 1 / 255) / scale)
    lower = 0.0 if x < -0.999 else distribution(form, (x - mean - 1 / 255) / scale)
    return math.log(upper - lower)


def images(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, shape, generator=generator).to(dtype) / 127.5 - 1.0
    image.view(-1)[:2] = torch.tensor([-1.0, 1.0], dtype=dtype)
    return image, image + 0.2 * torch.randn(shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("form", ["gaussian", "logistic"])
@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0])
def test_likelihood_against_plain_loops(form, scale):
    image, mean = images(2, 1, 5, 4)
    found = discretised_log_likelihood(image, mean, torch.tensor(scale, dtype=torch.float64), form=form)
    for x, m, value in zip(image.flatten().tolist(), mean.flatten().tolist(), found.flatten().tolist(), strict=True):
        assert value == pytest.approx(reference(x, m, scale, form), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("form", ["gaussian", "logistic"])
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.058), (-1.0, 0.01), (0.97, 0.5), (3.0, 0.7)])
def test_the_256_levels_of_a_pixel_sum_to_1(form, mean, scale):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        levels = LEVELS.to(dtype)
        place = torch.full_like(levels, mean)
        found = discretised_log_likelihood(levels, place, torch.tensor(scale, dtype=dtype), form=form)
        assert found.exp().sum().item() == pytest.approx(1.0, abs=tolerance)


@pytest.mark.parametrize("form", ["gaussian", "logistic"])
def test_a_pixel_far_from_its_mean_keeps_value_and_gradient_in_float32(form):
    # background -1 under the first mean 0 at the published scale: 17 standard deviations
    image = torch.tensor([-1.0, -0.9, 0.9, 1.0]).reshape(1, 1, 2, 2)
    mean = torch.zeros_like(image).requires_grad_()
    scale = torch.tensor(0.058)
    found = discretised_log_likelihood(image, mean, scale, form=form)
    exact = discretised_log_likelihood(image.double(), mean.detach().double(), scale.double(), form=form)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
    found.sum().backward()
    assert mean.grad.sign().flatten().tolist() == [-1, -1, 1, 1] and (mean.grad.abs() > 1).all()


@pytest.mark.parametrize("form", ["gaussian", "logistic"])
def test_likelihood_gradient(form):
    image, mean = images(1, 1, 3, 3)
    scale = torch.full_like(mean, 0.2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, s: discretised_log_likelihood(image, m, s, form=form), (mean.requires_grad_(), scale)
    )


def test_likelihood_runs_in_float32_under_autocast():
    image, mean = (tensor.float() for tensor in images(1, 1, 4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = discretised_log_likelihood(image, mean.bfloat16(), torch.tensor(0.1))
    assert found.dtype == torch.float32
    assert torch.equal(found, discretised_log_likelihood(image, mean.bfloat16().float(), torch.tensor(0.1)))


def gaussians(seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean, prior_mean = torch.randn(2, 2, 3, 2, 2, generator=generator, dtype=torch.float64)
    scale, prior_scale = 0.6 + 0.5 * torch.rand(2, 2, 3, 2, 2, generator=generator, dtype=torch.float64)
    return mean, scale, prior_mean, prior_scale


def test_kl_against_plain_loops():
    parts = gaussians()
    found = gaussian_kl(*parts).flatten().tolist()
    for value, m, s, n, t in zip(found, *(part.flatten().tolist() for part in parts), strict=True):
        assert value == pytest.approx(math.log(t / s) + (s * s + (m - n) ** 2) / (2 * t * t) - 0.5, abs=1e-12)


def test_kl_against_monte_carlo():
    mean, scale, prior_mean, prior_scale = (part[:1] for part in gaussians())
    generator = torch.Generator().manual_seed(7)
    sample = mean + scale * torch.randn(200_000, *mean.shape[1:], generator=generator, dtype=torch.float64)
    normal = torch.distributions.Normal
    terms = normal(mean, scale).log_prob(sample) - normal(prior_mean, prior_scale).log_prob(sample)
    error = terms.std(0) / math.sqrt(len(sample))
    distance = (terms.mean(0) - gaussian_kl(mean, scale, prior_mean, prior_scale)[0]).abs()
    assert (distance < 5.0 * error).all() and error.max() < 0.02


def test_kl_is_0_of_equals_and_above_0_otherwise():
    mean, scale, prior_mean, prior_scale = gaussians()
    assert torch.equal(gaussian_kl(mean, scale, mean, scale), torch.zeros_like(mean))
    assert (gaussian_kl(mean, scale, prior_mean, prior_scale) > 0).all()


def test_free_energy_against_plain_loops():
    generator = torch.Generator().manual_seed(1)
    likelihood = -torch.rand(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    layers = [torch.rand(3, 2, 1, 1, generator=generator, dtype=torch.float64) for _ in range(2)]
    layers.append(torch.rand(3, 5, 2, 2, generator=generator, dtype=torch.float64))
    for beta, free in ((1.0, 0.0), (0.3, 0.0), (2.0, 0.9)):
        reconstruction, plain, limited = 0.0, 0.0, 0.0
        for row in range(3):
            reconstruction -= sum(likelihood[row].flatten().tolist()) / 32 / 3
        for layer in layers:
            for channel in range(layer.shape[1]):
                nats = sum(sum(layer[row, channel].flatten().tolist()) for row in range(3)) / 3
                plain += nats / 32
                limited += max(nats, free) / 32
        found = free_energy(likelihood, layers, beta=beta, free_nats=free)
        assert found.negative_log_likelihood.item() == pytest.approx(reconstruction)
        assert found.kl.item() == pytest.approx(plain)
        assert found.loss.item() == pytest.approx(reconstruction + beta * limited)


def test_free_bits_take_the_gradient_of_a_channel_that_is_below_them():
    layer = torch.tensor([[0.2, 3.0]], requires_grad=True)
    free_energy(torch.zeros(1, 1, 2, 2), [layer[:, :, None, None]], free_nats=1.0).loss.backward()
    assert layer.grad.tolist() == [[0.0, 0.25]]


def test_what_is_refused():
    ones = torch.ones(1, 1, 2, 2)
    with pytest.raises(InputError, match="needs the KL of at least one latent layer"):
        free_energy(ones, [])
    with pytest.raises(InputError, match=r"must be 0 or above, but got -1.0 and 0.0"):
        free_energy(ones, [ones], beta=-1.0)
    with pytest.raises(InputError, match="There is no likelihood 'laplace'; the forms are gaussian, logistic"):
        discretised_log_likelihood(ones, ones, ones, form="laplace")
