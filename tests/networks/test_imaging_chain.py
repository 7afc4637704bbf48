"""Tests of the imaging chain, alone and in the generator: by hand, property, gradient, and what it finds."""

import pytest
import torch
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.losses.elbo import discretised_log_likelihood, free_energy, gaussian_kl
from medcontrast.networks.hvae import HVAE
from medcontrast.networks.hvae_blocks import positive
from medcontrast.networks.imaging_chain import GAIN, LEAST_SLOPE, PIECES, SIDE, ImagingChain
from medcontrast.networks.parents import Parent, Parents

CODE = torch.eye(3)


def chain(*, channels=2, random=True):
    torch.manual_seed(0)
    made = ImagingChain(3, channels)
    if random:
        with torch.no_grad():
            made.levels.normal_(std=0.3 / GAIN)
            made.slopes.normal_(std=1.0 / GAIN)
            made.kernels.normal_(std=0.05 / GAIN)
    return made


def levels(rows=3, channels=2, seed=0):
    return 2.6 * torch.rand(rows, channels, 7, 6, generator=torch.Generator().manual_seed(seed)) - 1.3


def test_at_first_a_scene_is_drawn_as_it_is_and_a_residual_added():
    made = chain(random=False)
    torch.testing.assert_close(made(levels(), CODE), levels())
    torch.testing.assert_close(made(levels(), CODE, levels(seed=1)), levels() + levels(seed=1))
    torch.testing.assert_close(made.residual(levels(seed=1), levels(), CODE), levels(seed=1) - levels())


def test_a_curve_by_hand():
    """The first value: half the slope up to 0, twice beyond it, all of it 0.25 higher; the others the opposite."""
    made = chain(channels=1, random=False)
    slopes = (torch.tensor([0.5, 2.0]) - LEAST_SLOPE) / (1.0 - LEAST_SLOPE)
    numbers = torch.log2(torch.exp2(slopes) - 1.0)
    torch.testing.assert_close(positive(numbers), slopes)
    with torch.no_grad():
        made.levels[0], made.levels[1:] = 0.25 / GAIN, -0.125 / GAIN
        made.slopes[0] = numbers.repeat_interleave(PIECES // 2) / GAIN
        made.slopes[1:] = -0.5 * made.slopes[0]
    given = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.1, 1.0, 2.0]).view(1, 1, 1, 7)
    expected = torch.tensor([-1.0, -0.75, -0.5, -0.25, -0.05, 1.75, 3.75]).view(1, 1, 1, 7)
    torch.testing.assert_close(made.curve(given, CODE[:1]), expected)
    torch.testing.assert_close(made.curve_back(expected, CODE[:1]), given)


def test_a_curve_rises_and_is_taken_back_also_beyond_the_grey_levels():
    made = chain()
    torch.testing.assert_close(made.curve_back(made.curve(levels(), CODE), CODE), levels(), rtol=0, atol=1e-5)
    line = torch.linspace(-1.5, 1.5, 200).expand(3, 2, 1, 200)
    steps = made.curve(line, CODE).diff(dim=3) / line.diff(dim=3)
    assert steps.min() > 0.9 * LEAST_SLOPE and steps.max() > 2.0


