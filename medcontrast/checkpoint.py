"""Checkpoints: network weights with their recipe and labels (.safetensors), and everything for a resume (.pt).

Only tensors and plain values are read back; no file can run code. Files are written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from medcontrast.errors import CheckpointError, InputError, lacks_memory
from medcontrast.files import write_atomically
from medcontrast.say import quoted
from medcontrast.settings import AnyRecipe, recipe_from_tree

FORMAT = "medcontrast"
VERSION = 1
LAST, BEST, RESUME = "last.safetensors", "best.safetensors", "last.pt"
HEADER_KEYS = ("recipe", "labels", "channels", "network", "step")
"""What every header says: the recipe's tree, LabelTable.to_json(), channel names, teacher or student, steps done."""


def save_weights(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Writes one network for inference.

    Args:
        path: The .safetensors file; replaced in one move if it exists.
        tensors: The network's `state_dict()`, names unchanged.
        header: Plain values, HEADER_KEYS among them.

    Raises:
        OutputError: The file cannot be written.
    """
    missing = [key for key in HEADER_KEYS if key not in header]
    if missing:
        raise ValueError(f"the header lacks {', '.join(missing)}")
    # safetensors refuses tensors that share memory, as tied weights do
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    words = {key: json.dumps(value, allow_nan=False) for key, value in header.items()}
    data = safetensors.torch.save(plain, {**words, "format": FORMAT, "version": str(VERSION)})
    write_atomically(path, lambda file: file.write(_in_order(data)))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the inference network out of a .safetensors file or a resume checkpoint; 16-bit weights become float32.

    Returns:
        The network's `state_dict()` on the CPU, and the header.

    Raises:
        CheckpointError: Missing, damaged, or not one of ours.
    """
    if _is_zip(path):
        tensors, header = _inference_part(load_resume(path), path)
    else:
        tensors, header = _read_safetensors(path)
    half = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in half else tensor for name, tensor in tensors.items()}, header


def read_header(path: Path) -> dict[str, Any]:
    """The header alone; the tensors of a .safetensors file stay unread.

    Raises:
        CheckpointError: Missing, damaged, or not one of ours.
    """
    if _is_zip(path):
        return _inference_part(load_resume(path), path)[1]
    return _header(_open_safetensors(path).metadata(), path)


def header_recipe(header: dict[str, Any], path: Path) -> AnyRecipe:
    """The recipe that a checkpoint's header holds.

    Raises:
        CheckpointError: It is of another version.
    """
    try:
        return recipe_from_tree(header["recipe"], where=str(path))
    except InputError as error:
        raise unusable_header(path, error) from None


def unfinished(path: Path, header: dict[str, Any]) -> str | None:
    """A sentence where a run's last checkpoint is not of its last step, as one that was stopped or still trains."""
    step, total = header["step"], header["recipe"]["train"]["steps"]
    if path.name not in (LAST, RESUME) or step >= total:  # the best one is of whatever step it is
        return None
    return (
        f"{path} is of step {step} of {total}, of a run that is not finished; `medcontrast train --resume "
        f"{quoted(path.parent)}` goes on with it."
    )


def unusable_header(path: Path, error: Exception) -> CheckpointError:
    """What a header gets that this version cannot read."""
    return CheckpointError(f"{path}: this version of medcontrast cannot use its header: {error}")


def save_resume(path: Path, state: dict[str, Any]) -> None:
    """Writes everything a resume needs.

    Args:
        path: The .pt file; replaced in one move if it exists.
        state: Tensors and plain values. For `infer` to read it too: `method` (the Method's state_dict), `header`
            (as for save_weights) and `inference_prefix` (what stands before the inference network's names
            in `method`, such as "teacher.").

    Raises:
        OutputError: The file cannot be written.
    """
    write_atomically(path, lambda file: torch.save({**state, "format": FORMAT, "version": VERSION}, file))


