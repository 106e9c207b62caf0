"""The messages that bags are read and written with are those of ROS."""

from __future__ import annotations

import pytest

from spvnas_ros.recordings.message_types import typestore
from spvnas_ros.ros.build_messages.packages import PACKAGES, VISION_MSGS


def test_boxes_are_the_messages_that_ros_has() -> None:
    store = typestore()
    for name in ("BoundingBox3D", "Detection3D", "Detection3DArray", "ObjectHypothesis", "ObjectHypothesisWithPose"):
        assert store.hash_rihs01(f"vision_msgs/msg/{name}") == f"RIHS01_{VISION_MSGS.type_hashes[name]}"


@pytest.mark.parametrize("package", ["point_cloud_interfaces", "livox_ros_driver", "livox_ros_driver2"])
def test_what_sensors_drivers_send_is_the_message_that_their_packages_have(package: str) -> None:
    for name, expected in PACKAGES[package].type_hashes.items():
        assert typestore().hash_rihs01(f"{package}/msg/{name}") == f"RIHS01_{expected}"
