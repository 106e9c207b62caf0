"""Reads MCAP files of any profile and writer. Files without a usable summary, or cut off, are read from their data."""

from __future__ import annotations

import heapq
import re
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import lz4.frame
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel as ChannelRecord
from mcap.records import Chunk, ChunkIndex, Footer, Header, Message, Schema, Statistics

from spvnas_ros.recordings.containers.container import BagError, Channel, Recorded, ros_type
from spvnas_ros.recordings.containers.unpacked import MOST_BYTES, plain, unzip

_MAGIC: Final = b"\x89MCAP0\r\n"
_FRAME: Final = 9
"""Bytes before a record: its opcode and its length."""
_TAIL: Final = _FRAME + 20 + len(_MAGIC)
"""Bytes of footer and magic."""
_CHUNK_HEAD: Final = 8 + 8 + 8 + 4 + 4
_MESSAGE_HEAD: Final = 2 + 4 + 8 + 8
_RUN: Final = 1 << 22
"""Bytes of messages outside of chunks that are read and sorted together, at most."""
_ENCODINGS: Final = {"ros1msg": "ros1"}
"""Message encodings by those of their schemas, for writers that leave the former out."""


class McapDamage(ValueError):
    """Bytes of an MCAP file that are not what the format allows. The message says what and where."""


@dataclass
class _Block:
    """A chunk, or a run of messages outside of chunks: what is read and sorted at once.

    start, end:  bytes in the file
    first, last: times of its messages, nanoseconds since 1970
    counts:      messages of each channel; None where the summary does not say
    """

    start: int
    end: int
    first: int
    last: int
    counts: dict[int, int] | None


@dataclass
class _Contents:
    """What a summary, or a pass over the data, tells."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, ChannelRecord] = field(default_factory=dict)
    blocks: list[_Block] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    cut: str = ""

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last time of a message; (0, 0) without messages."""
        filled = [block for block in self.blocks if block.counts or block.last]
        return (min(each.first for each in filled), max(each.last for each in filled)) if filled else (0, 0)

    def add(self, opcode: int, body: bytes) -> None:
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(_stream(body))
            self.schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = ChannelRecord.read(_stream(body))
            if channel.message_encoding == "" and channel.schema_id in self.schemas:
                schema = self.schemas[channel.schema_id]
                channel.message_encoding = _ENCODINGS.get(schema.encoding, schema.encoding)
            self.channels[channel.id] = channel


class McapFile:
    """One MCAP file that is open; a `Container`. Messages come by their log time.

    The summary is used where it has all channels, their counts and the chunks. Otherwise the data is read through once;
    a file that ends in the middle, or is damaged there, has the messages before that place, and a remark that names it.

    Raises McapDamage where the file is no MCAP or not one message can be read, and OSError.
    """

    storage = "mcap"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            self._size = path.stat().st_size
            if self._size == 0:
                raise McapDamage("it is empty")
            if self._file.read(len(_MAGIC)) != _MAGIC:
                raise McapDamage("it does not begin as an MCAP file does")
            contents = _summary(self._file, self._size) or _scanned(self._file, self._size)
        except BaseException:
            self._file.close()
            raise
        if contents.cut and not any(contents.counts.values()):
            self._file.close()
            raise McapDamage(f"{contents.cut}, before the first message")
        self._blocks = contents.blocks
        self.channels = [_channel(each, contents) for each in contents.channels.values()]
        self.span = contents.span
        self.remarks: tuple[str, ...] = ()
        if contents.cut:
            count = sum(contents.counts.values())
            self.remarks = (f"{path} {contents.cut}; the {count} messages before that are read",)

    def messages(self, channels: Collection[Channel], since: int | None = None) -> Iterator[Recorded]:
        """Yields messages, as `Container.messages` does. One block is in memory, and those that overlap with it."""
        wanted = {each.number: each for each in channels}
        earliest = 0 if since is None else since
        blocks = (
            self._block(block, wanted, earliest)
            for block in self._blocks
            if block.last >= earliest and (block.counts is None or not wanted.keys().isdisjoint(block.counts))
        )
        for stamp, _, message in heapq.merge(*blocks, key=lambda entry: entry[:2]):
            if message is not None:
                channel = wanted[message.channel_id]
                yield channel, stamp, plain(message.data) if channel.encoding == "cdr" else message.data

    def _block(
        self, block: _Block, wanted: Mapping[int, Channel], earliest: int
    ) -> Iterator[tuple[int, int, Message | None]]:
        yield block.first, block.start, None  # nothing is read before the merge comes to this time
        found = [
            message
            for message in _messages_of(self._file, block)
            if message.log_time >= earliest and message.channel_id in wanted
        ]
        found.sort(key=lambda message: message.log_time)
        for message in found:
            yield message.log_time, block.start, message

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _channel(record: ChannelRecord, contents: _Contents) -> Channel:
    schema = contents.schemas.get(record.schema_id)
    name = schema.name if schema else ""
    known = ros_type(name) if record.message_encoding in ("cdr", "ros1") else name
    return Channel(record.topic, known, record.message_encoding, contents.counts.get(record.id, 0), record.id)


