"""The explicit list of segmentation networks, by name, from plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medcontrast.errors import InputError, unknown_name
from medcontrast.networks.channels_last import use_channels_last
from medcontrast.networks.output import Network


def build_network(
    name: str,
    *,
    in_channels: int,
    classes: int,
    filters: int | Sequence[int],
    norm: str = "instance",
    dropout: float = 0.0,
    decoders: int = 1,
    strides: Sequence[tuple[int, int, int]] | None = None,
    encoder: Mapping[str, Any] | None = None,
    axis: int = 2,
) -> Network:
    """Builds a network with fresh weights.

    Args:
        name: "vnet", "unet", "segresnet", "dynunet", or "unet2d" for slices.
        in_channels: Channels of the image.
        classes: Channels of the logits, background included.
        filters: vnet and segresnet: the first level's width; unet2d: the decoder's at the image's own grid. unet and
            dynunet: widths, one a level.
        norm: "batch", "instance", "group" or "none"; unet2d's decoder has "group".
        dropout: Probability; where it acts is the network's own; 0 for unet2d.
        decoders: 1; for vnet and dynunet also 2 or 3.
        strides: unet and dynunet: down-sampling between each two levels; default 2 everywhere.
        encoder: unet2d: what `build_encoder` takes, its name among it.
        axis: unet2d: 0, 1 or 2, the axis that slices are counted along.

    Raises:
        InputError: An unknown name, or values that the network does not take.
    """
    if name not in BUILDERS:
        raise unknown_name("network", name, BUILDERS)
    if decoders != 1 and name not in _SEVERAL:
        raise InputError(f"decoders is a setting of vnet and dynunet, but {name} got {decoders}. Leave it at 1.")
    if strides is not None and name not in _LEVELED:
        raise InputError(f"strides is a setting of {' and '.join(_LEVELED)}, not of {name}. Leave it out.")
    if (name in _LEVELED) == isinstance(filters, int):
        wanted = "a list of widths, such as [16, 32, 64, 128]" if name in _LEVELED else "one number, such as 16"
        raise InputError(f"{name} takes {wanted} for filters, but got {filters!r}.")
    if (encoder is not None) != (name == "unet2d"):
        raise InputError(f"encoder is a setting of unet2d, which needs it, and of no other; {name} got {encoder!r}.")
    plain: dict[str, Any] = {
        "in_channels": in_channels,
        "classes": classes,
        "filters": filters,
        "norm": norm,
        "dropout": dropout,
    }
    if name in _LEVELED:
        plain["strides"] = strides
    if name in _SEVERAL:
        plain["decoders"] = decoders
    if name == "unet2d":
        plain |= {"encoder": encoder, "axis": axis}
    return use_channels_last(BUILDERS[name](**plain))


# MONAI takes seconds to import, so each builder imports only what it builds.


def _vnet(**plain: Any) -> Network:
    from medcontrast.networks.vnet import VNet

    return VNet(**plain)


def _unet(**plain: Any) -> Network:
    from medcontrast.networks.monai_networks import UNet

    return UNet(**plain)


def _segresnet(**plain: Any) -> Network:
    from medcontrast.networks.monai_networks import SegResNet

    return SegResNet(**plain)


def _dynunet(**plain: Any) -> Network:
    from medcontrast.networks.monai_networks import DynUNet

    return DynUNet(**plain)


def _unet2d(
    *, encoder: Mapping[str, Any], in_channels: int, classes: int, filters: int, norm: str, dropout: float, axis: int
) -> Network:
    from medcontrast.networks.encoders2d import build_encoder
    from medcontrast.networks.slices import SliceUNet

    if norm != "group" or dropout:
        raise InputError(f"unet2d has norm group and no dropout, but got norm {norm} and dropout {dropout:g}.")
    return SliceUNet(build_encoder(in_channels=in_channels, **encoder), classes=classes, width=filters, axis=axis)


BUILDERS: dict[str, Callable[..., Network]] = {
    "vnet": _vnet,
    "unet": _unet,
    "segresnet": _segresnet,
    "dynunet": _dynunet,
    "unet2d": _unet2d,
}
_LEVELED = ("unet", "dynunet")
_SEVERAL = ("vnet", "dynunet")
