"""Tests of the image's mechanism in a causal model: by hand, property, gradient."""

import math

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.elbo import discretised_log_likelihood, free_energy, gaussian_kl
from medcontrast.networks.hvae import HVAE, Noise
from medcontrast.networks.hvae_blocks import DecoderBlock, positive, scaled_and_shifted
from medcontrast.networks.parents import Parent, Parents

PARENTS = (Parent("scanner", ("a", "b", "c")), Parent("thickness", mean=2.0, std=0.5))
SINGLE = {"latent_channels": (0, 0, 6)}
SPLIT = {"prior": "exogenous", "parents_as": "factor_and_shift", "latent_channels": (0, 3, 4)}
FORMS = ("fixed", "learned", "pixelwise")


def network(*, random=True, seed=0, **plain):
    """A small network; `random` takes the zeros of its last convolutions away."""
    torch.manual_seed(seed)
    plain = {"in_channels": 1, "sides": (8, 6), "filters": (8, 8, 16), "latent_channels": (2, 3, 4), **plain}
    blocks = {"encoder_blocks": (1, 1, 2), "decoder_blocks": (1, 2, 1)}
    made = HVAE(Parents(PARENTS, 8), **{**blocks, **plain})
    if random:
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.requires_grad and (parameter == 0).all():
                    parameter.copy_(0.3 * torch.randn_like(parameter))
    return made.eval()


