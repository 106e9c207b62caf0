"""`read_points` and `create_cloud` for machines without sensor_msgs_py. The meaning is sensor_msgs_py's (Jazzy)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.recfunctions import unstructured_to_structured
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from spvnas_ros.clouds.point_cloud2 import FORMATS, PointCloudError
from spvnas_ros.ros.node.messages import message_bytes


def read_points(
    cloud: PointCloud2,
    field_names: Iterable[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable[int] | None = None,
    reshape_organized_cloud: bool = False,
) -> npt.NDArray[np.void]:
    """The points of a message as a structured array `[N]` in this machine's byte order.

    field_names: only these fields
    skip_nans:   leave points out that have a NaN in one of them, unless the cloud says it is dense
    uvs:         only the points at these positions, in this order
    reshape_organized_cloud: `[width, height]` for a cloud of several rows, as sensor_msgs_py shapes it

    A field of several values becomes several fields `name_0`, `name_1`, ...; one without a name `unnamed_field_<i>`.
    Raises PointCloudError where fields cannot be read, or fewer bytes are there than points.
    """
    dtype = dtype_from_fields(cloud.fields, cloud.point_step)
    count = cloud.width * cloud.height
    if len(cloud.data) < count * cloud.point_step:
        raise PointCloudError(
            "short-data", f"{count} points of {cloud.point_step} bytes do not fit into {len(cloud.data)} bytes"
        )
    points: npt.NDArray[np.void] = np.ndarray((count,), dtype, cloud.data)
    if field_names is not None:
        names = list(field_names)
        if missing := [name for name in names if name not in (dtype.names or ())]:
            raise PointCloudError("no-field", f"the cloud has no field {', '.join(missing)}; it has {dtype.names}")
        points = points[names]
    if bool(cloud.is_bigendian) != (sys.byteorder == "big"):
        points = points.byteswap()
    if skip_nans and not cloud.is_dense:
        points = points[~_any_nan(points)]
    if uvs is not None:
        points = points[uvs if isinstance(uvs, np.ndarray) else np.fromiter(uvs, int)]
    if reshape_organized_cloud and cloud.height > 1:
        points = points.reshape(cloud.width, cloud.height)
    return points


def create_cloud(
    header: Header,
    fields: Iterable[PointField],
    points: Iterable[Any],
    point_step: int | None = None,
) -> PointCloud2:
    """A message from points: a structured array of exactly these fields, an array `[N, F]` where all fields have one
    type, or any iterable of tuples. A second dimension of points makes an organised cloud (`[width, height]`).

    point_step: bytes of a point, where it is to be padded

    Raises PointCloudError where points and fields do not fit together.
    """
    fields = list(fields)
    array = _structured(points, fields, dtype_from_fields(fields, point_step))
    if array.ndim > 2:
        raise PointCloudError("bad-shape", f"points have {array.ndim} dimensions, expected one, or two (organised)")
    return PointCloud2(
        header=header,
        height=array.shape[1] if array.ndim == 2 else 1,
        width=array.shape[0],
        is_dense=False,
        is_bigendian=sys.byteorder != "little",
        fields=fields,
        point_step=array.dtype.itemsize,
        row_step=array.dtype.itemsize * array.shape[0],
        data=message_bytes(array),
    )


def dtype_from_fields(fields: Iterable[PointField], point_step: int | None = None) -> np.dtype[np.void]:
    """The numpy type of a point in this machine's byte order; `point_step` bytes large, or as its fields need."""
    names: list[str] = []
    formats: list[str] = []
    offsets: list[int] = []
    for index, field in enumerate(fields):
        if field.datatype not in FORMATS or field.count < 1:
            raise PointCloudError(
                "bad-datatype", f"field {field.name!r} has {field.count} values of datatype {field.datatype}"
            )
        single = np.dtype(FORMATS[field.datatype])
        name = field.name or f"unnamed_field_{index}"
        for part in range(field.count):
            names.append(name if field.count == 1 else f"{name}_{part}")
            formats.append(single.str)
            offsets.append(field.offset + part * single.itemsize)
    try:
        if point_step is None:
            return np.dtype({"names": names, "formats": formats, "offsets": offsets})
        return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": point_step})
    except ValueError as error:
        raise PointCloudError(
            "field-outside", f"fields {names} make no point of {point_step} bytes: {error}"
        ) from error


def _any_nan(points: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    nan = np.zeros(len(points), bool)
    for name in points.dtype.names or ():
        nan |= np.isnan(points[name])
    return nan


def _structured(points: Any, fields: Sequence[PointField], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    if not isinstance(points, np.ndarray):
        return np.array([tuple(point) for point in points], dtype)
    if points.dtype.names is not None:
        if points.dtype != dtype:
            raise PointCloudError("bad-shape", f"points are {points.dtype}, the fields describe {dtype}")
        return points
    if len({field.datatype for field in fields}) > 1:
        raise PointCloudError("bad-shape", "fields of several types need a structured array, found a plain one")
    return np.asarray(unstructured_to_structured(points, dtype))