def test_a_point_spread_by_hand():
    """A dot shows the kernel, turned; its sum is 1, and a flat scene stays flat up to its borders."""
    made = chain(channels=1)
    dot = torch.zeros(1, 1, 9, 9)
    dot[0, 0, 4, 4] = 1.0
    found = made.spread(dot, CODE[1:2])[0, 0]
    kernel = GAIN * (made.kernels - made.kernels.mean(dim=0))[1, 0].detach()
    kernel = kernel - kernel.mean()
    kernel[SIDE // 2, SIDE // 2] += 1.0
    torch.testing.assert_close(found[2:7, 2:7], kernel.flip(0, 1))
    assert found.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert (kernel - kernel.flip(0, 1)).abs().max() > 0.01
    torch.testing.assert_close(made.spread(torch.full_like(dot, 0.7), CODE[1:2]), torch.full_like(dot, 0.7))


def test_rows_and_channels_have_their_own_chain_and_no_row_sees_another():
    made = chain()
    same = levels()[:1, :1].expand(3, 2, 7, 6)
    found = made(same, CODE)
    assert len({tuple(found[row, channel].flatten().tolist()) for row in range(3) for channel in range(2)}) == 6
    torch.testing.assert_close(found[1:2], made(same[1:2], CODE[1:2]))


def test_what_all_values_share_changes_nothing():
    made, before = chain(), chain()(levels(), CODE)
    with torch.no_grad():
        for each in made.parameters():
            each += torch.randn(each.shape[1:])
    torch.testing.assert_close(made(levels(), CODE), before, rtol=0, atol=1e-4)


def test_there_and_back_through_any_chain():
    made, scene = chain(), levels(seed=2)
    residual = made.residual(levels(), scene, CODE)
    torch.testing.assert_close(made(scene, CODE, residual), levels(), rtol=0, atol=1e-5)


def test_it_works_in_full_precision_under_autocast():
    made, scene = chain(), levels(seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        drawn = made(scene.bfloat16(), CODE)
        residual = made.residual(levels(), scene.bfloat16(), CODE)
        back = made(scene.bfloat16(), CODE, residual)
    assert drawn.dtype == residual.dtype == torch.float32
    torch.testing.assert_close(drawn, made(scene.bfloat16().float(), CODE))
    torch.testing.assert_close(back, levels(), rtol=0, atol=1e-5)


def test_every_number_of_the_values_seen_learns():
    made = chain(channels=1)
    scene = torch.linspace(-1.0, 1.0, 2 * PIECES).view(1, 1, 8, -1)
    made(scene, CODE[:1]).square().sum().backward()
    for each in made.parameters():
        assert (each.grad != 0).all()


# --- in the generator

SCANNERS = Parents([Parent("scanner", ("plain", "gamma")), Parent("height")], 8)


def generator(**plain):
    torch.manual_seed(0)
    plain = {"filters": (8, 8, 16), "latent_channels": (0, 2, 4), "prior": "exogenous", **plain}
    blocks = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}
    return HVAE(SCANNERS, in_channels=1, sides=(8, 8), **{"imaging_chain": "scanner", **blocks, **plain})


def random_generator(**plain):
    made = generator(**plain).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad and (parameter == 0).all():
                parameter.copy_(0.2 * torch.randn_like(parameter))
        made.chain.slopes /= GAIN
    return made


def parents(scanner, rows=64):
    return torch.tensor([[1.0 - scanner, float(scanner), 0.3]]).expand(rows, 3)


def bumps(rows, seed=0):
    """Smooth bumps of many heights, clean, in 0..1."""
    draw = torch.Generator().manual_seed(seed)
    place = torch.arange(8.0)
    x, y, width = (torch.rand(rows, 1, 1, generator=draw) * span + low for span, low in ((4, 2), (4, 2), (1.5, 1)))
    distance = (place[None, :, None] - x) ** 2 + (place[None, None, :] - y) ** 2
    return (0.2 + 0.8 * torch.rand(rows, 1, 1, generator=draw) * torch.exp(-distance / (2 * width**2)))[:, None]


@pytest.mark.parametrize("plain", [{}, {"prior": "conditional"}, {"parents_as": "factor_and_shift"}])
def test_the_scene_is_not_told_the_scanner_and_the_posterior_and_the_image_are(plain):
    made, image = random_generator(**plain), bumps(4)
    with torch.no_grad():
        noise = made.abduct(image, parents(0, 4))
        scenes = [made._decoded(parents(scanner, 4), values=noise.latents)[0] for scanner in (0, 1)]
        assert torch.equal(*scenes)
        other = parents(0, 4) + torch.tensor([0.0, 0.0, 1.0])
        assert not torch.equal(scenes[0], made._decoded(other, values=noise.latents)[0])
        assert not torch.equal(noise.latents[0], made.abduct(image, parents(1, 4)).latents[0])
        assert (made.counterfactual(image, parents(0, 4), parents(1, 4)) - image).abs().mean() > 0.02


def test_a_counterfactual_by_hand():
    """curve*(spread*(scene) + curve^-1(x) - spread(scene)), whatever the latents say."""
    made, image = random_generator(), bumps(4)
    own, other = parents(0, 4), parents(1, 4)
    with torch.no_grad():
        scene = made._decoded(own, values=made.abduct(image, own).latents)[0]
        kept = made.chain.curve_back(made.normalise(image), own[:, :2]) - made.chain.spread(scene, own[:, :2])
        expected = made.chain.curve(made.chain.spread(scene, other[:, :2]) + kept, other[:, :2])
        found = made.normalise(made.counterfactual(image, own, other))
    torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=0, atol=1e-5)
    assert (expected.abs() < 1).float().mean() > 0.3


