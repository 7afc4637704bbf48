"""Tests of the heads: by hand, reference (plain loops), property, gradient."""

import re

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional

from medcontrast.errors import InputError
from medcontrast.losses.foreground_background import pull, push
from medcontrast.networks.heads import ForegroundBackgroundHead, LegacyForegroundBackgroundHead, masked_average
from medcontrast.networks.vnet import VNet


def volumes(side=32):
    """Four volumes that a person would tell apart: balls of several sizes and contrasts on smooth fields."""
    torch.manual_seed(0)
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(side))] * 3, indexing="ij"))
    images, masks = [], []
    for radius, contrast, grain in ((12, 3.0, 8), (5, 3.0, 4), (9, -2.0, 16), (7, 1.0, 2)):
        center = torch.rand(3) * side / 4 + side * 3 / 8
        mask = ((grid - center[:, None, None, None]) ** 2).sum(0) < radius**2
        noise = torch.randn(1, 1, side // grain, side // grain, side // grain)
        field = functional.interpolate(noise, size=(side,) * 3, mode="trilinear")[0, 0]
        image = field + contrast * mask + 0.1 * torch.randn(side, side, side)
        images.append((image - image.mean()) / image.std())
        masks.append(mask)
    return torch.stack(images)[:, None], torch.stack(masks)[:, None].long()


def test_masked_average_by_hand():
    features = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 8.0, 0.0]]])
    weight = torch.tensor([[[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]])
    pooled, voxels = masked_average(features, weight)
    torch.testing.assert_close(pooled, torch.tensor([[[1.5, 0.0], [3.5, 4.0]]]))
    torch.testing.assert_close(voxels, torch.tensor([[2.0, 1.0]]))


def test_masked_average_against_loops():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    weight = torch.rand(2, 2, 4, 5, 6, dtype=torch.float64)
    pooled, _ = masked_average(features, weight)
    for b in range(2):
        for k in range(2):
            for c in range(3):
                above = sum(f * w for f, w in zip(features[b, c].flatten(), weight[b, k].flatten(), strict=True))
                assert pooled[b, k, c].item() == pytest.approx((above / weight[b, k].sum()).item(), rel=1e-12)


def test_about_five_thousand_parameters():
    assert sum(p.numel() for p in ForegroundBackgroundHead(16, 128).parameters()) == 4768


def test_shapes_and_any_patch_size():
    head = ForegroundBackgroundHead(4, 8)
    for shape in ((8, 8, 8), (5, 16, 3), (7, 7)):
        out = head(torch.randn(2, 4, *shape), torch.rand(2, 3, *shape))
        assert out.foreground.shape == out.background.shape == (2, 3, 8)
        assert out.foreground_valid.all() and out.background_valid.all()


def test_the_embedding_does_not_know_the_patch_size():
    torch.manual_seed(0)
    head = ForegroundBackgroundHead(4, 8)
    features, activation = torch.randn(1, 4, 8, 8, 8), torch.rand(1, 1, 8, 8, 8)
    once, twice = head(features, activation), head(features.repeat(1, 1, 2, 1, 3), activation.repeat(1, 1, 2, 1, 3))
    torch.testing.assert_close(once.foreground, twice.foreground, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(once.background, twice.background, rtol=1e-4, atol=1e-5)


def test_rows_do_not_see_each_other_and_complementary_maps_swap_the_embeddings():
    torch.manual_seed(0)
    head = ForegroundBackgroundHead(4, 8)
    features, activation = torch.randn(3, 4, 8, 8, 8), torch.rand(3, 1, 8, 8, 8)
    out = head(features, activation)
    torch.testing.assert_close(head(features[1:2], activation[1:2]).foreground, out.foreground[1:2])
    swapped = head(features, 1 - activation)
    torch.testing.assert_close(swapped.foreground, out.background, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=[("batch", 0), ("batch", 1), ("instance", 0), ("instance", 1)], ids=str)
def at_initialisation(request):
    """Features, Dice and embeddings of four volumes by a network and a head with fresh weights."""
    norm, seed = request.param
    torch.manual_seed(seed)
    network, head = VNet(norm=norm, dropout=0.0), ForegroundBackgroundHead(16)
    images, label = volumes()
    with torch.no_grad():
        features = network(images).features
    features.requires_grad_()
    logits = network.decoders[0].final(features)
    dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True)(logits, label)
    return features, dice, head(features, logits.softmax(1)[:, 1:])


def test_embeddings_differ_between_volumes_at_initialisation(at_initialisation):
    _, _, embeddings = at_initialisation
    for kind in (embeddings.foreground[:, 0], embeddings.background[:, 0]):
        cosines = functional.cosine_similarity(kind[:, None], kind[None], dim=-1)
        assert cosines[~torch.eye(4, dtype=torch.bool)].max() < 0.999


def test_every_term_reaches_the_decoder_features_beside_dice(at_initialisation):
    features, dice, embeddings = at_initialisation
    foreground, background = embeddings.foreground[:, 0], embeddings.background[:, 0]
    terms = [dice, pull(foreground), pull(background), push(foreground, background)]
    norms = [torch.autograd.grad(term, features, retain_graph=True)[0].norm().item() for term in terms]
    assert norms[0] > 0
    assert min(norms[1:]) >= 1e-3 * norms[0], norms


def test_all_embeddings_share_an_orthant_and_none_is_dead():
    torch.manual_seed(0)
    out = ForegroundBackgroundHead(4, 16)(torch.randn(6, 4, 8, 8, 8), torch.rand(6, 1, 8, 8, 8))
    assert (out.foreground > 0).all() and (out.background > 0).all()
    assert (out.foreground.norm(dim=-1) > 0.1).all()


def test_empty_and_full_maps_are_marked_and_stay_finite():
    features = torch.randn(3, 4, 8, 8, 8, requires_grad=True)
    activation = torch.stack([torch.zeros(1, 8, 8, 8), torch.ones(1, 8, 8, 8), torch.full((1, 8, 8, 8), 0.5)])
    activation.requires_grad_()
    head = ForegroundBackgroundHead(4, 8)
    out = head(features, activation)
    assert out.foreground_valid[:, 0].tolist() == [False, True, True]
    assert out.background_valid[:, 0].tolist() == [True, False, True]
    (out.foreground.square().sum() + out.background.square().sum()).backward()
    gradients = [features.grad, activation.grad, *[p.grad for p in head.parameters()]]
    assert all(g.isfinite().all() for g in (out.foreground, out.background, *gradients))


def test_gradient_reaches_features_map_and_every_parameter():
    torch.manual_seed(0)
    features, logits = torch.randn(2, 4, 8, 8, 8, requires_grad=True), torch.randn(2, 1, 8, 8, 8, requires_grad=True)
    head = ForegroundBackgroundHead(4, 8)
    out = head(features, logits.sigmoid())
    (out.foreground[..., 0] * out.background[..., 1]).sum().backward()
    assert (features.grad.flatten(1).abs().sum(1) > 0).all() and (logits.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())


def test_gradcheck():
    torch.manual_seed(0)
    head = ForegroundBackgroundHead(3, 4, hidden_channels=5).double()
    features = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, z: head(f, z.sigmoid())[:2], (features, logits))