def _summary(file: BinaryIO, size: int) -> _Contents | None:
    """Returns what the summary says; None where there is none, or not all that is needed."""
    if size < len(_MAGIC) + _TAIL:
        return None
    file.seek(size - _TAIL)
    tail = file.read(_TAIL)
    if not tail.endswith(_MAGIC) or tail[:_FRAME] != struct.pack("<BQ", Opcode.FOOTER, 20):
        return None
    footer = Footer.read(_stream(tail[_FRAME:]))
    if not len(_MAGIC) < footer.summary_start < size - _TAIL:
        return None
    contents, statistics, indexes = _Contents(), None, list[ChunkIndex]()
    try:
        for opcode, start, length in _records(file, footer.summary_start, size - _TAIL):
            body = _read(file, start + _FRAME, length)
            contents.add(opcode, body)
            if opcode == Opcode.STATISTICS:
                statistics = Statistics.read(_stream(body))
            elif opcode == Opcode.CHUNK_INDEX:
                indexes.append(ChunkIndex.read(_stream(body)))
    except Exception:
        return None  # the data may still be whole
    if statistics is None or statistics.chunk_count != len(indexes):
        return None
    contents.counts = dict(statistics.channel_message_counts)
    # A summary may leave out the channels, or repeat none of the messages' counts; messages may lie outside of chunks.
    complete = (
        len(contents.channels) == statistics.channel_count
        and all(channel.schema_id in (0, *contents.schemas) for channel in contents.channels.values())
        and sum(contents.counts.values()) == statistics.message_count
        and (statistics.message_count == 0 or indexes)
    )
    for index in indexes:
        end = index.chunk_start_offset + index.chunk_length
        if not len(_MAGIC) <= index.chunk_start_offset < end <= footer.summary_start:
            return None
        offsets = dict.fromkeys(index.message_index_offsets, 1) or None
        contents.blocks.append(
            _Block(index.chunk_start_offset, end, index.message_start_time, index.message_end_time, offsets)
        )
    return contents if complete and _all_in_chunks(file, footer.summary_start, contents) else None


def _all_in_chunks(file: BinaryIO, end: int, contents: _Contents) -> bool:
    """Whether no message lies outside of the chunks: what is between them is walked over by the records' lengths."""
    chunks = {block.start: block.end for block in contents.blocks}
    try:
        for opcode, start, length in _records(file, len(_MAGIC), end):
            if opcode == Opcode.MESSAGE:
                return False
            if opcode == Opcode.CHUNK and chunks.pop(start, None) != start + _FRAME + length:
                return False
    except McapDamage:
        return False
    return not chunks


def _scanned(file: BinaryIO, size: int) -> _Contents:
    """Returns what a pass over the data tells, up to its end or the first damage."""
    contents, place = _Contents(), len(_MAGIC)
    run: _Block | None = None
    try:
        for opcode, start, length in _records(file, place, size):
            place = start
            if opcode == Opcode.MESSAGE:
                body = _read(file, start + _FRAME, length)
                message = _message(body, contents.channels)
                if run is None or start - run.start > _RUN:
                    run = _Block(start, start, message.log_time, message.log_time, {})
                    contents.blocks.append(run)
                run.end = start + _FRAME + length
                _count(run, message, contents)
            elif opcode == Opcode.CHUNK:
                run = None
                block = _Block(start, start + _FRAME + length, (1 << 64) - 1, 0, {})
                # Channels and counts of a chunk are taken only where the whole chunk is good.
                part = _Contents(dict(contents.schemas), dict(contents.channels), counts=dict(contents.counts))
                for inner, body in _inside(_unpacked(file, start, length)):
                    part.add(inner, body)
                    if inner == Opcode.MESSAGE:
                        _count(block, _message(body, part.channels), part)
                contents.schemas, contents.channels, contents.counts = part.schemas, part.channels, part.counts
                if block.counts:
                    contents.blocks.append(block)
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                contents.add(opcode, _read(file, start + _FRAME, length))
            elif opcode == Opcode.HEADER:
                Header.read(_stream(_read(file, start + _FRAME, length)))
            elif opcode in (Opcode.DATA_END, Opcode.FOOTER):
                return contents
            place = start + _FRAME + length
        contents.cut = f"was cut off at byte {size}, where more was expected (as by a loss of power)"
    except _CutError:
        contents.cut = f"was cut off at byte {size}, within what begins at byte {place} (as by a loss of power)"
    except Exception as error:
        contents.cut = f"is damaged at byte {place} of {size}: {_short(error)}"
    return contents


