"""Tests of the MONAI networks: reference (the plain MONAI network with the same weights), by hand, gradient."""

import re

import pytest
import torch
from monai.networks.nets import DynUNet as MonaiDynUNet
from monai.networks.nets import SegResNet as MonaiSegResNet
from monai.networks.nets import UNet as MonaiUNet

from medcontrast.errors import InputError
from medcontrast.networks.monai_networks import DynUNet, SegResNet, UNet

INSTANCE = ("instance", {"affine": True})
GROUP = ("group", {"num_groups": 4})


def plain_unet(norm):
    return MonaiUNet(3, 1, 3, (4, 8, 12, 12), ((1, 1, 1), (2, 2, 1), (2, 2, 2)), num_res_units=2, norm=norm or None)


def plain_dynunet(norm):
    strides = ((1, 1, 1), (2, 2, 1), (2, 2, 2))
    return MonaiDynUNet(3, 1, 3, [3, 3, 3], strides, strides[1:], filters=(4, 8, 12), norm_name=norm)


def plain_segresnet(norm):
    return MonaiSegResNet(3, 4, 1, 3, norm=norm)


STRIDES = ((2, 2, 1), (2, 2, 2))
CASES = {
    "unet": (plain_unet, lambda **k: UNet(classes=3, filters=(4, 8, 12), strides=STRIDES, **k)),
    "dynunet": (plain_dynunet, lambda **k: DynUNet(classes=3, filters=(4, 8, 12), strides=STRIDES, **k)),
    "segresnet": (plain_segresnet, lambda **k: SegResNet(classes=3, filters=4, **k)),
}


def give_weights(plain, ours):
    """Copies weights by the order in which they are used: both register the same layers, once a network's own names."""
    theirs = list({id(p): p for p in _in_order(plain)}.values())
    mine = list({id(p): p for p in _in_order(ours)}.values())
    assert [p.shape for p in theirs] == [p.shape for p in mine]
    with torch.no_grad():
        for old, new in zip(mine, theirs, strict=True):
            old.copy_(new)


def _in_order(network):
    """Parameters in the order in which the layers that own them are called."""
    called, hooks = [], []
    for module in network.modules():
        if any(True for _ in module.parameters(recurse=False)):
            hooks.append(module.register_forward_hook(lambda m, *_: called.append(m)))
    mode = network.training
    network.eval()(torch.randn(1, 1, 16, 16, 16))
    network.train(mode)
    for hook in hooks:
        hook.remove()
    return [p for module in called for p in module.parameters(recurse=False)]


@pytest.mark.parametrize("norm", [("batch", "batch"), ("instance", INSTANCE), ("group", GROUP), ("none", "")])
@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_plain_monai_network(name, norm):
    torch.manual_seed(0)
    ours_norm, monai_norm = norm
    if (name, ours_norm) == ("unet", "group"):
        monai_norm = ("group", {"num_groups": 1})  # MONAI normalises the class channels too, of which there are three
    make_plain, make_ours = CASES[name]
    plain, ours = make_plain(monai_norm), make_ours(norm=ours_norm)
    give_weights(plain, ours)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in plain.parameters())
    image = torch.randn(2, 1, 16, 16, 16)
    for mode in (True, False):
        plain.train(mode)
        ours.train(mode)
        torch.testing.assert_close(ours(image).logits, plain(image))


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_the_last_convolution(name):
    network = CASES[name][1]().eval()
    output = network(torch.randn(2, 1, 16, 24, 32))
    assert output.logits.shape == (2, 3, 16, 24, 32)
    assert output.features.shape == (2, network.feature_channels, 16, 24, 32)
    torch.testing.assert_close(network.final(output.features), output.logits)
    assert (network.in_channels, network.classes) == (1, 3)


def test_strides_multiply_to_the_divisor():
    assert UNet(filters=(4, 8, 12), strides=STRIDES).stride == (4, 4, 2)
    assert DynUNet(filters=(4, 8, 12), strides=STRIDES).stride == (4, 4, 2)
    assert DynUNet(filters=(4, 4, 4, 4, 4)).stride == (16, 16, 16)
    assert SegResNet(filters=4).stride == (8, 8, 8)


@pytest.mark.parametrize("name", CASES)
def test_gradient_reaches_every_parameter(name):
    torch.manual_seed(0)
    network = CASES[name][1](norm="instance")
    network(torch.randn(2, 1, 16, 16, 32)).logits.square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [n for n, p in network.named_parameters() if p.ndim > 1 and p.grad.abs().sum() == 0] == []


def test_every_weight_is_stored_once():
    for make in (case[1] for case in CASES.values()):
        tensors = make().state_dict().values()
        assert len({t.data_ptr() for t in tensors if t.numel()}) == sum(1 for t in tensors if t.numel())


def test_dynunet_dropout_leaves_the_logits_whole():
    torch.manual_seed(0)
    network = DynUNet(classes=3, filters=(4, 8, 12), strides=STRIDES, dropout=0.9)
    assert (network(torch.randn(2, 1, 16, 16, 16)).logits != 0).all()


@pytest.mark.parametrize("name", CASES)
def test_a_side_that_does_not_divide_is_refused(name):
    network = CASES[name][1]()
    with pytest.raises(
        InputError, match=re.escape(f"needs sides that are multiples of {network.stride}, but got (18,")
    ):
        network(torch.zeros(1, 1, 18, 16, 16))


def test_filters_and_strides_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"dynunet needs at least 3 widths in filters, one a level, but got \[4, 8\]"):
        DynUNet(filters=(4, 8))
    with pytest.raises(InputError, match="unet with 3 levels needs 2 strides, one between each two levels, but got 1"):
        UNet(filters=(4, 8, 12), strides=((2, 2, 2),))
    with pytest.raises(InputError, match=r'norm is "batch", "instance", "group" or "none", but got \'layer\''):
        SegResNet(norm="layer")


def test_dynunet_with_three_decoders_predicts_by_its_first_as_with_one():
    torch.manual_seed(0)
    one = DynUNet(classes=3, filters=(4, 8, 8)).eval()
    torch.manual_seed(0)
    three = DynUNet(classes=3, filters=(4, 8, 8), decoders=3).eval()
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        outputs = three.decode_all(image)
        assert torch.equal(outputs[0].logits, one(image).logits)
        assert torch.equal(outputs[0].logits, three(image).logits)
    assert [len(outputs), *{tuple(output.logits.shape) for output in outputs}] == [3, (1, 3, 16, 16, 16)]
    assert not any(torch.equal(outputs[0].logits, output.logits) for output in outputs[1:])
    assert [decoder.ups[0].transp_conv[0].mode for decoder in three.others] == ["trilinear", "nearest"]


def test_dynunet_decoders_go_up_by_the_strides():
    network = DynUNet(filters=(4, 8, 8), strides=((1, 2, 2), (2, 2, 1)), decoders=3)
    shapes = {tuple(output.logits.shape) for output in network.decode_all(torch.randn(1, 1, 8, 16, 8))}
    assert shapes == {(1, 2, 8, 16, 8)}


def test_dynunet_refuses_a_fourth_decoder():
    with pytest.raises(InputError, match="dynunet has 1, 2 or 3 decoders, but got 4"):
        DynUNet(decoders=4)