def test_bfloat16_under_autocast_gives_float32():
    torch.manual_seed(0)
    head = ForegroundBackgroundHead(4, 8)
    features, activation = torch.randn(2, 4, 8, 8, 8).bfloat16(), torch.rand(2, 1, 8, 8, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = head(features, activation)
    assert out.foreground.dtype == torch.float32
    torch.testing.assert_close(out.foreground, head(features.float(), activation.float()).foreground)


def test_the_public_head_has_its_reported_size():
    with torch.device("meta"):
        head = LegacyForegroundBackgroundHead(2, (112, 112, 80), 128)
    assert head.voxels == 56 * 56 * 40 == 125_440
    linear = [p.numel() for n, p in head.named_parameters() if not n.startswith("activation")]
    assert 3 * sum(linear) == 96_338_688


def test_the_public_head_hardly_sees_the_image_at_initialisation():
    torch.manual_seed(0)
    head = LegacyForegroundBackgroundHead(2, (48, 48, 48), 128)
    out = head(torch.randn(4, 2, 48, 48, 48) * torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None, None, None, None])
    cosines = functional.cosine_similarity(out.foreground[:, None, 0], out.foreground[None, :, 0], dim=-1)
    assert cosines.min() > 0.99999
    across = functional.cosine_similarity(out.foreground[:, 0], out.background[:, 0], dim=-1)
    assert across.max() - across.min() < 1e-3
    # of the biases alone: 3/8 on average over draws, with a deviation of 0.06; one draw was found at 0.4147
    biases = functional.cosine_similarity(head.foreground.bias.relu(), head.background.bias.relu(), dim=0)
    assert across.mean().item() == pytest.approx(biases.item(), abs=1e-3) == pytest.approx(0.4147, abs=0.06)


