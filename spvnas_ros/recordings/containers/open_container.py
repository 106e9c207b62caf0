"""Opens a recording, whatever it is stored in: a file, or a folder of files that are merged by time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from spvnas_ros.recordings.containers.container import BagError, Channel, Container, Recorded, named
from spvnas_ros.recordings.containers.kind_of_file import BAG_SUFFIXES, METADATA, PACKET_SUFFIXES, recording_kind
from spvnas_ros.recordings.containers.mcap_file import McapFile
from spvnas_ros.recordings.containers.ros1_bag import Ros1Bag
from spvnas_ros.recordings.containers.ros2_bag import Ros2Bag
from spvnas_ros.recordings.packets.captures import open_capture, open_osf

Opener = Callable[[Path], Container]
_OPENERS: Final[Mapping[str, Opener]] = {
    "mcap": McapFile,
    "db3": Ros2Bag,
    "ros1": Ros1Bag,
    "pcap": open_capture,
    "osf": open_osf,
}
"""By the kinds of `kind_of`."""


def open_container(path: Path) -> Container:
    """Opens a rosbag2 folder (with or without metadata.yaml), a folder of bag files, or a recording in one file.

    Files of a folder without metadata.yaml, or with one that does not fit them, are merged by time of recording. Raises
    BagError.
    """
    with named(f"{path} cannot be read as a bag"):
        if not path.is_dir():
            return _file(path)
        files = bag_files(path)
        if not (path / METADATA).is_file():
            return _merged(path, files)
        try:
            return Ros2Bag(path)
        except Exception as error:
            # Of a recorder that lost its power, metadata.yaml is the old one, or the last file has no end.
            with suppress(Exception):
                if _tells_files(path) and files:
                    return _merged(path, files)
            raise BagError(f"{path} cannot be read as a rosbag2: {str(error) or type(error).__name__}") from error


def bag_files(folder: Path) -> list[Path]:
    """Returns the bag files of a folder, by name."""
    return sorted(file for file in folder.iterdir() if file.suffix in BAG_SUFFIXES and file.name[0] != ".")


def _tells_files(folder: Path) -> bool:
    """Whether all files that metadata.yaml names are there."""
    text = (folder / METADATA).read_text("utf-8", "replace")
    names = [line.strip().removeprefix("-").strip().strip("\"'") for line in text.splitlines()]
    named_files = [Path(name).name for name in names if Path(name).suffix in BAG_SUFFIXES and ":" not in name]
    return bool(named_files) and all((folder / name).is_file() for name in named_files)


def _file(path: Path) -> Container:
    kind = recording_kind(path)
    if kind is None:
        raise BagError(f"{path} is no recording; expected {', '.join((*BAG_SUFFIXES, *PACKET_SUFFIXES))}")
    return _OPENERS[kind](path)


def _merged(folder: Path, files: Sequence[Path]) -> Container:
    if not files:
        raise BagError(f"{folder} has no bag files ({', '.join(BAG_SUFFIXES)})")
    remarks = list[str]()
    with ExitStack() as opened:
        parts = list[Container]()
        for file in files:
            try:
                part = _file(file)
            except Exception as error:
                if len(files) == 1:
                    raise
                remarks.append(f"{file} cannot be read and is left out: {str(error) or type(error).__name__}")
                continue
            opened.callback(part.close)
            parts.append(part)
        if not parts:
            raise BagError("; ".join(remarks))
        opened.pop_all()
    return parts[0] if len(files) == 1 else _Merged(parts, remarks)


class _Merged:
    """Several containers as one; a `Container`."""

    def __init__(self, parts: Sequence[Container], remarks: Sequence[str]) -> None:
        self._parts = parts
        self._of = [(part, channel) for part in parts for channel in part.channels]
        self.channels = [replace(channel, number=number) for number, (_, channel) in enumerate(self._of)]
        self.storage = parts[0].storage
        self.remarks = (*remarks, *(remark for part in parts for remark in part.remarks))
        spans = [part.span for part in parts if part.span != (0, 0)]
        self.span = (min(first for first, _ in spans), max(last for _, last in spans)) if spans else (0, 0)

    def messages(self, channels: Collection[Channel], since: int | None = None) -> Iterator[Recorded]:
        """Yields messages, as `Container.messages` does."""
        streams = []
        for part in self._parts:
            wanted = {own.number: each for each in channels if (found := self._of[each.number])[0] is part
                      for own in (found[1],)}  # fmt: skip
            if wanted:
                streams.append(_renumbered(part, wanted, since))
        return heapq.merge(*streams, key=lambda message: message[1])

    def close(self) -> None:
        """Closes all files."""
        for part in self._parts:
            part.close()


def _renumbered(part: Container, wanted: dict[int, Channel], since: int | None) -> Iterator[Recorded]:
    own = [channel for channel in part.channels if channel.number in wanted]
    for channel, stamp, raw in part.messages(own, since):
        yield wanted[channel.number], stamp, raw
