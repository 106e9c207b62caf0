"""PointCloud2 messages from our own data."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from spvnas_ros.pointcloud import LabelledLayout


def labelled_message(header: Header, layout: LabelledLayout, is_dense: bool) -> PointCloud2:
    """The labelled cloud under its input's header."""
    return PointCloud2(
        header=header,
        height=layout.height,
        width=layout.width,
        fields=[
            PointField(name=field.name, offset=field.offset, datatype=field.datatype, count=field.count)
            for field in layout.fields
        ],
        is_bigendian=layout.is_bigendian,
        point_step=layout.point_step,
        row_step=layout.row_step,
        data=message_bytes(layout.data),
        is_dense=is_dense,
    )


def message_bytes(values: npt.NDArray[Any]) -> array[int]:
    """An array's bytes as the one type that rclpy's `data` takes over as it is.

    A numpy array or a list would be checked element by element: 95 ms and 34 ms for 2 MB, against 0.1 ms.
    """
    data = array("B")
    if values.size:
        data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return data