def load_resume(path: Path) -> dict[str, Any]:
    """Reads a resume checkpoint onto the CPU, without unpickling anything but tensors and plain values.

    Raises:
        CheckpointError: Missing, damaged, or not one of ours.
    """
    if not _is_zip(path):
        raise _foreign(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on foreign pickles; the answer below says more
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, so it was not written by medcontrast and may run "
            f"code when opened; it was not opened. Give a run folder, a .safetensors file or a {RESUME}."
        ) from None
    except Exception as error:  # broken bytes fail in every way there is
        if lacks_memory(error):
            raise
        raise CheckpointError(f"{path}: damaged or cut off; copy it again, or take an earlier checkpoint.") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise _foreign(path)
    _check_version(state.get("version"), path)
    return state


def resolve_checkpoint(path: Path) -> Path:
    """Finds the file meant by a run folder, a folder with one model, or a file.

    Raises:
        CheckpointError: There is none, or more than one could be meant.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint or run folder.")
    if not path.is_dir():
        return path
    for name in (LAST, RESUME):
        if (path / name).is_file():
            return path / name
    models = sorted(file.name for file in path.glob("*.safetensors"))
    if len(models) == 1:
        return path / models[0]
    if models:
        raise CheckpointError(f"{path}: holds {len(models)} models ({', '.join(models)}); name one of them.")
    if (path / "resolved.yaml").exists() or (path / "run.json").exists():
        raise CheckpointError(
            f"{path}: this run has no checkpoint yet: training has not begun, or was stopped before its first save "
            "(train.save_every). Start it again with the same command."
        )
    raise CheckpointError(f"{path}: no checkpoint in this folder; expected {LAST}, as a run folder has it.")


def load_hashed_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """As `load_weights`, with the file's `checkpoint_hash`, which is that of the very weights that were read.

    Raises:
        CheckpointError: As for `load_weights`.
    """
    while True:
        found = path.stat().st_ino if path.exists() else None
        (tensors, header), digest = load_weights(path), checkpoint_hash(path)
        if found == path.stat().st_ino:  # else a run that still trains has put another file there
            return tensors, header, digest


def checkpoint_hash(path: Path) -> str:
    """SHA-256 of the file in hex; its first 16 digits serve as a short name."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None


def _in_order(data: bytes) -> bytes:
    """The same file with its metadata sorted, which the library writes in another order each time.

    So the same weights are the same bytes, whose digest a card and a record can name.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight, as the format has it
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _open_safetensors(path: Path) -> Any:
    try:
        return safetensors.safe_open(path, framework="pt", device="cpu")
    except safetensors.SafetensorError:
        if path.suffix == ".safetensors":
            raise CheckpointError(f"{path}: damaged or cut off; copy it again, or take another checkpoint.") from None
        raise _foreign(path) from None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    file = _open_safetensors(path)
    header = _header(file.metadata(), path)
    return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 - not a dict


def _header(words: dict[str, str] | None, path: Path) -> dict[str, Any]:
    if not words or words.get("format") != FORMAT:
        raise _foreign(path)
    try:
        header = {key: json.loads(word) for key, word in words.items() if key != "format"}
    except ValueError:
        raise CheckpointError(f"{path}: its header is not readable; copy it again.") from None
    _check_version(header.pop("version", None), path)
    return _complete(header, path)


def _inference_part(state: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    prefix, method, header = state.get("inference_prefix"), state.get("method"), state.get("header")
    if not isinstance(prefix, str) or not isinstance(method, dict) or not isinstance(header, dict):
        raise CheckpointError(f"{path}: serves only to resume training; give {LAST} of the same run.")
    tensors = {name.removeprefix(prefix): tensor for name, tensor in method.items() if name.startswith(prefix)}
    return tensors, _complete(header, path)


def _complete(header: dict[str, Any], path: Path) -> dict[str, Any]:
    missing = [key for key in HEADER_KEYS if key not in header]
    if missing:
        raise CheckpointError(f"{path}: its header lacks {', '.join(missing)}, which `medcontrast train` writes.")
    return header


def _check_version(version: object, path: Path) -> None:
    if version != VERSION:
        raise CheckpointError(
            f"{path}: has checkpoint version {version}, but this medcontrast reads version {VERSION}; update it."
        )


def _foreign(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a checkpoint of medcontrast. Give a run folder, its {LAST} or {BEST}, or its {RESUME}."
    )
