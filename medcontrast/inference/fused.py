"""A network rewritten for inference: batch norm folded into the convolution before it, ReLU into its last pass.

Same function, fewer passes over memory: on CPUs it is memory, not arithmetic, that narrow layers at full resolution cost.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fused(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose blocks of convolution, batch norm and ReLU are one layer each.

    A block is a Sequential of just these three, as V-Net has them; whatever else stays as it is. With a block fused,
    the copy computes in the channels-last layout, which those layers are fastest in. It cannot be trained, and its
    tensors have other names.

    Args:
        network: Left alone.
    """
    made = copy.deepcopy(network).eval().requires_grad_(False)
    blocks = [module for module in made.modules() if _is_block(module)]
    for block in blocks:
        convolution, norm = block[0], block[1]
        transposed = isinstance(convolution, nn.ConvTranspose3d)
        folded = fuse_conv_bn_eval(convolution, norm, transpose=transposed)
        block[0] = folded if transposed else ConvolutionReLU(folded)
        block[1] = nn.Identity()
        if not transposed:
            block[2] = nn.Identity()
    return made.to(memory_format=torch.channels_last_3d) if blocks else made


class ConvolutionReLU(nn.Module):
    """A convolution and a ReLU; on CPUs one pass of oneDNN, which PyTorch itself uses in compiled graphs alone."""

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, image: Tensor) -> Tensor:
        """(b, c, x, y, z) in, (b, d, ...) out."""
        layer = self.convolution
        if image.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return functional.relu(layer(image))
        weight, bias = layer.weight, layer.bias
        if torch.is_autocast_enabled("cpu"):  # autocast does not know the operator
            dtype = torch.get_autocast_dtype("cpu")
            image, weight = image.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            image, weight, bias, layer.padding, layer.stride, layer.dilation, layer.groups, "relu", [], ""
        )
        return out


def _is_block(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Sequential)
        and len(module) == 3
        and isinstance(module[0], nn.Conv3d | nn.ConvTranspose3d)
        and isinstance(module[1], nn.BatchNorm3d)
        and isinstance(module[2], nn.ReLU)
        and module[0].padding_mode == "zeros"
    )
