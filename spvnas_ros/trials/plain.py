"""Clouds as most drivers send them: x, y, z and intensity.

Built by sensor_msgs_py, as drivers in Python do; it comes with every ROS distribution, and is not on PyPI.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from spvnas_ros.frame import Points
from spvnas_ros.ros.node.messages import message_bytes

try:
    from sensor_msgs_py.point_cloud2 import create_cloud
except ImportError:
    create_cloud = None

_NAMES = ("x", "y", "z", "intensity")


def plain_cloud(rng: np.random.Generator, points: int, frame: str) -> PointCloud2:
    """A cloud of points anywhere within 50 m."""
    return cloud_of(rng.uniform((-50, -50, -2, 0), (50, 50, 5, 1), (points, 4)).astype(np.float32), frame)


def cloud_of(points: Points, frame: str) -> PointCloud2:
    """A cloud of these points."""
    fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate(_NAMES)
    ]
    return (create_cloud or float_cloud)(Header(frame_id=frame), fields, points)


def float_cloud(header: Header, fields: list[PointField], points: npt.NDArray[np.float32]) -> PointCloud2:
    """What sensor_msgs_py's `create_cloud` makes of points `[N, F]` with as many fields, all of them float32."""
    count, step = len(points), 4 * len(fields)
    return PointCloud2(
        header=header, height=1, width=count, fields=fields, is_bigendian=sys.byteorder == "big", point_step=step,
        row_step=step * count, data=message_bytes(points), is_dense=False,
    )  # fmt: skip
