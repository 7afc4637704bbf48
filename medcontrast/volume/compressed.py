"""Whether the compressed voxels of a MetaImage file are whole: ITK reads damaged ones as noise without a word."""

from __future__ import annotations

import zlib
from pathlib import Path

from medcontrast.volume.text_headers import data_files, metaimage_header

_CHUNK = 2**16  # of much the same values it may become a thousand times as large
_ZLIB_OR_GZIP = 47


def damage(path: Path, size: int) -> str | None:
    """What is wrong with the compressed voxels of a MetaImage file that ITK could read; None where they are whole.

    Args:
        path: The file with the header.
        size: Bytes that its voxels take in memory.
    """
    fields, length = metaimage_header(path)
    if fields.get("CompressedData", "")[:1] not in ("T", "t", "1"):
        return None
    packed, start = (_number(fields.get(key)) for key in ("CompressedDataSize", "HeaderSize"))
    files = data_files(path)
    if not (files or packed):
        return "its header has no CompressedDataSize"  # ITK would begin too early
    for file in files or [path]:
        reason = _damage(file, start or (0 if files else length), packed, size // max(1, len(files)))
        if reason:
            return reason
    return None


def _number(value: str | None) -> int:
    """A number of bytes, or 0 where there is none."""
    try:
        return max(0, int(float(value or 0)))
    except (ValueError, OverflowError):
        return 0


def _damage(file: Path, start: int, packed: int, size: int) -> str | None:
    unpacker, unpacked = zlib.decompressobj(_ZLIB_OR_GZIP), 0
    with file.open("rb") as stream:
        stream.seek(start)
        left = packed or file.stat().st_size
        try:
            while not unpacker.eof and (part := stream.read(min(_CHUNK, left))):
                left -= len(part)
                unpacked += len(unpacker.decompress(part))
        except zlib.error as error:
            return str(error)
    if not unpacker.eof:
        return "its compressed voxels are cut off"
    return None if unpacked == size else f"its compressed voxels hold {unpacked} bytes, not {size}"
