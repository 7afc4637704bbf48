"""Whether compressed voxels of NRRD and MetaImage files are whole: ITK reads damaged ones as noise without a word."""

from __future__ import annotations

import zlib
from pathlib import Path

from medcontrast.volume.text_headers import data_files, is_nrrd, metaimage_header, nrrd_header

_CHUNK = 2**16  # of much the same values it may become a thousand times as large
_ZLIB_OR_GZIP = 47


def damage(path: Path, size: int) -> str | None:
    """What is wrong with the compressed voxels of a NRRD or MetaImage file that ITK could read; None where nothing is.

    Args:
        path: The file with the header.
        size: Bytes that its voxels take in memory.
    """
    return _nrrd_damage(path, size) if is_nrrd(path) else _metaimage_damage(path, size)


def _nrrd_damage(path: Path, size: int) -> str | None:
    fields, length = nrrd_header(path)
    if fields.get("encoding", "").lower() not in ("gzip", "gz"):
        return None
    files = data_files(path)
    each = size // max(1, len(files))
    for file in files or [path]:
        start = _after_lines(file, 0 if files else length, _number(fields.get("line skip")))
        reason, unpacked = _unpacked(file, start, None)
        # what is skipped of the unpacked bytes makes them more
        if reason or unpacked < each:
            return reason or _length(unpacked, each)
    return None


def _metaimage_damage(path: Path, size: int) -> str | None:
    fields, length = metaimage_header(path)
    if fields.get("CompressedData", "")[:1] not in ("T", "t", "1"):
        return None
    packed, start = (_number(fields.get(key)) for key in ("CompressedDataSize", "HeaderSize"))
    files = data_files(path)
    if not (files or packed):
        return "its header has no CompressedDataSize"  # ITK would begin too early
    each = size // max(1, len(files))
    for file in files or [path]:
        reason, unpacked = _unpacked(file, start or (0 if files else length), packed or None)
        if reason or unpacked != each:
            return reason or _length(unpacked, each)
    return None


def _length(unpacked: int, size: int) -> str:
    return f"its compressed voxels hold {unpacked} bytes, not {size}"


def _number(value: str | None) -> int:
    """A number of bytes, or 0 where there is none."""
    try:
        return max(0, int(float(value or 0)))
    except (ValueError, OverflowError):
        return 0


def _after_lines(file: Path, start: int, lines: int) -> int:
    with file.open("rb") as stream:
        stream.seek(start)
        for _ in range(lines):
            stream.readline()
        return stream.tell()


def _unpacked(file: Path, start: int, packed: int | None) -> tuple[str | None, int]:
    """What is wrong with a stream of zlib or gzip, its checksum included, and how many bytes it unpacks to.

    Args:
        file: Where it lies.
        start: Its first byte.
        packed: Its length; None for all that follows, of which gzip may be several streams, one after the other.
    """
    unpacker, unpacked = zlib.decompressobj(_ZLIB_OR_GZIP), 0
    with file.open("rb") as stream:
        stream.seek(start)
        left = file.stat().st_size if packed is None else packed
        try:
            while part := stream.read(min(_CHUNK, left)):
                left -= len(part)
                while part:
                    if unpacker.eof:
                        if packed is not None or not part.startswith(b"\x1f"):
                            return None, unpacked
                        unpacker = zlib.decompressobj(_ZLIB_OR_GZIP)
                    unpacked += len(unpacker.decompress(part))
                    part = unpacker.unused_data
        except zlib.error as error:
            return str(error), unpacked
    return (None if unpacker.eof else "its compressed voxels are cut off"), unpacked
