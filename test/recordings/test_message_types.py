"""The messages that bags are read and written with are those of ROS."""

from __future__ import annotations

from spvnas_ros.recordings.message_types import typestore
from spvnas_ros.ros.build_messages.packages import VISION_MSGS


def test_boxes_are_the_messages_that_ros_has() -> None:
    store = typestore()
    for name in ("BoundingBox3D", "Detection3D", "Detection3DArray", "ObjectHypothesis", "ObjectHypothesisWithPose"):
        assert store.hash_rihs01(f"vision_msgs/msg/{name}") == f"RIHS01_{VISION_MSGS.type_hashes[name]}"
