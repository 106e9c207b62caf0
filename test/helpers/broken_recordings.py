"""Damages recordings as disks, copies and crashes do, and checks that nothing but a sentence comes of it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from spvnas_ros.errors import UserError
from spvnas_ros.recordings.scans import open_source

MOST_MEMORY = 64 << 20
"""Bytes that Python may hold while it reads a recording of some kilobytes; a length that lies takes more."""


def damaged(whole: bytes, seed: int, spared: int = 0) -> bytes:
    """The bytes with a seeded fault: cut off, bytes changed, lengths made huge, pieces left out, repeated or zeroed.

    spared: bytes at the beginning that stay, so that it is still known what the file is
    """
    random = np.random.default_rng(seed)
    data = bytearray(whole)

    def place() -> int:
        return int(random.integers(spared, max(len(data), spared + 1)))

    kind = seed % 6
    if kind == 0:
        del data[place() :]
    elif kind == 1:
        for _ in range(int(random.integers(1, 5))):
            at = place()
            if at < len(data):
                data[at] = int(random.integers(256))
    elif kind == 2:
        at, size = place(), int(random.choice([2, 4, 8]))
        data[at : at + size] = (int(random.integers(1 << 15, 1 << 16)) << (8 * size - 16)).to_bytes(size, "little")
    elif kind == 3:
        at = place()
        del data[at : at + int(random.integers(1, 200))]
    elif kind == 4:
        at = place()
        data[at:at] = data[at : at + int(random.integers(1, 200))]
    else:
        at = place()
        size = min(int(random.integers(1, 200)), len(data) - at)
        data[at : at + size] = bytes(size)
    return bytes(data)


def outcome(path: Path, topic: str | None = None) -> str:
    """Reads all that can be read: "read", "remarked" (a line says what is missing), "skipped" (clouds are damaged),
    "ended" (the rest is damaged), or "refused". Anything but a sentence for the user is an error.
    """
    tracemalloc.start()
    try:
        return _outcome(path, topic)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_MEMORY, f"{peak} bytes were held"


def _outcome(path: Path, topic: str | None) -> str:
    found = "read"
    try:
        with open_source(path, intensity="none", topic=topic) as source:
            found = "remarked" if source.remarks else found
            for remark in source.remarks:
                _is_a_sentence(remark)
            frames = iter(source)
            while True:
                try:
                    frame = next(frames, None)
                except UserError as error:
                    _is_a_sentence(str(error))
                    return "ended"
                if frame is None:
                    return found
                try:
                    frame.load()
                except UserError as error:
                    _is_a_sentence(str(error))
                    found = "skipped"
    except UserError as error:
        _is_a_sentence(str(error))
        return "refused"


def _is_a_sentence(text: str) -> None:
    assert text
    assert "\n" not in text.strip()
    assert len(text) < 1200
    assert "Traceback" not in text
