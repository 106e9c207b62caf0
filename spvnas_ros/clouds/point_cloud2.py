"""PointCloud2 and numpy: any driver's cloud in, the labelled cloud out. Pure numpy; messages are only looked at.

What is accepted is what drivers publish: fields found by name, every numeric type, arrays as fields, padding between
fields, points and rows, unaligned offsets and steps, either byte order, organised clouds. The rules for what the
message format leaves open:

* A field with `count` 0 is read as one value, as PCL does.
* Where a name repeats (PCL's padding fields "_" do), the first field has it; the others keep their bytes, nothing else.
* Fields may overlap. An empty name becomes `unnamed_field_<index>`.
* `row_step` only counts between rows: a cloud of one row may hold any value there, and 0 means rows without padding.
* A cloud without points is a cloud; it needs no fields.

Everything else is a PointCloudError. Its `kind` is one of:

    bad-datatype    a field's datatype is none of the eight codes
    bad-point-step  point_step is 0 although there are points, or larger than any point can be
    bad-row-step    row_step is smaller than a row of points
    field-outside   a field ends behind point_step
    short-data      fewer bytes than height, width and the steps promise
    long-data       more bytes than that
    no-xyz          x, y or z is missing or is not a single number
    no-intensity    the intensity field that was asked for is missing, or its values have no known scale
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.intensity import Intensity, IntensityError
from spvnas_ros.clouds.mount import Moves
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Points, Segmentation

LABEL_FIELD = "label"
CONFIDENCE_FIELD = "confidence"
RENAMED_PREFIX = "input_"
"""Put before the name of an input field that is called like one of ours."""

MAX_POINT_STEP = 1 << 30
"""Bytes; no numpy structure can be much larger, and no sensor's point comes near."""


class Datatype(IntEnum):
    """The codes of sensor_msgs/PointField."""

    INT8 = 1
    UINT8 = 2
    INT16 = 3
    UINT16 = 4
    INT32 = 5
    UINT32 = 6
    FLOAT32 = 7
    FLOAT64 = 8


FORMATS: Mapping[int, str] = {
    Datatype.INT8: "i1",
    Datatype.UINT8: "u1",
    Datatype.INT16: "i2",
    Datatype.UINT16: "u2",
    Datatype.INT32: "i4",
    Datatype.UINT32: "u4",
    Datatype.FLOAT32: "f4",
    Datatype.FLOAT64: "f8",
}


class PointCloudError(UserError):
    """A cloud that contradicts itself or cannot be labelled. `kind` is a short stable name (see the module)."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class PointField(NamedTuple):
    """One field of a point: `count` values of type `datatype` (a `Datatype` code) from byte `offset` on."""

    name: str
    offset: int
    datatype: int
    count: int = 1  # type: ignore[assignment]  # the message's name for it hides tuple.count


class FieldLike(Protocol):
    """What is read of a sensor_msgs/PointField, whoever made it."""

    @property
    def name(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def datatype(self) -> int: ...
    @property
    def count(self) -> int: ...


class CloudLike(Protocol):
    """What is read of a sensor_msgs/PointCloud2: rclpy's message, rosbags' and any other object of that shape."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def fields(self) -> Sequence[Any]: ...
    @property
    def is_bigendian(self) -> bool: ...
    @property
    def point_step(self) -> int: ...
    @property
    def row_step(self) -> int: ...
    @property
    def data(self) -> Any: ...


@dataclass(frozen=True)
class LabelledLayout:
    """A labelled cloud, ready to be put into a message: the input's points with `label` and `confidence` appended.

    data: uint8 `[height * row_step]`, rows without padding between them
    """

    fields: list[PointField]
    point_step: int
    row_step: int
    height: int
    width: int
    is_bigendian: bool
    data: npt.NDArray[np.uint8]


def decode(cloud: CloudLike) -> npt.NDArray[np.void]:
    """The cloud's points as a structured array `[height * width]`, row by row, one entry per field name.

    Fields with a count over 1 are sub-arrays. The result is a read-only view of the message, and a copy only where
    rows are padded. Raises PointCloudError.
    """
    dtype = _point_dtype(cloud)
    rows = _rows(cloud)
    points = rows.reshape(-1).view(dtype) if cloud.point_step else np.empty(0, dtype)
    points.flags.writeable = False
    return points


