"""Every error that medcontrast raises on purpose.

MedcontrastError            exit code 1: failed while running
├── NonFiniteError          what is computed became NaN or infinite
│   ├── NonFiniteLossError      a loss
│   └── NonFiniteOutputError    what a network says of a scan
└── InputError              exit code 2: wrong input, nothing was written over
    ├── RecipeError         the recipe, all its faults at once
    ├── ManifestError       the manifest or what it names
    ├── VolumeError         a scan or a label file
    ├── ImageError          an image of a pre-training or a probe
    ├── CheckpointError     a checkpoint or a run folder
    └── OutputError         the place to write to
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MedcontrastError(Exception):
    """Failed while running. The message is the whole answer to the user; no traceback is shown."""

    exit_code = 1


class NonFiniteError(MedcontrastError):
    """What is computed became NaN or infinite, which more of the same does not mend."""


class NonFiniteLossError(NonFiniteError):
    """A loss term became NaN or infinite; names the step and the cases."""


class NonFiniteOutputError(NonFiniteError):
    """A network's output is NaN or infinite somewhere, of which no mask can be made; names the scan."""


class InputError(MedcontrastError):
    """Wrong input: says what is wrong, where, the value, what was expected and what to do."""

    exit_code = 2


class RecipeError(InputError):
    """The recipe does not hold together; carries every fault, one a line."""


class ManifestError(InputError):
    """The manifest, or a file it names, is not usable."""


class VolumeError(InputError):
    """A scan or label file cannot be read or is not what it has to be."""


class ImageError(InputError):
    """An image cannot be read or is not what it has to be."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged or not one of ours."""


class OutputError(InputError):
    """The output cannot be written, or exists already."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of Python or PyTorch says that memory ran out, on whatever device."""
    told = "can't allocate memory" in str(error) or "out of memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error of a name that is not in a list; says the list, and the nearest name where one is near.

    Args:
        kind: What the name is of, such as "network".
        name: As it was given.
        known: The list.
    """
    known = list(known)
    near = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"There is no {kind} {name!r}; the {kind}s are {', '.join(known)}.{hint}")
