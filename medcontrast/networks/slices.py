"""A 2D U-Net as a segmentation network of volumes: every slice along one axis is an image of its own.

Letters: b rows, c channels, k classes, x, y, z voxels, n slices, p, q the other two sides.
"""

from __future__ import annotations

from torch import Tensor

from medcontrast.errors import InputError
from medcontrast.networks.encoders2d import Encoder
from medcontrast.networks.output import Network, Output
from medcontrast.networks.unet2d import UNet2D


class SliceUNet(Network):
    """Patches of any thickness along `axis`, one voxel included: their slices become rows and do not see each other.

    Any patch fits; the U-Net pads its images itself.

    Attributes:
        axis: 0, 1 or 2, the axis that slices are counted along.
        unet: The U-Net; `unet.encoder` is what pre-training gives.
    """

    def __init__(self, encoder: Encoder, *, classes: int, width: int = 16, axis: int = 2) -> None:
        """Builds the decoder around an encoder, which is taken as it is.

        Args:
            encoder: Of images.
            classes: k, background included.
            width: Channels of the decoder at the image's own grid, and of the features.
            axis: Of the slices.

        Raises:
            InputError: No such axis, or fewer than two classes.
        """
        if axis not in (0, 1, 2):
            raise InputError(f"Slices lie along axis 0, 1 or 2, but got {axis}.")
        super().__init__(
            in_channels=encoder.in_channels, classes=classes, feature_channels=width, stride=(1, 1, 1), norm="group"
        )
        self.axis = axis
        self.unet = UNet2D(encoder, classes=classes, width=width)

    def forward(self, image: Tensor) -> Output:
        """Output of an image (b, in_channels, x, y, z)."""
        self.check_image(image)
        slices = image.movedim(2 + self.axis, 1)  # (b, n, c, p, q)
        logits, features = self.unet.decode(slices.flatten(0, 1))
        rows = slices.shape[:2]
        return Output(*(part.unflatten(0, rows).movedim(1, 2 + self.axis) for part in (logits, features)))
