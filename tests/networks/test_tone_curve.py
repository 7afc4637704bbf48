"""Tests of the tone curve, alone and in the generator: by hand, property, gradient, and what it finds."""

import torch

from medcontrast.losses.elbo import discretised_log_likelihood
from medcontrast.networks.hvae import HVAE
from medcontrast.networks.hvae_blocks import positive
from medcontrast.networks.parents import Parent, Parents
from medcontrast.networks.tone_curve import GAIN, LEAST_SLOPE, PIECES, ToneCurve


def curve(*, channels=2, random=True):
    torch.manual_seed(0)
    made = ToneCurve(4, channels)
    if random:
        torch.nn.init.normal_(made.layer.weight, std=1.0 / GAIN)
    return made


def levels(rows=3, channels=2, seed=0):
    return 2.6 * torch.rand(rows, channels, 5, 4, generator=torch.Generator().manual_seed(seed)) - 1.3


def parents(rows=3, seed=1):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def test_at_first_a_level_is_drawn_as_itself():
    made = curve(random=False)
    torch.testing.assert_close(made(levels(), parents()), levels())
    torch.testing.assert_close(made.inverse(levels(), parents()), levels())


def test_a_curve_by_hand():
    """Half the slope up to 0, twice beyond it, all of it 0.25 higher."""
    made = curve(channels=1, random=False)
    slopes = (torch.tensor([0.5, 2.0]) - LEAST_SLOPE) / (1.0 - LEAST_SLOPE)
    numbers = torch.log2(torch.exp2(slopes) - 1.0)
    torch.testing.assert_close(positive(numbers), slopes)
    with torch.no_grad():
        made.layer.weight[0] = 0.25 / GAIN
        made.layer.weight[1:] = numbers.repeat_interleave(PIECES // 2)[:, None] / GAIN
    given = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.1, 1.0, 2.0]).view(1, 1, 1, 7)
    expected = torch.tensor([-1.0, -0.75, -0.5, -0.25, -0.05, 1.75, 3.75]).view(1, 1, 1, 7)
    torch.testing.assert_close(made(given, torch.tensor([[1.0, 0.0, 0.0, 0.0]])), expected)
    torch.testing.assert_close(made.inverse(expected, torch.tensor([[1.0, 0.0, 0.0, 0.0]])), given)


def test_it_rises_and_its_inverse_takes_it_back_also_beyond_the_grey_levels():
    made, numbers = curve(), parents()
    torch.testing.assert_close(made.inverse(made(levels(), numbers), numbers), levels(), rtol=0, atol=1e-5)
    line = torch.linspace(-1.5, 1.5, 200).expand(3, 2, 1, 200)
    steps = made(line, numbers).diff(dim=3) / line.diff(dim=3)
    assert steps.min() > 0.9 * LEAST_SLOPE and steps.max() > 2.0


def test_rows_and_channels_have_their_own_curve():
    made, numbers = curve(), parents()
    same = levels()[:1, :1].expand(3, 2, 5, 4)
    found = made(same, numbers)
    assert len({tuple(found[row, channel].flatten().tolist()) for row in range(3) for channel in range(2)}) == 6
    torch.testing.assert_close(found[1:2], made(same[1:2], numbers[1:2]))


def test_slopes_are_the_gradient_and_all_its_numbers_learn():
    made, numbers = curve(channels=1), parents(1)
    given = levels(1, 1).requires_grad_()
    made(given, numbers).sum().backward()
    nudged = (made(given + 1e-3, numbers) - made(given - 1e-3, numbers)) / 2e-3
    inside = ((given.detach() + 1.0) * PIECES / 2) % 1.0
    clear = (inside > 0.1) & (inside < 0.9)
    torch.testing.assert_close(given.grad[clear], nudged.detach()[clear], rtol=2e-2, atol=2e-3)
    made.zero_grad()
    made(torch.linspace(-1.0, 1.0, 2 * PIECES).view(1, 1, 1, -1), numbers).square().sum().backward()
    assert (made.layer.weight.grad != 0).all()