def to_points(array: npt.NDArray[np.void], intensity: Intensity, place: Moves | None = None) -> Points:
    """Turns decoded points into float32 `[N, 4]`: x, y, z, and the intensity that its rule finds, scaled to 0..1.

    place: where the network is to see the points; None leaves x, y, z as they are

    Coordinates beyond float32 become infinite; an intensity that is not finite stays so. A cloud without intensity gets
    zeros. Raises PointCloudError `no-xyz`, and `no-intensity` where the rule cannot be followed.
    """
    points = np.zeros((len(array), 4), np.float32)
    if not len(array):
        return points
    for name in "xyz":
        if not _is_scalar(array, name):
            found = ", ".join(array.dtype.names or ()) or "none"
            raise PointCloudError(
                "no-xyz", f"the cloud needs x, y and z, one number each; {name} is not there, found fields: {found}"
            )
    with np.errstate(over="ignore", invalid="ignore"):
        if place is None:
            if (packed := _unaligned_xyz(array)) is not None:
                # Whole positions at a time: numpy is slow at numbers that are not at multiples of their size.
                points.view(_XYZ)["xyz"][:, 0] = packed
            else:
                for column, name in enumerate("xyz"):
                    points[:, column] = array[name]
        else:
            points[:, :3] = place.apply(positions(array))
    try:
        points[:, 3] = intensity.read(array)
    except IntensityError as error:
        raise PointCloudError("no-intensity", str(error)) from error
    return points


def _positions_at(offset: int, step: int) -> np.dtype[np.void]:
    return np.dtype({"names": ["xyz"], "formats": ["V12"], "offsets": [offset], "itemsize": step})


_XYZ = _positions_at(0, 16)


def _unaligned_xyz(array: npt.NDArray[np.void]) -> npt.NDArray[np.void] | None:
    """Returns the bytes of x, y, z, void `[N]`, where they are float32 of this machine, follow each other and are not
    aligned, as in points of 22 bytes.
    """
    fields: Mapping[str, Any] = array.dtype.fields or {}
    kinds, offsets = zip(*(fields[name][:2] for name in "xyz"), strict=True)
    first, step = int(offsets[0]), array.dtype.itemsize
    if kinds != (np.dtype(np.float32),) * 3 or offsets != (first, first + 4, first + 8):
        return None
    return array.view(_positions_at(first, step))["xyz"] if first % 4 or step % 4 else None


def positions(array: npt.NDArray[np.void]) -> npt.NDArray[np.float64]:
    """Returns x, y, z of decoded points as they are, float64 `[N, 3]`."""
    return np.stack([array[name].astype(np.float64) for name in "xyz"], axis=1)


def with_labels(cloud: CloudLike, segmentation: Segmentation) -> LabelledLayout:
    """The cloud with `label` (uint8) and `confidence` (float32) appended to every point.

    Order, number, height and width of the points and every byte of each stay as they are; padding between rows is
    dropped. `confidence` and the new point_step lie on multiples of 4. An input field called `label` or `confidence`
    keeps its bytes and is renamed `input_label`, `input_confidence`, so that both can be read by name.

    Raises PointCloudError, and ValueError where the segmentation is not of this cloud.
    """
    _point_dtype(cloud)
    rows = _rows(cloud)
    count = cloud.height * cloud.width
    if len(segmentation) != count:
        raise ValueError(f"the cloud has {count} points, the segmentation {len(segmentation)}; are they of one cloud?")
    label_at = cloud.point_step
    confidence_at = _aligned(label_at + 1)
    step = confidence_at + 4
    layout = np.dtype(
        {
            "names": ["input", LABEL_FIELD, CONFIDENCE_FIELD],
            "formats": [f"V{cloud.point_step}", "u1", ">f4" if cloud.is_bigendian else "<f4"],
            "offsets": [0, label_at, confidence_at],
            "itemsize": step,
        }
    )
    data = np.zeros(count * step, np.uint8)
    points = data.view(layout)
    if cloud.point_step:
        points["input"] = rows.reshape(-1).view(f"V{cloud.point_step}")
    points[LABEL_FIELD] = segmentation.labels
    points[CONFIDENCE_FIELD] = segmentation.confidence
    fields = [
        *_renamed(cloud.fields),
        PointField(LABEL_FIELD, label_at, Datatype.UINT8),
        PointField(CONFIDENCE_FIELD, confidence_at, Datatype.FLOAT32),
    ]
    return LabelledLayout(fields, step, cloud.width * step, cloud.height, cloud.width, bool(cloud.is_bigendian), data)