class _CutError(McapDamage):
    pass


def _records(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields opcode, start and length of every record between two bytes. Raises McapDamage where one does not fit."""
    while start < end:
        file.seek(start)
        head = file.read(_FRAME)
        if len(head) < _FRAME:
            raise _CutError("a record is cut off")
        opcode, length = struct.unpack("<BQ", head)
        if opcode == 0:
            raise McapDamage("a record has the opcode 0")
        if start + _FRAME + length > end:
            raise _CutError(f"a record of {length} bytes ends behind the file")
        yield opcode, start, length
        start += _FRAME + length


def _inside(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields opcode and body of every record in a chunk."""
    at = 0
    while at < len(data):
        if at + _FRAME > len(data):
            raise McapDamage("a record in a chunk is cut off")
        opcode, length = struct.unpack_from("<BQ", data, at)
        at += _FRAME
        if length > len(data) - at:
            raise McapDamage(f"a record of {length} bytes ends behind its chunk")
        yield opcode, data[at : at + length]
        at += length


def _messages_of(file: BinaryIO, block: _Block) -> Iterator[Message]:
    for opcode, start, length in _records(file, block.start, block.end):
        if opcode == Opcode.CHUNK:
            for inner, body in _inside(_unpacked(file, start, length)):
                if inner == Opcode.MESSAGE:
                    yield _message(body, None)
        elif opcode == Opcode.MESSAGE:
            yield _message(_read(file, start + _FRAME, length), None)


def _unpacked(file: BinaryIO, start: int, length: int) -> bytes:
    """Returns the records of the chunk at `start`. Raises McapDamage where it is not what its header says."""
    body = _read(file, start + _FRAME, length)
    if length < _CHUNK_HEAD:
        raise McapDamage(f"a chunk has only {length} bytes")
    chunk = Chunk.read(_stream(body))
    if chunk.uncompressed_size > MOST_BYTES:
        raise McapDamage(f"a chunk announces {chunk.uncompressed_size} bytes, expected at most {MOST_BYTES}")
    if chunk.compression == "zstd":
        data = unzip(chunk.data, chunk.uncompressed_size)
    elif chunk.compression == "lz4":
        data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=chunk.uncompressed_size + 1)
    elif chunk.compression == "":
        data = chunk.data
    else:
        raise McapDamage(f"a chunk is compressed by {chunk.compression[:20]!r}, expected zstd, lz4 or none")
    if len(data) != chunk.uncompressed_size:
        raise McapDamage(f"a chunk holds {len(data)} bytes and announces {chunk.uncompressed_size}")
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise McapDamage("the checksum of a chunk does not fit its bytes")
    return data


def _message(body: bytes, channels: Mapping[int, ChannelRecord] | None) -> Message:
    if len(body) < _MESSAGE_HEAD:
        raise McapDamage(f"a message has only {len(body)} bytes")
    number, sequence, log_time, publish_time = struct.unpack_from("<HIQQ", body)
    if channels is not None and number not in channels:
        raise McapDamage(f"a message is of channel {number}, which is not described before it")
    return Message(number, log_time, body[_MESSAGE_HEAD:], publish_time, sequence)


def _count(block: _Block, message: Message, contents: _Contents) -> None:
    assert block.counts is not None
    block.first, block.last = min(block.first, message.log_time), max(block.last, message.log_time)
    for counts in (block.counts, contents.counts):
        counts[message.channel_id] = counts.get(message.channel_id, 0) + 1


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    data = file.read(length)
    if len(data) != length:
        raise BagError("the file has become shorter while it was read")
    return data


def _stream(body: bytes) -> ReadDataStream:
    return ReadDataStream(BytesIO(body))


def _short(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error) or type(error).__name__)[:200]
