"""MONAI's 2D ResNet-18, -34 and -50, taken apart so that they give the map of every stage.

Letters: b rows, c channels, x, y pixels.
"""

from __future__ import annotations

from monai.networks.nets.resnet import ResNet as MonaiResNet
from torch import Tensor, nn

from medcontrast.errors import InputError
from medcontrast.networks.encoders2d import Encoder, make_norm

LAYERS = {18: ("basic", (2, 2, 2, 2)), 34: ("basic", (3, 4, 6, 3)), 50: ("bottleneck", (3, 4, 6, 3))}


class ResNet(Encoder):
    """A ResNet of four stages; layers, their order and their initial values are MONAI's.

    Paper: He 2016, table 1.
    """

    def __init__(
        self,
        depth: int,
        *,
        in_channels: int = 3,
        width: int = 64,
        norm: str = "batch",
        small_stem: bool = False,
    ) -> None:
        """Builds the encoder.

        Args:
            depth: 18, 34 or 50.
            in_channels: Channels of the image.
            width: Channels of the first stage; they double at each of the three below. 50 gives four times as many.
            norm: "batch", "group" (at most 8 groups) or "split_batch".
            small_stem: For images of 64 pixels and less: a 3x3 stem of stride 1 and no pooling, instead of 7x7, stride
                2 and pooling.

        Raises:
            InputError: An unknown depth or norm.
        """
        if depth not in LAYERS:
            raise InputError(f"A ResNet here has a depth of 18, 34 or 50, but got {depth}.")
        block, layers = LAYERS[depth]
        planes = [width * 2**level for level in range(4)]
        channels = [side * (4 if block == "bottleneck" else 1) for side in planes]
        super().__init__(
            in_channels=in_channels,
            stage_channels=channels if small_stem else [width, *channels],
            stage_strides=(1, 2, 4, 8) if small_stem else (2, 4, 8, 16, 32),
        )
        net = MonaiResNet(
            block,
            list(layers),
            planes,
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_size=3 if small_stem else 7,
            conv1_t_stride=1 if small_stem else 2,
            feed_forward=False,
            bias_downsample=False,
        )
        self.small_stem = small_stem
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act)
        self.pool = nn.Identity() if small_stem else net.maxpool
        self.levels = nn.ModuleList((net.layer1, net.layer2, net.layer3, net.layer4))
        if norm != "batch":  # MONAI's `norm` reaches the stem alone
            _replace_norms(self, norm)

    def stages(self, image: Tensor) -> list[Tensor]:
        """Four maps from 1 to 1/8 of the image's sides; with the large stem its own and four more, 1/2 to 1/32."""
        self.check_image(image)
        features = self.stem(image)
        maps = [] if self.small_stem else [features]
        features = self.pool(features)
        for level in self.levels:
            features = level(features)
            maps.append(features)
        return maps


def _replace_norms(module: nn.Module, norm: str) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make_norm(norm, child.num_features))
        else:
            _replace_norms(child, norm)