def test_the_public_head_by_its_equation():
    torch.manual_seed(0)
    head = LegacyForegroundBackgroundHead(3, (5, 4, 6), 7)
    logits = torch.randn(2, 3, 5, 4, 6)
    out = head(logits)
    a = head.activation(logits).reshape(2, -1)
    assert a.shape[1] == head.voxels == 3 * 2 * 3
    expected = (head.foreground.weight @ (a / a.shape[1]).T).T + head.foreground.bias
    torch.testing.assert_close(out.foreground[:, 0], expected.clamp_min(0))
    expected = (head.background.weight @ ((1 - a) / a.shape[1]).T).T + head.background.bias
    torch.testing.assert_close(out.background[:, 0], expected.clamp_min(0))


def test_the_public_head_refuses_another_patch():
    head = LegacyForegroundBackgroundHead(2, (8, 8, 8), 4)
    with pytest.raises(InputError, match=re.escape("made for patches of (8, 8, 8), but got (8, 8, 16)")):
        head(torch.zeros(1, 2, 8, 8, 16))


def test_a_side_of_just_the_least_voxels_is_valid():
    activation = torch.zeros(2, 1, 4, 4, 4)
    activation[0].view(-1)[:3] = 1.0
    activation[1].view(-1)[:2] = 1.0
    out = ForegroundBackgroundHead(4, 8, minimum_voxels=3.0)(torch.randn(2, 4, 4, 4, 4), activation)
    assert out.foreground_valid[:, 0].tolist() == [True, False]
    out = ForegroundBackgroundHead(4, 8, minimum_voxels=61.0)(torch.randn(2, 4, 4, 4, 4), activation)
    assert out.background_valid[:, 0].tolist() == [True, True]


def test_the_head_by_its_equation():
    torch.manual_seed(0)
    head = ForegroundBackgroundHead(4, 8)
    features, activation, weight = torch.randn(2, 4, 3, 3, 3), torch.rand(2, 2, 3, 3, 3), torch.rand(2, 1, 3, 3, 3)
    out = head(features, activation, weight)
    for found, share in ((out.foreground, activation * weight), (out.background, (1 - activation) * weight)):
        pooled = torch.einsum("bcxyz,bkxyz->bkc", features, share) / share.sum((2, 3, 4))[..., None]
        hidden = functional.gelu(head.hidden(functional.layer_norm(pooled, (4,))))
        last = functional.layer_norm(head.last(hidden), (8,))
        torch.testing.assert_close(found, torch.log(1 + torch.exp(4 * last)) / 4, rtol=1e-4, atol=1e-5)


def test_the_head_begins_without_biases():
    head = ForegroundBackgroundHead(4, 8)
    assert not head.hidden.bias.any() and not head.last.bias.any()


def test_a_weight_below_one_is_a_weight_all_the_same():
    features, weight = torch.full((1, 2, 1, 1, 1), 4.0), torch.full((1, 1, 1, 1, 1), 0.5)
    average, voxels = masked_average(features, weight)
    assert average.flatten().tolist() == [4.0, 4.0] and voxels.item() == 0.5


def test_less_weight_than_a_thousandth_of_a_voxel_is_divided_by_that():
    features, weight = torch.full((1, 2, 1, 1, 1), 4.0), torch.tensor([1e-3, 1e-4]).view(1, 2, 1, 1, 1)
    average, voxels = masked_average(features, weight)
    torch.testing.assert_close(average, torch.tensor([[[4.0, 4.0], [0.4, 0.4]]]))
    torch.testing.assert_close(voxels, torch.tensor([[1e-3, 1e-4]]))
