"""Reading and writing clouds: `sensor_msgs_py.point_cloud2` where it is installed, our equal where it is not.

It comes with every ROS distribution, and is not on PyPI.
"""

from __future__ import annotations

import inspect

from spvnas_ros.trials import _point_cloud2

try:
    from sensor_msgs_py.point_cloud2 import create_cloud, read_points
except ImportError:
    from spvnas_ros.trials._point_cloud2 import create_cloud, read_points

if "point_step" not in inspect.signature(create_cloud).parameters:  # ROS 2 Humble
    create_cloud = _point_cloud2.create_cloud

__all__ = ["create_cloud", "read_points"]
