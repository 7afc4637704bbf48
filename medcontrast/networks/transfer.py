"""Taking a pre-trained encoder out of a checkpoint: all of its tensors, or a sentence that says which do not fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medcontrast.errors import CheckpointError
from medcontrast.networks.encoders2d import Encoder

_SHOWN = 6


def encoder_of(network: nn.Module) -> tuple[str, Encoder | None]:
    """The encoder of images that a network is built around, and its name in it; "" and None where there is none."""
    for name, module in network.named_modules():
        if isinstance(module, Encoder):
            return name, module
    return "", None


def load_encoder(encoder: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> int:
    """Fills every parameter and buffer of `encoder` from a checkpoint, whatever stands before their names there.

    Args:
        encoder: Changed in place, or not at all.
        tensors: Of the checkpoint; the encoder may be a part of what it holds, such as `encoder.stem.0.weight`.
        where: File named in messages.

    Returns:
        How many tensors were loaded: all of the encoder's.

    Raises:
        CheckpointError: The encoder is not in it, is there more than once, or is of another architecture (the layers
            that do not fit are named).
    """
    own = encoder.state_dict()
    prefixes = _prefixes(own, tensors)
    if not prefixes:
        raise CheckpointError(
            f"{where}: none of the encoder's {len(own)} tensors stands in it (the first are {_listed(own)}; "
            f"it holds {_listed(tensors)}). Give the checkpoint of a pre-training run with this encoder."
        )
    faults = {prefix: _faults(own, tensors, prefix) for prefix in prefixes}
    fitting = [prefix for prefix in prefixes if not faults[prefix]]
    if len(fitting) > 1:
        raise CheckpointError(
            f"{where}: holds this encoder {len(fitting)} times ({', '.join(repr(prefix) for prefix in fitting)}); give "
            "the last.safetensors of its run, which holds one network."
        )
    if not fitting:
        nearest = min(prefixes, key=lambda prefix: len(faults[prefix]))
        lines = faults[nearest]
        more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise CheckpointError(
            "\n".join(
                [
                    f"{where}: of another architecture than this encoder; {len(lines)} of its {len(own)} tensors "
                    "do not fit, and nothing was loaded:",
                    *(f"  - {line}" for line in lines[:_SHOWN]),
                    *more,
                ]
            )
        )
    encoder.load_state_dict({name: tensors[fitting[0] + name] for name in own})
    return len(own)


def _prefixes(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """What stands before names of the encoder in the checkpoint, where at least a half of them stand behind it."""
    found: dict[str, int] = {}
    for name in tensors:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own:
                prefix = "".join(f"{part}." for part in parts[:cut])
                found[prefix] = found.get(prefix, 0) + 1
    return sorted(prefix for prefix, count in found.items() if 2 * count >= len(own))


def _faults(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    lines = []
    for name, wanted in own.items():
        held = tensors.get(prefix + name)
        if held is None:
            lines.append(f"{name}: missing; the encoder has {tuple(wanted.shape)}")
        elif held.shape != wanted.shape:
            lines.append(f"{name}: the checkpoint has {tuple(held.shape)}, the encoder {tuple(wanted.shape)}")
    return lines


def _listed(names: Mapping[str, Tensor]) -> str:
    return ", ".join(list(names)[:3]) or "nothing"
