"""What every segmentation network gives and says of itself.

Letters: b rows, k classes (background first), c feature channels, x, y, z voxels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from medcontrast.errors import InputError


class Output(NamedTuple):
    """What a network gives.

    Attributes:
        logits: (b, k, x, y, z).
        features: (b, c, x, y, z), the last decoder features, on the grid of the logits.
    """

    logits: Tensor
    features: Tensor


class Network(nn.Module, ABC):
    """A segmentation network: image (b, in_channels, x, y, z) in, `Output` out.

    Attributes:
        in_channels: Channels of the image.
        classes: Channels of the logits, background included.
        feature_channels: Channels of `Output.features`.
        stride: Down-sampling from the image to the deepest level, an axis each; every side of a patch is a multiple.
        norm: "batch", "instance", "group" or "none".
    """

    def __init__(
        self, *, in_channels: int, classes: int, feature_channels: int, stride: tuple[int, int, int], norm: str
    ) -> None:
        """Records what the network says of itself; see the class for the arguments."""
        super().__init__()
        self.in_channels = in_channels
        self.classes = classes
        self.feature_channels = feature_channels
        self.stride = stride
        self.norm = norm

    @abstractmethod
    def forward(self, image: Tensor) -> Output:
        """Logits and features of an image (b, in_channels, x, y, z)."""

    def decode_all(self, image: Tensor) -> list[Output]:
        """Output of every decoder, the one of `forward` first, of an image (b, in_channels, x, y, z)."""
        return [self(image)]

    def check_image(self, image: Tensor) -> None:
        """Refuses an image that the network cannot take, before a layer deep inside does.

        Raises:
            InputError: Wrong number of axes or channels, a side that is no multiple of `stride`, or a deepest level of
                one voxel, which instance normalisation (in training, of one row, batch normalisation too) refuses.
        """
        name, shape = type(self).__name__, tuple(image.shape)
        if image.ndim != 5 or shape[1] != self.in_channels:
            raise InputError(
                f"{name} takes images of shape (rows, {self.in_channels}, x, y, z), but got {shape}. "
                "Check the number of image channels."
            )
        check_multiple(shape[2:], self.stride, name)
        voxels = math.prod(side // step for side, step in zip(shape[2:], self.stride, strict=True))
        alone = self.norm == "batch" and self.training and shape[0] == 1
        if voxels == 1 and (alone or self.norm == "instance"):
            raise InputError(
                f"{name}: an image of shape {shape} leaves one voxel at the deepest level, which {self.norm} "
                f"normalisation cannot work on. Make one side of the patch at least twice that of {self.stride}."
            )


def check_multiple(sides: Sequence[int], stride: Sequence[int], name: str) -> None:
    """Refuses sides (x, y, z) that are not positive multiples of `stride`, naming the shape.

    Raises:
        InputError: A side does not fit.
    """
    if any(side < step or side % step for side, step in zip(sides, stride, strict=True)):
        fitting = tuple(max(step, math.ceil(side / step) * step) for side, step in zip(sides, stride, strict=True))
        raise InputError(
            f"{name} needs sides that are multiples of {tuple(stride)}, but got {tuple(sides)}. "
            f"Use {fitting}, for example."
        )
