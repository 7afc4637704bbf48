"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from medcontrast.errors import OutputError


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes through a temporary file in the same folder, flushed and renamed, so that no reader sees half a file.

    Args:
        path: The file; what was there before is replaced in one move.
        write: Gets the open binary file.

    Raises:
        OutputError: The file cannot be written; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path}: cannot be written ({reason}).") from None
    finally:
        with contextlib.suppress(OSError):  # its folder may be what could not be made
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def require_free(folder: Path, names: Iterable[str], *, overwrite: bool) -> None:
    """Makes a folder for results, and refuses to write over earlier ones unasked.

    Args:
        folder: Made where it is not there.
        names: Files that will be written into it.
        overwrite: Whether they may be there already.

    Raises:
        OutputError: One is there already, or the folder cannot be made.
    """
    taken = [name for name in names if (folder / name).exists()]
    if taken and not overwrite:
        raise OutputError(f"{folder / taken[0]}: exists already; add --overwrite, or choose another folder with -o.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another folder with -o.") from None
