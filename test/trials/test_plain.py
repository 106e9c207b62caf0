"""Plain clouds are what they say, whether sensor_msgs_py builds them or a few lines of our own."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.trials.plain import cloud_of, float_cloud

POINTS = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)


@pytest.mark.parametrize("points", [POINTS, POINTS[:0], POINTS[::2]], ids=["some", "none", "every second"])
def test_a_plain_cloud_holds_its_points(points: np.ndarray) -> None:
    cloud = cloud_of(points, "lidar")
    assert (cloud.header.frame_id, cloud.height, cloud.width) == ("lidar", 1, len(points))
    assert cloud.data.typecode == "B", "rclpy takes others byte by byte"
    decoded = decode(cloud)
    assert decoded.dtype.names == ("x", "y", "z", "intensity")
    np.testing.assert_array_equal(np.stack([decoded[name] for name in decoded.dtype.names], 1), points)


def test_ours_equals_that_of_sensor_msgs_py() -> None:
    theirs = pytest.importorskip(
        "sensor_msgs_py.point_cloud2", reason="sensor_msgs_py is not installed (it is not on PyPI)"
    )
    cloud = cloud_of(POINTS, "lidar")
    made = [make(cloud.header, cloud.fields, POINTS) for make in (float_cloud, theirs.create_cloud)]
    assert made[0] == made[1]
