"""Tests of the discriminator of latents: by hand, gradient."""

import torch

from medcontrast.networks.latent_discriminator import LatentDiscriminator, reversed_gradient


def test_values_stay_and_gradients_are_turned_round():
    value = torch.tensor([1.5, -2.25], requires_grad=True)
    found = reversed_gradient(value, 0.25)
    assert torch.equal(found, value)
    (3.0 * found).sum().backward()
    assert value.grad.tolist() == [-0.75, -0.75]


def test_coarser_latents_are_repeated_to_the_finest_and_each_parent_has_its_logits():
    torch.manual_seed(0)
    made = LatentDiscriminator(3, (2, 5)).eval()
    coarse, fine = torch.randn(4, 1, 1, 1), torch.randn(4, 2, 6, 4)
    found = made([coarse, fine])
    assert [tuple(each.shape) for each in found] == [(4, 2), (4, 5)]
    joined = torch.cat([coarse.expand(-1, -1, 6, 4), fine], dim=1)
    expected = made.layers(joined).mean((2, 3))
    for head, logits in zip(made.heads, found, strict=True):
        torch.testing.assert_close(logits, head(expected))
    assert not torch.equal(made([coarse + 1.0, fine])[0], found[0])
