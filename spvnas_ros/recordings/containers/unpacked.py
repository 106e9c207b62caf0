"""Decompresses zstd with a bound: what a header announces is allocated only as far as it comes."""

from __future__ import annotations

from typing import Final

import zstandard

MOST_BYTES: Final = 1 << 30
"""Of a chunk or a message; a cloud of ten million points with 64 bytes each is smaller."""

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


_PIECE: Final = 1 << 16
"""Bytes of compressed data at a time, so that far too much is seen before it is all there."""


class TooMuchError(ValueError):
    """More bytes came out than were announced or are allowed."""


def unzip(data: bytes, most: int = MOST_BYTES) -> bytes:
    """Returns what a zstd frame holds.

    Raises TooMuchError where that is more than `most` bytes, and zstandard.ZstdError where the frame is malformed or
    cut off.
    """
    parts, size = list[bytes](), 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=MOST_BYTES).decompressobj()
    for start in range(0, len(data), _PIECE):
        parts.append(decompressor.decompress(data[start : start + _PIECE]))
        size += len(parts[-1])
        if size > most:
            raise TooMuchError(f"zstd data holds more than {most} bytes")
        if decompressor.eof:
            return b"".join(parts)
    raise zstandard.ZstdError("zstd data is cut off")


def plain(raw: bytes) -> bytes:
    """Returns a CDR message as it is, or what a zstd frame in its place holds: CDR begins with 0 0 or 0 1.

    A file out of a bag that was compressed by message holds such frames, and nothing in the file says so. Raises as
    `unzip` does.
    """
    return unzip(raw) if raw.startswith(_ZSTD_MAGIC) else raw
