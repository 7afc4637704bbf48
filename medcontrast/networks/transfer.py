"""Taking a trained encoder or generator out of a checkpoint: all tensors, or a sentence that says which do not fit."""

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
    faults = {prefix: (_faults(own, tensors, prefix), _left_over(own, tensors, prefix)) for prefix in prefixes}
    fitting = [prefix for prefix in prefixes if not any(faults[prefix])]
    if len(fitting) > 1:
        raise CheckpointError(
            f"{where}: holds this encoder {len(fitting)} times ({', '.join(repr(prefix) for prefix in fitting)}); give "
            "the last.safetensors of its run, which holds one network."
        )
    if not fitting:
        nearest = min(faults.values(), key=lambda lines: sum(map(len, lines)))
        raise _another_architecture(*nearest, len(own), "encoder", where)
    encoder.load_state_dict({name: tensors[fitting[0] + name] for name in own})
    return len(own)


def load_generator_tensors(network: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> int:
    """Fills every parameter and buffer of a generator from that of another run.

    Args:
        network: Changed in place, or not at all.
        tensors: Of the checkpoint.
        where: File named in messages.

    Returns:
        How many tensors were loaded: all of the generator's.

    Raises:
        CheckpointError: The generator is of another architecture (the layers that do not fit are named).
    """
    own = network.state_dict()
    faults = _faults(own, tensors, "", "generator")
    left_over = [f"{name}: the generator has none" for name in tensors if name not in own]
    if faults or left_over:
        raise _another_architecture(faults, left_over, len(own), "generator", where)
    network.load_state_dict(dict(tensors))
    return len(own)


def _another_architecture(
    faults: list[str], left_over: list[str], total: int, noun: str, where: str
) -> CheckpointError:
    lines = faults + left_over
    more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    count = f"{len(faults)} of its {total} tensors do not fit"
    if left_over:
        count += f" and {len(left_over)} others have no place in it"
    first = f"{where}: of another architecture than this {noun}; {count}, and "
    return CheckpointError(
        "\n".join([f"{first}nothing was loaded:", *(f"  - {line}" for line in lines[:_SHOWN]), *more])
    )


def _prefixes(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """What stands before names of the encoder in the checkpoint."""
    found = set()
    for name in tensors:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own:
                prefix = "".join(f"{part}." for part in parts[:cut])
                found.add(prefix)
    return sorted(found)


def _faults(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str, noun: str = "encoder") -> list[str]:
    lines = []
    for name, wanted in own.items():
        held = tensors.get(prefix + name)
        if held is None:
            lines.append(f"{name}: missing; the {noun} has {tuple(wanted.shape)}")
        elif held.shape != wanted.shape:
            lines.append(f"{name}: the checkpoint has {tuple(held.shape)}, the {noun} {tuple(wanted.shape)}")
    return lines


def _left_over(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Tensors of the encoder's own parts that it has no place for, as of a deeper one; what stands beside it may."""
    parts = {name.split(".")[0] for name in own}
    behind = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    return [f"{name}: the encoder has none" for name in behind if name.split(".")[0] in parts and name not in own]


def _listed(names: Mapping[str, Tensor]) -> str:
    return ", ".join(list(names)[:3]) or "nothing"
