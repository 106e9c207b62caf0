"""The messages that bags are read and written with are those of ROS."""

from __future__ import annotations

from spvnas_ros.recordings.message_types import COMPRESSED_TYPE, typestore
from spvnas_ros.ros.build_messages.packages import POINT_CLOUD_INTERFACES, VISION_MSGS


def test_boxes_are_the_messages_that_ros_has() -> None:
    store = typestore()
    for name in ("BoundingBox3D", "Detection3D", "Detection3DArray", "ObjectHypothesis", "ObjectHypothesisWithPose"):
        assert store.hash_rihs01(f"vision_msgs/msg/{name}") == f"RIHS01_{VISION_MSGS.type_hashes[name]}"


def test_compressed_clouds_are_the_message_that_the_plugins_have() -> None:
    expected = POINT_CLOUD_INTERFACES.type_hashes["CompressedPointCloud2"]
    assert typestore().hash_rihs01(COMPRESSED_TYPE) == f"RIHS01_{expected}"
