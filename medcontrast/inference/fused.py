"""A network rewritten for inference: batch norm folded into the convolution before it, ReLU into its last pass.

Same function, fewer passes over memory: on CPUs narrow layers at full resolution wait for memory, not for arithmetic.
Convolutions go to oneDNN by name: PyTorch by itself gives some to slower code that copies every activation.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medcontrast.networks.channels_last import use_channels_last


def fused(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose blocks of convolution, batch norm and ReLU are one layer each.

    A block is a Sequential of just these three, as V-Net has them; the convolution of 1x1x1 voxel that ends V-Net is
    rewritten too, and whatever else stays as it is. The copy cannot be trained.

    Args:
        network: Left alone.
    """
    made = copy.deepcopy(network).eval().requires_grad_(False)
    for block in list(made.modules()):
        if isinstance(block, nn.Sequential) and len(block) == 3:
            convolution, norm, last = block
            if isinstance(norm, nn.BatchNorm3d) and isinstance(last, nn.ReLU):
                _fold(block, convolution, norm)
        final = getattr(block, "final", None)
        if isinstance(final, nn.Conv3d):
            OneDnnConvolution.take(final, relu=False)
    return use_channels_last(made)


def _fold(block: nn.Sequential, convolution: nn.Module, norm: nn.BatchNorm3d) -> None:
    """Rewrites the block in place, where its first layer is a convolution that can take the others in."""
    if isinstance(convolution, nn.ConvTranspose3d):
        block[0], block[1] = fuse_conv_bn_eval(convolution, norm, transpose=True), nn.Identity()
    elif isinstance(convolution, nn.Conv3d) and convolution.padding_mode == "zeros":
        block[0] = OneDnnConvolution.take(fuse_conv_bn_eval(convolution, norm), relu=True)
        block[1] = block[2] = nn.Identity()


class OneDnnConvolution(nn.Conv3d):
    """A convolution and the ReLU after it, if any; on CPUs one pass of oneDNN.

    PyTorch itself puts the two together in compiled graphs alone.
    """

    relu: bool

    @classmethod
    def take(cls, layer: nn.Conv3d, *, relu: bool) -> OneDnnConvolution:
        """The layer itself, from now on one of these; its parameters keep their names."""
        layer.__class__ = cls
        assert isinstance(layer, cls)
        layer.relu = relu
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """(b, c, x, y, z) in, (b, d, ...) out."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if input.device.type != "cpu" or not _has_one_dnn(dtype):
            out = super().forward(input)
            return functional.relu(out) if self.relu else out
        # autocast does not know the operator
        bias = None if self.bias is None else self.bias.to(dtype)
        out = torch.ops.mkldnn._convolution_pointwise(
            _channels_last(input.to(dtype)),
            self.weight.to(dtype),
            bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            "relu" if self.relu else "none",
            [],
            "",
        )
        return out


def _channels_last(image: Tensor) -> Tensor:
    """The same image; strides of one channel, which fits both layouts, say channels-last, so that the result is."""
    if image.shape[1] > 1 or not image.is_contiguous():
        return image
    x, y, z = image.shape[2:]
    return image.as_strided(image.shape, (x * y * z, 1, y * z, z, 1))


def _has_one_dnn(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in this type on this CPU."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