def test_samples_are_drawn_by_the_scanner():
    made = random_generator()
    found = []
    for scanner in (0, 1):
        torch.manual_seed(3)
        found.append(made.sample(parents(scanner, 4)))
    assert (found[0] - found[1]).abs().mean() > 0.02


def test_the_free_energy_reaches_the_chain_and_every_other_weight():
    made = random_generator().train()
    found = made(bumps(8), torch.cat([parents(0, 4), parents(1, 4)]))
    likelihood = discretised_log_likelihood(found.target, found.mean, found.scale)
    kl = [gaussian_kl(each.mean, each.scale, each.prior_mean, each.prior_scale) for each in found.latents]
    free_energy(likelihood, kl).loss.backward()
    still = [name for name, each in made.named_parameters() if each.requires_grad and not each.grad.abs().sum()]
    assert still == []


def test_it_finds_a_gamma_that_the_images_differ_by():
    """250 steps; a counterfactual is less than a fifth as far from the truth as the image left as it is."""
    made = generator()
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    clean, scanner = bumps(256), torch.arange(256) % 2
    seen = torch.where(scanner.view(-1, 1, 1, 1) == 1, clean.sqrt(), clean)
    numbers = torch.cat([functional.one_hot(scanner, 2), torch.full((256, 1), 0.3)], dim=1).float()
    for step in range(250):
        rows = torch.randperm(256, generator=torch.Generator().manual_seed(step))[:32]
        found = made(seen[rows], numbers[rows])
        likelihood = discretised_log_likelihood(found.target, found.mean, found.scale)
        kl = [gaussian_kl(each.mean, each.scale, each.prior_mean, each.prior_scale) for each in found.latents]
        optimiser.zero_grad()
        free_energy(likelihood, kl, beta=4.0).loss.backward()
        optimiser.step()
    made.eval()
    new = bumps(64, seed=1)
    with torch.no_grad():
        there = made.counterfactual(new, parents(0), parents(1))
        back = made.counterfactual(new.sqrt(), parents(1), parents(0))
    left = (new.sqrt() - new).abs().mean()
    assert (there - new.sqrt()).abs().mean() < left / 5
    assert (back - new).abs().mean() < left / 5


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("height", "imaging_chain height: a chain is for a category of 2 values or more, but this parent is a number"),
        ("age", "has no parent 'age'; its parents are scanner, height"),
    ],
)
def test_parents_that_have_no_chain(name, sentence):
    with pytest.raises(InputError, match=sentence):
        generator(imaging_chain=name)


def test_a_parent_of_one_value_has_no_chain():
    alone = Parents([Parent("scanner", ("plain",))], 8)
    with pytest.raises(InputError, match="this parent is always plain"):
        HVAE(
            alone,
            in_channels=1,
            sides=(8, 8),
            filters=(8, 16),
            latent_channels=(0, 4),
            encoder_blocks=(1, 1),
            decoder_blocks=(1, 1),
            imaging_chain="scanner",
        )