def images(rows=4, seed=0, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(rows, 1, 8, 6, generator=torch.Generator().manual_seed(seed))


def numbers(made, rows=4, shift=0):
    return made.parents.encode(
        [{"scanner": "abc"[(row + shift) % 3], "thickness": 1.5 + 0.4 * row + 0.3 * shift} for row in range(rows)]
    )


def kls(latents):
    return [gaussian_kl(each.mean, each.scale, each.prior_mean, each.prior_scale) for each in latents]


# --- parents


def test_parents_as_numbers_by_hand():
    made = Parents(PARENTS)
    found = made.encode([{"scanner": "b", "thickness": 3.0, "age": 40}, {"scanner": "a", "thickness": 1}])
    assert found.tolist() == [[0.0, 1.0, 0.0, 2.0], [1.0, 0.0, 0.0, -2.0]]
    assert (made.width, made.columns("scanner"), made.columns("thickness")) == (4, slice(0, 3), slice(3, 4))
    assert made.find("scanner").values == ("a", "b", "c")
    coded = Parents([Parent("sex", ("0", "1"))]).encode([{"sex": 1}])
    assert coded.tolist() == [[0.0, 1.0]]


def test_what_parents_refuse():
    made = Parents(PARENTS)
    with pytest.raises(InputError, match="attribute scanner is missing; the case has thickness"):
        made.encode([{"thickness": 1.0}])
    with pytest.raises(InputError, match=r"scanner is 'd', but the generator knows a, b, c\."):
        made.encode([{"scanner": "d", "thickness": 1.0}])
    with pytest.raises(InputError, match="attribute thickness is 'thick', but the generator takes a number"):
        made.encode([{"scanner": "a", "thickness": "thick"}])
    with pytest.raises(InputError, match="has no parent 'age'; its parents are scanner, thickness"):
        made.find("age")
    with pytest.raises(InputError, match=r"each of them once, but got \['a', 'a'\]"):
        Parents([Parent("a"), Parent("a")])
    with pytest.raises(InputError, match="take 4 numbers a row, but got shape"):
        made(torch.zeros(2, 3))


# --- facts of the paper's form


def test_scale_of_a_number_by_hand():
    assert positive(torch.tensor(0.0)).item() == 1.0
    log = torch.tensor(math.log(0.01))
    assert positive(log).item() == pytest.approx(0.0580908, abs=1e-6)
    assert positive(log, 0.8).item() == pytest.approx(0.0499084, abs=1e-6)
    assert network(std=0.058)._scale(torch.zeros(1)).item() == pytest.approx(0.058, abs=1e-6)


@pytest.mark.parametrize("plain", [{}, SINGLE, SPLIT, {"std_form": "pixelwise"}])
def test_at_first_every_kl_is_0_and_the_mean_0(plain):
    made = network(random=False, **plain)
    found = made(images(), numbers(made))
    assert all(torch.equal(kl, torch.zeros_like(kl)) for kl in kls(found.latents))
    assert torch.equal(found.mean, torch.zeros_like(found.mean))
    torch.testing.assert_close(found.scale.expand_as(found.mean), torch.full_like(found.mean, 0.058))


@pytest.mark.parametrize("plain", [{}, SINGLE, SPLIT])
@pytest.mark.parametrize("form", FORMS)
def test_a_null_intervention_gives_the_image_whatever_the_weights(plain, form):
    for seed in range(3):
        made = network(seed=seed, std_form=form, value_range=(0.0, 255.0), **plain)
        image, own = images(low=0.0, high=255.0), numbers(made)
        torch.testing.assert_close(made.counterfactual(image, own, own), image, rtol=0, atol=2e-3)


@pytest.mark.parametrize("form", ["fixed", "learned"])
def test_a_counterfactual_moves_the_image_by_the_difference_of_the_means(form):
    made = network(std_form=form, value_range=(-1.0, 1.0))
    image, own, other = 0.1 * images(), numbers(made), numbers(made, shift=1)
    with torch.no_grad():
        made.mean.weight *= 0.02  # small differences, so that no pixel is clamped
        noise = made.abduct(image, own)
        flat = noise._replace(residual=torch.zeros_like(noise.residual))
        found = made.predict(noise, other)
        expected = image + made.predict(flat, other) - made.predict(flat, own)
    assert (found - image).abs().max() > 1e-3 and found.abs().max() < 1
    torch.testing.assert_close(found, expected)


def test_means_and_the_counterfactual_end_at_the_range_by_hand():
    """x* = clamp(x + clamp(mean*) - clamp(mean)): with a mean beyond -1..1 each of the three decides some pixel."""
    made = network(value_range=(-1.0, 1.0))
    image, own, other = images(low=-1.0), numbers(made), numbers(made, shift=1)
    with torch.no_grad():
        made.mean.weight *= 10.0
        noise = made.abduct(image, own)
        means = [made.mean(made.decoder(made.parents(each), values=noise.latents)[0]) for each in (own, other)]
        before, after = (mean.clamp(-1, 1) for mean in means)
        free = image + after - before
        found = made.counterfactual(image, own, other)
    torch.testing.assert_close(found, free.clamp(-1, 1))
    for unclamped in (free, (image + after - means[0]).clamp(-1, 1), (image + means[1] - before).clamp(-1, 1)):
        assert (unclamped - found).abs().max() > 0.1


def test_with_a_scale_of_its_own_the_residual_is_scaled_by_hand():
    made = network(std_form="pixelwise", value_range=(-1.0, 1.0))
    image, own, other = 0.2 * images() - 0.1, numbers(made), numbers(made, shift=1)
    with torch.no_grad():
        made.mean.weight *= 0.02
        noise = made.abduct(image, own)
        context = made.parents(other)
        features, _ = made.decoder(context, values=noise.latents)
        mean, scale = made.mean(features), made._scale(features)
        own_features, _ = made.decoder(made.parents(own), values=noise.latents)
        residual = (image - made.mean(own_features)) / made._scale(own_features)
    torch.testing.assert_close(noise.residual, residual, rtol=1e-4, atol=1e-4)
    assert (scale / made._scale(own_features) - 1).abs().max() > 0.05
    torch.testing.assert_close(made.predict(noise, other), (mean + scale * residual).clamp(-1, 1).detach())


def test_abduction_is_deterministic_and_takes_the_posterior_means():
    made = network()
    image, own = images(), numbers(made)
    first, second = made.abduct(image, own), made.abduct(image, own)
    assert torch.equal(first.residual, second.residual)
    torch.manual_seed(1)
    one = made(image, own)
    torch.manual_seed(2)
    other = made(image, own)
    assert not torch.equal(one.latents[0].value, other.latents[0].value)
    # the coarsest layer's posterior does not depend on what was drawn
    torch.testing.assert_close(first.latents[0], one.latents[0].mean)


def test_dropout_is_off_where_images_are_made():
    made = network(dropout=0.5)
    image, own, other = images(), numbers(made), numbers(made, shift=1)
    torch.testing.assert_close(made.counterfactual(image, own, own), image, rtol=0, atol=1e-5)
    assert torch.equal(made.counterfactual(image, own, other), made.counterfactual(image, own, other))
    made.train()  # and on where it learns
    with torch.no_grad():
        assert not torch.equal(made.abduct(image, own).residual, made.abduct(image, own).residual)


def test_there_and_back_is_the_image_where_nothing_is_clamped_and_latents_are_kept():
    made = network(value_range=(-1.0, 1.0))
    image, own, other = 0.1 * images(), numbers(made), numbers(made, shift=1)
    with torch.no_grad():
        made.mean.weight *= 0.02
        noise = made.abduct(image, own)
        there = made.predict(noise, other)
        mean = made.predict(Noise(noise.latents, torch.zeros_like(noise.residual)), other)
        back = made.predict(Noise(noise.latents, (there - mean) / 0.058), own)
    torch.testing.assert_close(back, image, rtol=0, atol=1e-5)


# --- structure


def test_levels_and_latents():
    made = network()
    shapes = [tuple(latent.value.shape) for latent in made(images(), numbers(made)).latents]
    assert shapes == [(4, 4, 1, 1), (4, 3, 4, 3), (4, 3, 4, 3), (4, 2, 8, 6)]
    single = network(**SINGLE)
    assert [tuple(latent.value.shape) for latent in single(images(), numbers(single)).latents] == [(4, 6, 1, 1)]


def test_prior_and_posterior_know_the_parents_and_the_encoder_does_not():
    made = network()
    image, own, other = images(), numbers(made), numbers(made, shift=1)
    one, two = made.abduct(image, own).latents[0], made.abduct(image, other).latents[0]
    assert (one - two).abs().max() > 1e-3
    torch.manual_seed(0)
    first = made(image, own).latents[0]
    assert (first.prior_mean - made(image, other).latents[0].prior_mean).abs().max() > 1e-3
    assert (first.mean - made(images(seed=1), own).latents[0].mean).abs().max() > 1e-3
    # the prior sees no image
    torch.testing.assert_close(first.prior_mean, made(images(seed=1), own).latents[0].prior_mean)


def test_an_exogenous_prior_knows_no_parent_and_the_posterior_and_the_image_do():
    made = network(prior="exogenous", latent_channels=(0, 3, 4))
    image, own, other = images(), numbers(made), numbers(made, shift=1)
    values = made.abduct(image, own).latents

    def latents(parents):
        return made.decoder(made.parents(parents), maps=made.encoder(made.normalise(image)), values=values)[1]

    for one, two in zip(latents(own), latents(other), strict=True):
        torch.testing.assert_close(one.prior_mean, two.prior_mean, rtol=0, atol=0)
        torch.testing.assert_close(one.prior_scale, two.prior_scale, rtol=0, atol=0)
        assert (one.mean - two.mean).abs().max() > 1e-3
    assert (made.counterfactual(image, own, other) - image).abs().max() > 1e-3


def test_a_factor_and_a_shift_by_hand():
    features = torch.arange(8.0).reshape(1, 2, 2, 2)
    found = scaled_and_shifted(features, torch.tensor([[1.0, -1.0, 0.5, 3.0]]))
    torch.testing.assert_close(found, torch.stack([2 * features[0, 0] + 0.5, torch.full((2, 2), 3.0)])[None])
    made = network(parents_as="factor_and_shift", value_range=(-1.0, 1.0))
    image, own = 0.1 * images(), numbers(made)
    with torch.no_grad():
        made.mean.weight *= 0.02
        made.tone.weight.zero_()
        made.tone.bias.copy_(torch.tensor([-2.0, 0.25]))  # the mean is turned round and lifted
        noise = made.abduct(image, own)
        features, _ = made.decoder(made.parents(own), values=noise.latents)
        flat = noise._replace(residual=torch.zeros_like(noise.residual))
    torch.testing.assert_close(made.predict(flat, own), 0.25 - made.mean(features))


def test_rows_do_not_see_each_other():
    made = network()
    image, own, other = images(), numbers(made), numbers(made, shift=1)
    whole = made.counterfactual(image, own, other)
    torch.testing.assert_close(whole[1:2], made.counterfactual(image[1:2], own[1:2], other[1:2]))


def test_samples_of_the_prior():
    made = network(value_range=(0.0, 255.0))
    own = numbers(made)
    first, again = made.sample(own, temperature=0.0), made.sample(own, temperature=0.0)
    assert torch.equal(first, again) and first.shape == (4, 1, 8, 6)
    assert first.min() >= 0 and first.max() <= 255
    assert not torch.equal(made.sample(own), made.sample(own))


@pytest.mark.parametrize("plain", [{}, SPLIT])
@pytest.mark.parametrize("form", FORMS)
def test_the_free_energy_reaches_every_trained_weight(form, plain):
    made = network(std_form=form, **plain).train()
    found = made(images(), numbers(made))
    likelihood = discretised_log_likelihood(found.target, found.mean, found.scale)
    free_energy(likelihood, kls(found.latents)).loss.backward()
    for name, parameter in made.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    trained = [name for name, parameter in made.named_parameters() if "log_std" in name and parameter.requires_grad]
    assert bool(trained) is (form != "fixed")


def test_a_block_without_latents_has_none():
    block = DecoderBlock(8, 0, 4, told=True, scaled=False, bottleneck=2, kernel=3, dropout=0.0)
    assert not hasattr(block, "prior") and not hasattr(block, "posterior")


def test_what_the_network_refuses():
    with pytest.raises(InputError, match=r"3 levels need image sides that are multiples of 2, but got \[7, 6\]"):
        network(sides=(7, 6))
    for flat in ((0, 0, 0), (2, 3, 0)):
        with pytest.raises(InputError, match="latent_channels is 0 at the last level"):
            network(latent_channels=flat)
    with pytest.raises(InputError, match="need one number for each of at least 2 levels"):
        network(latent_channels=(1, 2))
    with pytest.raises(InputError, match=r"prior exogenous: latent_channels must be 0 at the first level"):
        network(prior="exogenous")
    made = network()
    with pytest.raises(InputError, match=r"made for images of shape \('rows', 1, 8, 6\), but got \(4, 1, 8, 8\)"):
        made(torch.zeros(4, 1, 8, 8), numbers(made))


def test_a_temperature_narrows_what_is_drawn_before_the_soft_plus(monkeypatch):
    """By hand: log2(1 + 2^(0 + ln 0.5)) from the prior's number 0, not half of log2(1 + 2^0) = 1."""
    block = DecoderBlock(4, 2, 3, told=True, scaled=False, bottleneck=2, kernel=3, dropout=0.0).eval()
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    features, context = torch.rand(2, 4, 5, 5), torch.rand(2, 3)
    for temperature in (0.5, 0.8, 1.0):
        with torch.no_grad():
            _, latent = block(features, context, seen=None, value=None, temperature=temperature)
        expected = math.log2(1.0 + 2.0 ** math.log(temperature))
        torch.testing.assert_close(latent.value - latent.mean, torch.full_like(latent.value, expected))
