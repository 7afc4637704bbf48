"""Files of a run folder, who may write them, and what becomes of an earlier run's where --overwrite begins another.

The earlier run is set aside and goes only when the new one has its first checkpoint; what fails before puts it back.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from medcontrast.errors import InputError, OutputError

RECIPE, MANIFEST, FACTS, LOG, LOCK = "resolved.yaml", "manifest.json", "run.json", "log.jsonl", ".lock"
CURVES = "tensorboard"
_ASIDE = ".replaced"
_LEFT_BEHIND = re.compile(r"\.lock|\..*\.tmp")
"""Names of what a killed process may leave in a folder that it has only begun."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps every other process from training or replacing the run in this folder for a while.

    Where this thread holds it already, it goes on holding it.

    Raises:
        InputError: Another process has it.
        OutputError: The folder cannot be written.
    """
    lock = FileLock(folder.resolve() / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{folder}: another process trains this run; wait for its end, or stop it.") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another folder with -o.") from None
    try:
        yield
    finally:
        lock.release()


def never_trained(folder: Path) -> bool:
    """Whether it holds no more than a run that failed before its first save, which may simply be started again."""
    if not folder.is_dir():
        return False
    written = {path.name for path in folder.iterdir() if not _LEFT_BEHIND.fullmatch(path.name)}
    return not written or (RECIPE in written and not written - {RECIPE, MANIFEST, FACTS, CURVES})


def require_run_folder(folder: Path) -> None:
    """Refuses to empty what is no run: --overwrite on the wrong folder must not take somebody's data away.

    Raises:
        OutputError: Not a run folder.
    """
    if not any((place / RECIPE).is_file() for place in (folder, folder / _ASIDE)) and not never_trained(folder):
        raise OutputError(
            f"{folder}: --overwrite replaces run folders alone, and this is not one; choose another with -o."
        )


def set_aside(folder: Path) -> None:
    """Makes way for another run: what one wrote here is set aside, with the scores and probes of its checkpoints.

    Raises:
        InputError: Another process trains this run.
        OutputError: Not a run folder, or it cannot be written.
    """
    require_run_folder(folder)
    with held(folder):
        put_back(folder)  # where a kill came before the first save of the run that was to replace it
        if never_trained(folder):
            for path in _of_a_run(folder):
                _remove(path)
            return
        forget_replaced(folder)
        (folder / _ASIDE).mkdir()
        for path in _of_a_run(folder):
            path.rename(folder / _ASIDE / path.name)


def put_back(folder: Path) -> None:
    """Undoes `set_aside`, unless the new run has a checkpoint already."""
    if (folder / _ASIDE).is_dir() and not _begun(folder):
        for path in reversed(_of_a_run(folder / _ASIDE)):
            _remove(folder / path.name)
            path.rename(folder / path.name)
        forget_replaced(folder)


def where_the_earlier_lies(folder: Path) -> str:
    """A sentence for messages, after a kill between --overwrite and the first checkpoint; else nothing."""
    if not (folder / _ASIDE).is_dir() or _begun(folder):
        return ""
    return f" The run that an interrupted --overwrite was to replace lies whole in {folder / _ASIDE}."


def forget_replaced(folder: Path) -> None:
    """Removes what was set aside."""
    shutil.rmtree(folder / _ASIDE, ignore_errors=True)


def _begun(folder: Path) -> bool:
    from medcontrast.checkpoint import RESUME  # with torch, which making a run folder does without

    return (folder / RESUME).exists()


def _of_a_run(folder: Path) -> list[Path]:
    """What a run wrote. last.pt leaves first and comes back last, so that it tells how far a kill let either go."""
    from medcontrast.checkpoint import BEST, LAST, RESUME

    names = (RESUME, LAST, BEST, LOG, FACTS, MANIFEST, RECIPE, CURVES, "overlays")
    # scores and probes of the old checkpoints too: they would read as the new ones'
    files = ("evaluation_*/evaluation.json", "evaluation_*/report.json", "probe_*/probe.json")
    scores = dict.fromkeys(file.parent for pattern in files for file in folder.glob(pattern))
    return [path for path in (*(folder / name for name in names), *scores) if path.exists()]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
