"""Which network, by name, and its size."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from medcontrast.settings.base import Settings

_VIT = ("patch", "depth", "heads", "image_size", "pooling")
SPLITS = 8
"""Parts of a process's batch that have statistics of their own with norm: split_batch."""
Width = Annotated[int, Field(ge=1, le=1024)]


class EncoderSettings(Settings):
    """One encoder of the explicit list in networks/encoders2d.py: what pre-training trains."""

    name: Literal["resnet20", "resnet18", "resnet34", "resnet50", "vit"]
    """resnet20 is the small one of 32-pixel images (0.27 M parameters); resnet18 to 50 are MONAI's; vit is a
    transformer."""
    width: Width | None = None
    """Channels of the first stage; null is the encoder's own (16 of resnet20, 64 of resnet18 to 50, 192 of vit)."""
    norm: Literal["batch", "group", "split_batch"] = "batch"
    """split_batch takes statistics of an eighth of each process's batch, as several devices would: of 256 rows 32 share
    them in one process, 4 in eight; see docs/pretraining.md."""
    small_stem: bool = False
    """resnet18, resnet34, resnet50 on images of 64 pixels and less: a 3x3 stem that keeps the grid; resnet20's always
    does."""
    patch: Literal[4, 8, 16] | None = None
    """vit alone, as all that follow: side of a patch in pixels; null is 4."""
    depth: int | None = Field(default=None, ge=1, le=48)
    """Blocks; null is 6."""
    heads: int | None = Field(default=None, ge=1, le=64)
    """Attention heads, a divisor of the width; null is 3."""
    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side of the images that position embeddings are learned for; others are interpolated. null is 32."""
    pooling: Literal["cls", "mean"] | None = None
    """What the features are: the [CLS] token or the mean of the others; null is cls."""

    @model_validator(mode="after")
    def _fits_the_name(self) -> EncoderSettings:
        if self.small_stem and self.name == "resnet20":
            raise ValueError("small_stem is a setting of resnet18, resnet34 and resnet50; resnet20 has one anyhow")
        if self.name != "vit":
            if any(getattr(self, key) is not None for key in _VIT):
                raise ValueError(f"patch, depth, heads, image_size and pooling are settings of vit, not of {self.name}")
            return self
        if self.norm != "batch" or self.small_stem:
            raise ValueError("vit has layer norm; leave norm out, and small_stem too")
        patch, size, width, heads = self.patch or 4, self.image_size or 32, self.width or 192, self.heads or 3
        if size % patch:
            raise ValueError(f"patch {patch} does not divide image_size {size}")
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the image to one of the deepest stage."""
        if self.name == "vit":
            return self.patch or 4
        if self.name == "resnet20":
            return 4
        return 8 if self.small_stem else 32

    def plain(self) -> dict[str, Any]:
        """The values that build_encoder takes: those set for this encoder, without the ones it does not have."""
        values = self.model_dump(exclude_none=True)
        if self.name in ("resnet20", "vit"):
            del values["small_stem"]
        if self.name == "vit":
            del values["norm"]
        return values


class NetworkSettings(Settings):
    """One network of the explicit list in networks/build.py."""

    name: Literal["vnet", "unet", "segresnet", "dynunet", "unet2d"]
    """vnet is the left-atrium benchmark's V-Net; unet2d sees slices, through `encoder`; the others are MONAI's."""
    filters: tuple[Width, ...] | Width = (16, 32, 64, 128)
    """Widths, one a level; one number for vnet and segresnet (their first level) and unet2d (its decoder's last)."""
    norm: Literal["instance", "batch", "group", "none"] = "instance"
    """With batch, statistics of labeled and unlabeled rows mix; see docs/methods.md. unet2d: group, of its decoder."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    decoders: Literal[1, 2, 3] = 1
    """vnet and dynunet: 2 adds a trilinear decoder to the one that predicts, 3 a nearest-neighbour one too."""
    strides: tuple[tuple[int, int, int], ...] | None = None
    """dynunet and unet: down-sampling from each level to the next; default 2 everywhere."""
    encoder: EncoderSettings | None = None
    """unet2d alone: the encoder that `train.init_from` may fill from a pre-training run."""
    axis: Literal[0, 1, 2] = 2
    """unet2d alone: canonical axis that slices are counted along."""

    @model_validator(mode="after")
    def _fits_the_name(self) -> NetworkSettings:
        levels = isinstance(self.filters, tuple)
        if self.name in ("vnet", "segresnet", "unet2d") and levels:
            raise ValueError(f"{self.name} takes one number for filters, the first level's width, such as 16")
        self._fits_slices()
        least = {"unet": 2, "dynunet": 3}.get(self.name)
        if least is not None and (not isinstance(self.filters, tuple) or len(self.filters) < least):
            raise ValueError(
                f"{self.name} takes a list of at least {least} widths for filters, such as [16, 32, 64, 128]"
            )
        if self.decoders != 1 and self.name not in ("vnet", "dynunet"):
            raise ValueError(f"decoders: {self.decoders} is a form of vnet and dynunet, not of {self.name}")
        if self.strides is not None:
            if self.name not in ("unet", "dynunet"):
                raise ValueError(f"strides are a setting of unet and dynunet, not of {self.name}")
            wanted = len(self.filters) - 1 if isinstance(self.filters, tuple) else 0
            if len(self.strides) != wanted or not all(step in (1, 2) for triple in self.strides for step in triple):
                raise ValueError(f"strides needs {wanted} triples of 1 and 2, one between each two levels")
        return self

    def _fits_slices(self) -> None:
        if self.name != "unet2d":
            if self.encoder is not None or self.axis != 2:
                raise ValueError(f"encoder and axis are settings of unet2d, not of {self.name}")
            return
        if self.encoder is None:
            raise ValueError("unet2d needs an encoder, such as {name: resnet20}")
        if self.norm != "group" or self.dropout:
            raise ValueError(
                "unet2d takes norm: group, that of its decoder, and no dropout; the encoder has its own, "
                "network.encoder.norm"
            )

    def plain(self) -> dict[str, Any]:
        """The values that build_network takes beside name, channels and classes."""
        values = self.model_dump(exclude={"name"})
        return values | {"encoder": None if self.encoder is None else self.encoder.plain()}

    @property
    def deepest_stride(self) -> tuple[int, int, int]:
        """Voxels of a patch to one of the deepest level, an axis each."""
        if self.encoder is None:
            return self.patch_divisor
        sides = [1 if axis == self.axis else self.encoder.stride for axis in range(3)]
        return (sides[0], sides[1], sides[2])

    @property
    def patch_divisor(self) -> tuple[int, int, int]:
        """Each side of a patch must be a multiple of this."""
        if self.name == "unet2d":
            return (1, 1, 1)
        if self.name == "vnet":
            return (16, 16, 16)
        if self.name == "segresnet":
            return (8, 8, 8)
        levels = len(self.filters) if isinstance(self.filters, tuple) else 1
        strides = self.strides or ((2, 2, 2),) * (levels - 1)
        sides = [math.prod(triple[axis] for triple in strides) for axis in range(3)]
        return (sides[0], sides[1], sides[2])
