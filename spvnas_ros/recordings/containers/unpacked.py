"""Decompresses zstd with a bound: what a header announces is allocated only as far as it comes."""

from __future__ import annotations

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd  # rosbags brings it

MOST_BYTES: Final = 1 << 30
"""Of a chunk or a message; a cloud of ten million points with 64 bytes each is smaller."""

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


class UnzipError(ValueError):
    """More bytes came out than were announced or are allowed, or fewer than there should be."""


def unzip(data: bytes, most: int = MOST_BYTES) -> bytes:
    """Returns what a zstd frame holds.

    Raises UnzipError where that is more than `most` bytes or the frame is cut off, and zstd.ZstdError where it is
    malformed.
    """
    decompressor = zstd.ZstdDecompressor()
    unpacked = decompressor.decompress(data, max_length=most + 1)
    if len(unpacked) > most:
        raise UnzipError(f"zstd data holds more than {most} bytes")
    if not decompressor.eof:
        raise UnzipError("zstd data is cut off")
    return unpacked


def plain(raw: bytes) -> bytes:
    """Returns a CDR message as it is, or what a zstd frame in its place holds: CDR begins with 0 0 or 0 1.

    A file out of a bag that was compressed by message holds such frames, and nothing in the file says so. Raises as
    `unzip` does.
    """
    return unzip(raw) if raw.startswith(_ZSTD_MAGIC) else raw
