"""Decodes point_cloud_interfaces/CompressedPointCloud2, as the plugins of point_cloud_transport publish it."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.point_cloud2 import FORMATS
from spvnas_ros.recordings.containers.container import BagError
from spvnas_ros.recordings.containers.unpacked import MOST_BYTES, unzip
from spvnas_ros.recordings.message_kinds.decoded import DecodedCloud, cloud_like, needed
from spvnas_ros.recordings.message_types import COMPRESSED_TYPE, ros1_typestore, typestore

TYPES: Final = (COMPRESSED_TYPE, "draco_point_cloud_transport/msg/CompressedPointCloud2")
"""The second is ROS 1's name of the same message."""

_CLOUDINI: Final = b"CLOUDINI_V"
_DRACO: Final = b"DRACO"
_DRACO_TYPES: Final = dict(enumerate(("i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8"), 1))
_MOST_STEP: Final = 1 << 12
"""Bytes of a point; no driver's point comes near."""
_IN_ORDER: Final = 0
"""Draco's number of the encoding that keeps the order of points (sequential); 1 is the k-d tree, which does not."""


def from_cdr(raw: bytes) -> DecodedCloud:
    """Decodes the message of ROS 2. Raises BagError for bytes that are none, or a codec that loses points or order."""
    return _decoded(typestore().deserialize_cdr(raw, COMPRESSED_TYPE))


def from_ros1(raw: bytes) -> DecodedCloud:
    """Decodes the message of ROS 1, as `from_cdr` does."""
    return _decoded(ros1_typestore().deserialize_ros1(raw, COMPRESSED_TYPE))


def _decoded(message: Any) -> DecodedCloud:
    raw = message.compressed_data.tobytes()
    size = message.height * (message.row_step or message.width * message.point_step)
    points = message.height * message.width
    if max(size, points * message.point_step) > MOST_BYTES:
        raise BagError(f"it announces a cloud of {size} bytes, expected at most {MOST_BYTES}")
    codec = _codec(message.format, raw)
    if codec not in _CODECS:
        known = ", ".join(_CODECS)
        raise BagError(f"it is compressed by {message.format[:40]!r}, which is not known; expected one of {known}")
    data = _CODECS[codec](message, raw, size)
    step = message.row_step if len(data) == size else message.width * message.point_step
    return DecodedCloud(cloud_like(message, step, data))


def _codec(name: str, raw: bytes) -> str:
    """Returns the codec: cloudini's publisher leaves its name out, and some add the one of its second stage."""
    if raw.startswith(_CLOUDINI):
        return "cloudini"
    return re.split(r"[/;, ]", name.lower())[0]


def _zstd(_: Any, raw: bytes, size: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(unzip(raw, size), np.uint8)


def _zlib(_: Any, raw: bytes, size: int) -> npt.NDArray[np.uint8]:
    # The plugin writes gzip's header; 32 takes it and zlib's own.
    unpacked = zlib.decompressobj(32 + zlib.MAX_WBITS)
    data = unpacked.decompress(raw, size + 1)
    if not unpacked.eof and len(data) <= size:
        raise BagError("its data is cut off")
    return np.frombuffer(data, np.uint8)


def _cloudini(message: Any, raw: bytes, _: int) -> npt.NDArray[np.uint8]:
    # Decoders allocate what the header says, so it is looked at before.
    head = raw[:4096].partition(b"\0")[0].decode("ascii", "replace")
    found = tuple(
        int(match[1]) if (match := re.search(rf"^{name}: (\d{{1,9}})$", head, re.MULTILINE)) else -1
        for name in ("width", "height", "point_step")
    )
    if found != (expected := (message.width, message.height, message.point_step)):
        raise BagError(
            f"its header says width, height and point_step {found}, the message {expected}: cloudini has left out "
            "points, so that labels would not fit the cloud"
        )
    decoder = needed("pureini", "pureini", "clouds compressed by cloudini").PointcloudDecoder()
    data, _ = decoder.decode(raw)
    return np.frombuffer(data, np.uint8)


def _draco(message: Any, raw: bytes, _: int) -> npt.NDArray[np.uint8]:
    if len(raw) < 15 or not raw.startswith(_DRACO):
        raise BagError("its data does not begin as Draco's does")
    if raw[7] or raw[8] != _IN_ORDER:
        raise BagError(
            "Draco has changed the order of its points (k-d tree), so that labels would not fit the cloud; publish "
            "with encode_method 2 (sequential) and deduplicate false, or record the cloud itself"
        )
    # Draco's decoder allocates what its own header says, so it is looked at before.
    flags, count = struct.unpack_from("<Hi", raw, 9)
    if flags:
        raise BagError("Draco's data has metadata, which point_cloud_transport's publisher does not write")
    points = message.height * message.width
    if count != points:
        raise BagError(
            f"Draco has left {count} of {points} points, so that labels would not fit the cloud; publish with "
            "deduplicate false, or record the cloud itself"
        )
    if message.point_step > _MOST_STEP:
        raise BagError(f"it announces points of {message.point_step} bytes, expected at most {_MOST_STEP}")
    decoded = needed("DracoPy", "'spvnas_ros[draco]'", "clouds compressed by Draco").decode(raw)
    if message.is_bigendian:
        raise BagError("it is compressed by Draco and big-endian, which no publisher writes")
    # The publisher makes an attribute of each field, in their order.
    if len(decoded.attributes) != len(message.fields):
        raise BagError(f"Draco has {len(decoded.attributes)} attributes for {len(message.fields)} fields")
    columns = []
    for attribute, field in zip(decoded.attributes, message.fields, strict=True):
        values = _as_stored(attribute)
        if len(values) != points:
            raise BagError(f"Draco has {len(values)} values of field {field.name!r} for {points} points")
        size = int(FORMATS[field.datatype][1:]) * max(field.count, 1)
        if values.nbytes != points * size or field.offset + size > message.point_step:
            raise BagError(f"field {field.name!r} has {size} bytes, and Draco another number")
        columns.append((field.offset, size, values))
    cloud = np.zeros((points, message.point_step), np.uint8)
    for offset, size, values in columns:
        cloud[:, offset : offset + size] = values.view(np.uint8).reshape(points, size)
    return cloud.reshape(-1)


def _as_stored(attribute: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Returns the values of an attribute in the type that Draco stores; DracoPy widens 16 bits to 32."""
    kind, values = _DRACO_TYPES.get(attribute["data_type"]), attribute["data"]
    if kind is None or values is None or not np.can_cast(kind, values.dtype):
        raise BagError(f"DracoPy cannot give values of Draco's type {attribute['data_type']} as they are")
    return np.ascontiguousarray(values, kind)


_CODECS: Final[Mapping[str, Callable[[Any, bytes, int], npt.NDArray[np.uint8]]]] = {
    "zstd": _zstd,
    "zlib": _zlib,
    "draco": _draco,
    "cloudini": _cloudini,
}