def test_it_works_in_full_precision_under_autocast():
    made, numbers = curve(), parents()
    with torch.autocast("cpu", torch.bfloat16):
        drawn = made(levels().bfloat16(), numbers)
        back = made.inverse(drawn, numbers)
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(back, levels().bfloat16().float(), rtol=0, atol=1e-5)


# --- in the generator

SCANNERS = Parents([Parent("scanner", ("plain", "gamma"))], 8)


def generator(**plain):
    torch.manual_seed(0)
    plain = {"filters": (8, 8, 16), "latent_channels": (0, 2, 4), "prior": "exogenous", **plain}
    blocks = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}
    return HVAE(SCANNERS, in_channels=1, sides=(8, 8), **{"parents_as": "tone_curve", **blocks, **plain})


def bumps(rows, seed=0):
    """Smooth bumps of many heights, clean, in 0..1."""
    draw = torch.Generator().manual_seed(seed)
    place = torch.arange(8.0)
    x, y, width = (torch.rand(rows, 1, 1, generator=draw) * span + low for span, low in ((4, 2), (4, 2), (1.5, 1)))
    distance = (place[None, :, None] - x) ** 2 + (place[None, None, :] - y) ** 2
    return (0.2 + 0.8 * torch.rand(rows, 1, 1, generator=draw) * torch.exp(-distance / (2 * width**2)))[:, None]


def test_what_the_mean_leaves_unexplained_is_drawn_by_the_other_curve():
    """Equal shared levels under both scanners: whatever the latents say, the image goes back and on."""
    made = generator().eval()
    own, numbers = torch.eye(2), SCANNERS.centred(torch.eye(2))
    with torch.no_grad():
        made.curve.layer.weight.normal_(std=1.0 / GAIN)
        shared = levels(2, 1)[:, :, :4, :4].repeat(1, 1, 2, 2)
        drawn = made.curve(shared, numbers)
        found = made.normalise(made.counterfactual(made.denormalise(drawn), own, own.flip(0)))
        expected = made.curve(shared, numbers.flip(0))
    torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=0, atol=1e-5)
    inside = expected.abs() < 1
    assert inside.float().mean() > 0.2
    assert (found - drawn)[inside].abs().mean() > 0.1


def test_it_finds_a_gamma_that_the_images_differ_by():
    """250 steps; a counterfactual is less than a third as far from the truth as the image left as it is."""
    made = generator()
    optimiser = torch.optim.Adam(made.parameters(), lr=3e-3)
    clean, scanner = bumps(256), torch.arange(256) % 2
    seen = torch.where(scanner.view(-1, 1, 1, 1) == 1, clean.sqrt(), clean)
    numbers = torch.nn.functional.one_hot(scanner, 2).float()
    for step in range(250):
        rows = torch.randperm(256, generator=torch.Generator().manual_seed(step))[:32]
        found = made(seen[rows], numbers[rows])
        loss = -discretised_log_likelihood(found.target, found.mean, found.scale).mean()
        for latent in found.latents:
            distance = (latent.mean - latent.prior_mean) / latent.prior_scale
            ratio = latent.scale / latent.prior_scale
            loss = loss + 0.5 * (ratio**2 + distance**2 - 1 - 2 * ratio.log()).sum() / (64 * len(rows)) * 4.0
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    made.eval()
    new = bumps(64, seed=1)
    plain, gamma = torch.tensor([[1.0, 0.0]]).expand(64, 2), torch.tensor([[0.0, 1.0]]).expand(64, 2)
    with torch.no_grad():
        there = made.counterfactual(new, plain, gamma)
        back = made.counterfactual(new.sqrt(), gamma, plain)
    left = (new.sqrt() - new).abs().mean()
    assert (there - new.sqrt()).abs().mean() < left / 3
    assert (back - new).abs().mean() < left / 3
