"""Channels-last instance normalisation. Reference, gradient, property and golden run: PyTorch's own is the witness."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from medcontrast.networks.build import BUILDERS, build_network
from medcontrast.networks.channels_last import LAYOUT, ChannelsLastInstanceNorm, lay_out_for, use_channels_last
from medcontrast.networks.ema import make_teacher, update_teacher

SHAPE = (2, 3, 4, 6, 5)


def pair(dtype: torch.dtype = torch.float64) -> tuple[nn.InstanceNorm3d, ChannelsLastInstanceNorm]:
    torch.manual_seed(1)
    own = nn.InstanceNorm3d(SHAPE[1], affine=True, dtype=dtype)
    nn.init.uniform_(own.weight, 0.5, 2.0)
    nn.init.uniform_(own.bias, -1.0, 1.0)
    ours = use_channels_last(copy.deepcopy(own))
    assert isinstance(ours, ChannelsLastInstanceNorm)
    return own, ours


def volume(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(2)
    return (torch.randn(SHAPE, dtype=dtype) * 3 + 5).contiguous(memory_format=LAYOUT)


def test_forward_from_the_equation() -> None:
    _, ours = pair()
    image = volume()
    expected = torch.empty_like(image)
    for row in range(SHAPE[0]):
        for channel in range(SHAPE[1]):
            values = image[row, channel]
            mean = values.sum() / values.numel()
            variance = ((values - mean) ** 2).sum() / values.numel()
            normal = (values - mean) / (variance + ours.eps) ** 0.5
            expected[row, channel] = ours.weight[channel] * normal + ours.bias[channel]
    torch.testing.assert_close(ours(image), expected)


def test_forward_and_gradients_are_those_of_pytorch() -> None:
    own, ours = pair()
    first, second = volume().requires_grad_(), volume().requires_grad_()
    factors = torch.randn(SHAPE, dtype=torch.float64)
    outputs = own(first), ours(second)
    torch.testing.assert_close(*outputs)
    for output in outputs:
        (output * factors).sum().backward()
    torch.testing.assert_close(second.grad, first.grad)
    torch.testing.assert_close(ours.weight.grad, own.weight.grad)
    torch.testing.assert_close(ours.bias.grad, own.bias.grad)


def test_gradcheck() -> None:
    _, ours = pair()

    def normalise(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(ours, {"weight": weight, "bias": bias}, (image,))

    inputs = (volume().requires_grad_(), ours.weight.detach().requires_grad_(), ours.bias.detach().requires_grad_())
    assert torch.autograd.gradcheck(normalise, inputs)


def test_the_layout_stays_and_a_contiguous_gradient_is_taken() -> None:
    _, ours = pair()
    image = volume().requires_grad_()
    output = ours(image)
    assert output.is_contiguous(memory_format=LAYOUT)
    output.backward(torch.ones(SHAPE, dtype=torch.float64))
    assert image.grad is not None
    assert image.grad.is_contiguous(memory_format=LAYOUT)


def test_bfloat16_activations_with_float32_parameters() -> None:
    own, ours = pair(torch.float32)
    image = volume(torch.float32).bfloat16()
    first, second = image.clone().requires_grad_(), image.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, output = own(first), ours(second)
    torch.testing.assert_close(output.float(), expected.float(), rtol=2e-2, atol=2e-2)
    factors = torch.randn(SHAPE)
    (output.float() * factors).sum().backward()
    (expected.float() * factors).sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(second.grad.float(), first.grad.float(), rtol=5e-2, atol=2e-2)
    torch.testing.assert_close(ours.weight.grad, own.weight.grad, rtol=2e-2, atol=5e-2)


def test_one_voxel_is_refused_as_pytorch_does() -> None:
    _, ours = pair()
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        ours(volume()[:, :, :1, :1, :1])


def test_norms_without_learned_scale_stay_pytorchs() -> None:
    assert type(use_channels_last(nn.InstanceNorm3d(3))) is nn.InstanceNorm3d
    assert type(use_channels_last(nn.BatchNorm3d(3))) is nn.BatchNorm3d


@pytest.mark.parametrize(("name", "filters"), [("dynunet", (4, 8, 12)), ("unet", (4, 8, 12)), ("vnet", 4)])
def test_a_network_is_the_same_function(name: str, filters: int | tuple[int, ...]) -> None:
    torch.manual_seed(3)
    leveled = {"strides": None} if isinstance(filters, tuple) else {}
    plain = BUILDERS[name](in_channels=2, classes=3, filters=filters, norm="instance", dropout=0.0, **leveled)
    fast = build_network(name, in_channels=2, classes=3, filters=filters)
    plain, fast = plain.double(), fast.double()
    fast.load_state_dict(plain.state_dict())  # the names are the same
    image = torch.randn(2, 2, 16, 32, 16, dtype=torch.float64)
    outputs = plain(image), fast(image)
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits)
    for output in outputs:
        output.logits.square().mean().backward()
    for (key, one), two in zip(plain.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, msg=lambda text, key=key: f"{key}: {text}")


def test_a_teacher_keeps_the_layout() -> None:
    student = build_network("dynunet", in_channels=1, classes=2, filters=(4, 8, 12))
    teacher = make_teacher(student)
    update_teacher(teacher, student, 0.9, 5)
    layouts = [value.is_contiguous(memory_format=LAYOUT) for value in teacher.parameters() if value.ndim == 5]
    assert layouts
    assert all(layouts)


def test_activations_stay_in_the_layout() -> None:
    network = build_network("dynunet", in_channels=1, classes=2, filters=(16, 32, 64))
    image = torch.randn(2, 1, 16, 32, 16)
    assert network(image).features.is_contiguous(memory_format=LAYOUT)


def strides_are_last(network: nn.Module) -> set[bool]:
    weights = [each for each in network.parameters() if each.ndim == 5 and min(each.shape[1], each[0, 0].numel()) > 1]
    return {each.is_contiguous(memory_format=LAYOUT) and not each.is_contiguous() for each in weights}


@pytest.mark.parametrize(("norm", "on_gpu"), [("instance", {False}), ("batch", {True})])
def test_on_a_gpu_weights_follow_the_layout_that_norms_leave(norm: str, on_gpu: set[bool]) -> None:
    network = build_network("dynunet", in_channels=1, classes=2, filters=(4, 8, 8), norm=norm)
    pair = nn.ModuleDict({"student": network, "teacher": make_teacher(network)})
    before = {name: weight.clone() for name, weight in pair.state_dict().items()}
    assert strides_are_last(lay_out_for(torch.device("cpu"), pair)) == {True}
    assert strides_are_last(lay_out_for(torch.device("cuda"), pair)) == on_gpu
    for name, weight in pair.state_dict().items():
        assert torch.equal(weight, before[name])
