"""What a message that holds a cloud is decoded to, and where its coordinates are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.typesys.stores.ros2_humble import builtin_interfaces__msg__Time as Time
from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointCloud2 as PointCloud2
from rosbags.typesys.stores.ros2_humble import sensor_msgs__msg__PointField as PointFieldMessage
from rosbags.typesys.stores.ros2_humble import std_msgs__msg__Header as Header

from spvnas_ros.clouds.point_cloud2 import PointField, decode
from spvnas_ros.errors import UserError
from spvnas_ros.recordings.containers.container import BagError


class MissingLibraryError(UserError):
    """A library that reads some kind of message is not installed. The message has the command that installs it."""


@dataclass(frozen=True)
class DecodedCloud:
    """A cloud out of a recorded message.

    message: the cloud as PointCloud2, coordinates as they were recorded
    pose:    float64 `[4, 4]`, moves the coordinates into the frame that the header names; None where they are in it
    """

    message: PointCloud2
    pose: npt.NDArray[np.float64] | None = None

    def placed(self) -> PointCloud2:
        """Returns the cloud with x, y, z in the frame that its header names; every other byte stays.

        Raises BagError where they are not floating point numbers, and PointCloudError for a malformed cloud.
        """
        if self.pose is None:
            return self.message
        points = decode(self.message).copy()
        kinds = {points.dtype[name].kind if name in (points.dtype.names or ()) else "" for name in "xyz"}
        if kinds != {"f"}:
            raise BagError("the message has a pose, which cannot move x, y and z that are not floating point numbers")
        moved = np.stack([points[name].astype(np.float64) for name in "xyz"], axis=1) @ self.pose[:3, :3].T
        for column, name in enumerate("xyz"):
            points[name] = moved[:, column] + self.pose[column, 3]
        old = self.message
        data = points.view(np.uint8)
        return replace(old, data=data, row_step=old.point_step * old.width)


Decoder = Callable[[bytes], DecodedCloud]


def cloud_of(
    stamp: int,
    frame_id: str,
    fields: Sequence[PointField],
    step: int,
    data: npt.NDArray[np.uint8],
    *,
    dense: bool = False,
) -> PointCloud2:
    """Returns points of `step` bytes each, of little-endian fields, as a PointCloud2 of one row.

    stamp: nanoseconds since 1970

    Raises BagError where the stamp does not fit into a message, or the bytes are not whole points.
    """
    seconds, nanoseconds = divmod(stamp, 10**9)
    if not -(1 << 31) <= seconds < 1 << 31:
        raise BagError(f"its stamp is {seconds} s since 1970, which no ROS message can hold")
    if step < 1 or len(data) % step:
        raise BagError(f"its points have {step} bytes each, and {len(data)} bytes are not whole points")
    messages = [PointFieldMessage(each.name, each.offset, int(each.datatype), each.count) for each in fields]
    return PointCloud2(
        Header(Time(seconds, nanoseconds), frame_id),
        1,
        len(data) // step,
        messages,
        False,
        step,
        len(data),
        data,
        dense,
    )


def cloud_like(message: Any, row_step: int, data: npt.NDArray[np.uint8]) -> PointCloud2:
    """Returns a PointCloud2 with header, sizes and fields of a message that has the same, from ROS 1 or ROS 2."""
    stamp = Time(message.header.stamp.sec, message.header.stamp.nanosec)
    return PointCloud2(
        Header(stamp, message.header.frame_id),
        message.height,
        message.width,
        [PointFieldMessage(each.name, each.offset, each.datatype, each.count) for each in message.fields],
        message.is_bigendian,
        message.point_step,
        row_step,
        data,
        message.is_dense,
    )


def needed(module: str, install: str, what: str) -> Any:
    """Imports a library that only some recordings need.

    install: what pip installs
    what:    what is read with it

    Raises MissingLibraryError with the command.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingLibraryError(
            f"{what} need {module.split('.')[0]}, which is missing: pip install {install}"
        ) from error