def _point_dtype(cloud: CloudLike) -> np.dtype[np.void]:
    step = cloud.point_step
    if step > MAX_POINT_STEP or (step == 0 and cloud.height * cloud.width):
        raise PointCloudError("bad-point-step", f"point_step is {step} bytes, expected 1 to {MAX_POINT_STEP}")
    order = ">" if cloud.is_bigendian else "<"
    names: list[str] = []
    formats: list[Any] = []
    offsets: list[int] = []
    for index, field in enumerate(cloud.fields):
        code = FORMATS.get(field.datatype)
        if code is None:
            raise PointCloudError(
                "bad-datatype", f"field {field.name!r} has datatype {field.datatype}, expected 1 (INT8) to 8 (FLOAT64)"
            )
        count = max(field.count, 1)
        end = field.offset + count * int(code[1])
        if end > step:
            raise PointCloudError(
                "field-outside", f"field {field.name!r} ends at byte {end} of a point of {step} bytes (point_step)"
            )
        name = field.name or f"unnamed_field_{index}"
        if name not in names:
            names.append(name)
            formats.append(order + code if count == 1 else (order + code, (count,)))
            offsets.append(field.offset)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": step})


def _rows(cloud: CloudLike) -> npt.NDArray[np.uint8]:
    """The points' bytes, `[height, width * point_step]`: a view of the message that leaves the rows' padding out."""
    data = _bytes(cloud.data)
    row = cloud.width * cloud.point_step
    step = cloud.row_step or row
    if step < row and cloud.height > 1:
        raise PointCloudError(
            "bad-row-step",
            f"row_step is {step} bytes, but a row of {cloud.width} points of {cloud.point_step} bytes takes {row}",
        )
    if cloud.height <= 1:
        step = max(step, row)
    points = cloud.height * cloud.width
    needed = (cloud.height - 1) * step + row if points else 0
    if not needed <= len(data) <= cloud.height * step:
        raise PointCloudError(
            "short-data" if len(data) < needed else "long-data",
            f"the cloud holds {len(data)} bytes, but {cloud.height} x {cloud.width} points of {cloud.point_step} bytes "
            f"with a row_step of {step} take {needed}",
        )
    if not points:
        return np.empty((0, 0), np.uint8)
    return np.ndarray((cloud.height, row), np.uint8, buffer=data, strides=(step, 1))


def _bytes(data: Any) -> npt.NDArray[np.uint8]:
    """The message's data as flat uint8, without a copy where it is a buffer (array, bytes, numpy)."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    if isinstance(data, list | tuple):
        return np.array(data, np.uint8)
    return np.frombuffer(data, np.uint8)


def _is_scalar(array: npt.NDArray[np.void], name: str) -> bool:
    return name in (array.dtype.names or ()) and not array.dtype[name].shape


def _aligned(offset: int) -> int:
    return -(-offset // 4) * 4


def _renamed(fields: Sequence[FieldLike]) -> list[PointField]:
    taken = {field.name for field in fields}

    def name(of: str) -> str:
        if of not in (LABEL_FIELD, CONFIDENCE_FIELD):
            return of
        fresh = RENAMED_PREFIX + of
        while fresh in taken:
            fresh = RENAMED_PREFIX + fresh
        return fresh

    return [PointField(name(field.name), field.offset, field.datatype, field.count) for field in fields]
