"""The one way to files: asking whether they may be written, writing them whole or not at all, and reading JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from medcontrast.errors import ManifestError, OutputError

_NEARLY_NOTHING = 2**20
"""Bytes; a disk with less room is full."""


def require_free(*paths: Path, overwrite: bool) -> None:
    """Refuses, before there is work to lose, files that cannot or must not be written; changes nothing.

    Args:
        paths: Files; their folders need not be there.
        overwrite: Whether the files may be there already.

    Raises:
        OutputError: One is there already or is a folder, or its folder can be neither written to nor made.
    """
    for path in paths:
        with _told(path):
            there = next((folder for folder in path.parents if folder.exists()), path)
            if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                reason = f"{there} is {'not writable' if there.is_dir() else 'no folder'}"
                raise OutputError(f"{path}: cannot be written ({reason}); name another output.")
            if path.is_dir():
                raise OutputError(f"{path}: is a folder, but a file would be written there; name another output.")
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise OutputError(f"{taken[0]}: exists already{more}; add --overwrite, or name another output.")


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], *, overwrite: bool = True) -> None:
    """Writes through a temporary file in the same folder, flushed and renamed, so that no reader sees half a file.

    Args:
        path: The file; its folder is made where it is not there.
        write: Gets the open binary file.
        overwrite: Whether an existing file may be replaced, which happens in one move.

    Raises:
        OutputError: The file exists already or cannot be written; what was there before is still there.
    """
    require_free(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            _put(temporary, path, overwrite=overwrite)
    finally:
        with contextlib.suppress(OSError):  # its folder may be what could not be made
            temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path, *, overwrite: bool) -> None:
    if not overwrite:
        try:
            os.link(temporary, path)  # a move would replace what has come there meanwhile
            return
        except FileExistsError:
            raise OutputError(f"{path}: exists already; add --overwrite, or name another output.") from None
        except OSError:
            require_free(path, overwrite=False)  # a file system without links
    temporary.replace(path)


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Writes UTF-8 text as `write_atomically` does; bytes of a file name that are no UTF-8 are written as escapes.

    Raises:
        OutputError: The file exists already or cannot be written.
    """
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")), overwrite=overwrite)


def make_folder(folder: Path) -> None:
    """Makes a folder, its parents too, unless it is there.

    Raises:
        OutputError: It cannot be made.
    """
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def staged(folder: Path, *names: str) -> Iterator[Path]:
    """A temporary folder for files that must appear together: where the block fails, none of them does.

    Args:
        folder: Made where it is not there.
        names: Files that the block writes into the temporary folder; at its end they move to `folder`, and whatever
            else is in the temporary folder is lost.

    Raises:
        OutputError: The folder cannot be written to.
    """
    make_folder(folder)
    with _told(folder):
        stage = Path(tempfile.mkdtemp(prefix=".", dir=folder))
    try:
        yield stage
        require_free(*(folder / name for name in names), overwrite=True)  # all of them, or none
        for name in names:
            with _told(folder / name):
                (stage / name).replace(folder / name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from None
    except RuntimeError as error:  # so torch.save reports a full disk, in words of its own
        full = shutil.disk_usage(path.parent).free < _NEARLY_NOTHING
        raise OutputError(f"{path}: cannot be written ({os.strerror(errno.ENOSPC) if full else error}).") from None


def relative_name(path: Path, start: Path) -> str:
    """How a file in the folder `start` names this path, with forward slashes; neither is looked at."""
    return Path(os.path.relpath(path, start)).as_posix()


def read_json(path: Path) -> Any:
    """What a manifest, label table or record holds, as it stands there.

    Raises:
        ManifestError: Not readable, not JSON, or a key that stands twice in one object.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)
    except _DuplicateKeyError as error:
        raise ManifestError(f"{path}: key {error.args[0]!r} stands in it twice; keep one.") from None
    except ValueError as error:
        raise ManifestError(f"{path}: not valid JSON ({error}).") from None
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error}).") from error


def read_object(path: Path, what: str = "manifest") -> dict[str, Any]:
    """`read_json` of a file that holds a JSON object.

    Args:
        path: The file.
        what: It is, for messages.

    Raises:
        ManifestError: As for `read_json`; or there is no such file, or it holds something else.
    """
    try:
        raw = read_json(path)
    except ManifestError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ManifestError(f"{path}: there is no such {what}.") from None
        raise
    if not isinstance(raw, dict):
        raise ManifestError(f"{path}: a {what} is a JSON object, but this file holds {type(raw).__name__}.")
    return raw


class _DuplicateKeyError(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise _DuplicateKeyError(key)
        out[key] = value
    return out
