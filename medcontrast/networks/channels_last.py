"""Instance normalisation that stays in the channels-last layout, in which convolutions on CPUs are fastest.

PyTorch's own copies every activation to the channels-first layout; the next convolution then copies it back or works
in the slower layout.

Letters: b rows, c channels, x, y, z voxels, v voxels of a row.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Module = TypeVar("Module", bound=nn.Module)
LAYOUT = torch.channels_last_3d


def use_channels_last(network: Module) -> Module:
    """Puts a network's convolutions into the channels-last layout, and lets its instance norms follow; in place.

    The function of the network, its parameters' names and its checkpoints stay what they are.
    """
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d and module.affine and not module.track_running_stats:
            module.__class__ = ChannelsLastInstanceNorm
    for weight in network.parameters():
        # a weight of one channel or one place lies in both layouts: with other strides DDP would copy its gradient
        if weight.ndim == 5 and not weight.is_contiguous(memory_format=LAYOUT):
            weight.data = weight.data.contiguous(memory_format=LAYOUT)
    return network


def lay_out_for(device: torch.device, module: Module) -> Module:
    """Gives convolutions PyTorch's own layout back where instance norms do not stay in the channels-last one; in place.

    On a GPU PyTorch's instance norm leaves the channels-last layout, and with weights in it every convolution would
    copy its image there and the next norm back (pytorch issue 59168).

    Args:
        device: Where the module will compute; on a CPU nothing changes.
        module: One network or several.
    """
    if device.type != "cpu" and any(isinstance(each, ChannelsLastInstanceNorm) for each in module.modules()):
        for weight in module.parameters():
            weight.data = weight.data.contiguous()
    return module


class ChannelsLastInstanceNorm(nn.InstanceNorm3d):
    """`nn.InstanceNorm3d` with learned scale and shift; on a CPU, channels-last in gives channels-last out.

    Anything else (another layout, another device) is PyTorch's own instance normalisation.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(b, c, x, y, z) with mean 0 and variance 1 in every row and channel, then scaled and shifted.

        Raises:
            ValueError: One voxel a row and channel, as `nn.InstanceNorm3d` does.
        """
        last = input.ndim == 5 and input.is_contiguous(memory_format=LAYOUT) and not input.is_contiguous()
        if input.device.type != "cpu" or not last or input[0, 0].numel() == 1:
            return super().forward(input)
        result: Tensor = _Normalise.apply(input, self.weight, self.bias, self.eps)
        return result


class _Normalise(torch.autograd.Function):
    """Group normalisation with one channel a group, whose backward pass in this layout PyTorch does slowly."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        rows, channels = image.shape[:2]
        output, mean, scale = torch.native_group_norm(
            image, weight, bias, rows, channels, image[0, 0].numel(), channels, eps
        )
        ctx.save_for_backward(image, weight, mean, scale)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        image, weight, mean, scale = ctx.saved_tensors
        result = torch.empty_like(image)
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        images, gradients, results = _voxels(image), _voxels(gradient.contiguous(memory_format=LAYOUT)), _voxels(result)
        # row by row, so that what is written once is still in the cache when it is read again
        for row in range(len(image)):
            of_weight_row, of_bias_row = _one_row(
                images[row], gradients[row], results[row], weight, mean[row].to(weight), scale[row].to(weight)
            )
            of_weight += of_weight_row
            of_bias += of_bias_row
        return result, of_weight, of_bias, None


def _one_row(
    image: Tensor, gradient: Tensor, result: Tensor, weight: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Writes the gradient of the image (v, c) into `result`; returns those of weight and bias, each (c,).

    With n = (image - mean) scale and g the gradient, that of the image is
    weight scale (g - mean(g) - n mean(g n)), written as a g + b image + c with one number a channel each.
    """
    gradient, image = gradient.to(weight.dtype), image.to(weight.dtype)
    of_bias = gradient.sum(dim=0)
    of_weight = ((gradient * image).sum(dim=0) - mean * of_bias) * scale
    a = weight * scale
    b = -a * scale * of_weight / len(image)
    c = -a * of_bias / len(image) - b * mean
    whole = torch.addcmul(c.expand_as(image), image, b.expand_as(image))
    result.copy_(whole.addcmul_(gradient, a.expand_as(gradient)))
    return of_weight, of_bias


def _voxels(volume: Tensor) -> Tensor:
    """A channels-last (b, c, x, y, z) as (b, v, c), without a copy."""
    return volume.movedim(1, -1).flatten(1, -2)
