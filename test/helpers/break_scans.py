"""Breaks scans in seeded ways and reads them: `python break_scans.py COUNT FOLDER FILE...` prints how many were refused
and how many were read, and ends with what went wrong at the first that was neither.
"""

from __future__ import annotations

import random
import resource
import sys
from pathlib import Path

from spvnas_ros.recordings.scans import ScanError, read_record
from spvnas_ros.recordings.scans.read import parts_of

_MOST_MEMORY = 256 << 10
"""KiB that reading a small broken file may take."""
_PAGE, _CHECKED = 1024, 1020
"""Bytes of E57's pages, and those before their check sum."""
_NUMBERS = (0, 1, 1 << 16, 1_000_000, (1 << 31) - 1, (1 << 32) - 1, 1 << 62)


def broken(random: random.Random, data: bytes) -> bytes:
    """Returns a file with one to six changes, more of them in its first or last bytes, and cut short at times."""
    out = bytearray(data)
    width = random.choice((len(out), min(len(out), 400), min(len(out), 64)))
    start = random.choice((0, 0, len(out) - width))
    if b"<?xml" in data and random.random() < 0.5:
        start = data.index(b"<?xml")
        width = len(out) - start
    for _ in range(random.randint(1, 6)):
        at = min(start + random.randrange(width), len(out) - 1)
        match random.randrange(5):
            case 0:
                out[at] ^= 1 << random.randrange(8)
            case 1:
                out[at] = random.choice((0, 255, 127, 128, *b"0123456789-e."))
            case 2 if b"<?xml" not in data:
                del out[at : at + random.randint(1, 8)]
            case 3 if b"<?xml" not in data:
                out[at:at] = random.randbytes(random.randint(1, 8))
            case _:
                size = random.choice((2, 4, 8))
                number = random.choice((*_NUMBERS, random.getrandbits(63)))
                out[at : at + size] = number.to_bytes(8, "little")[:size][: len(out) - at]
    if random.random() < 0.1:
        del out[random.randrange(len(out)) :]
    return checked(out) if data.startswith(b"ASTM-E57") and random.random() < 0.7 else bytes(out)


def checked(data: bytearray) -> bytes:
    """Gives the pages of E57 check sums (CRC-32C) that are right, so that what is broken within is looked at."""
    pages = (bytes(data[at : at + _CHECKED]) for at in range(0, len(data) // _PAGE * _PAGE, _PAGE))
    return b"".join(page + _crc(page).to_bytes(4, "big") for page in pages)


def _crc(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def check_sentence(said: str, path: str) -> None:
    """Checks that an error names its file and is one sentence."""
    assert path in said, said
    assert "\n" not in said, said
    assert len(said) < len(path) + 600, said


def main(count: int, folder: Path, files: list[Path]) -> None:
    refused = 0
    for file in files:
        read_record(file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        file = files[number % len(files)]
        path = folder / f"broken{''.join(file.suffixes)}"
        path.write_bytes(broken(random.Random(f"{file.name} {number}"), file.read_bytes()))
        (folder / "at").write_text(f"{file.name}, broken with seed {file.name!r} {number}")
        try:
            for part in range(min(3, parts_of(path))):
                read_record(path, part=part)
        except ScanError as error:
            refused += 1
            check_sentence(str(error), str(path))
        took = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert took < _MOST_MEMORY, f"{took} KiB"
    print(refused, count - refused)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
