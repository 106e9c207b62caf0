"""Tells the kinds of recordings apart by the first bytes of a file, or else its suffix."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

METADATA: Final = "metadata.yaml"
MAGICS: Final[Mapping[str, bytes]] = {
    "db3": rb"SQLite format 3\0",
    "mcap": rb"\x89MCAP0\r\n",
    "ros1": rb"#ROSBAG V",
    "pcap": rb"\xd4\xc3\xb2\xa1|\xa1\xb2\xc3\xd4|\x4d\x3c\xb2\xa1|\xa1\xb2\x3c\x4d|\x0a\x0d\x0d\x0a",
    "osf": rb"(?s)....(....)?OSF",
}
"""Patterns of the first bytes of each kind."""

KINDS_BY_SUFFIX: Final[Mapping[str, str]] = {
    ".mcap": "mcap",
    ".db3": "db3",
    ".bag": "ros1",
    ".pcap": "pcap",
    ".pcapng": "pcap",
    ".osf": "osf",
}
BAG_SUFFIXES: Final = (".mcap", ".db3", ".bag")
"""Of files that a folder may hold as parts of one recording."""
PACKET_SUFFIXES: Final = (".pcap", ".pcapng", ".osf")


def recording_kind(path: Path) -> str | None:
    """Returns the kind of a recording, a name of `MAGICS`; None where a file is none. Raises OSError."""
    with path.open("rb") as file:
        first = file.read(16)
    found = next((kind for kind, magic in MAGICS.items() if re.match(magic, first)), None)
    return found or KINDS_BY_SUFFIX.get(path.suffix.lower())


def is_recording_folder(folder: Path) -> bool:
    """Whether a folder is a recording: it has a metadata.yaml, an .mcap or a .db3, or nothing but .bag files.

    A ROS 1 bag may lie beside the scans that were made of it. Raises OSError.
    """
    files = [file for file in folder.iterdir() if file.name[0] != "."]
    if any(file.name == METADATA or file.suffix in (".mcap", ".db3") for file in files):
        return True
    return bool(files) and all(file.suffix == ".bag" for file in files)
