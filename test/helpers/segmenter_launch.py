"""What `test_launch_testing.py` has launch_testing run: the launch file as ROS runs it.

launch starts the node, its states are walked, a cloud comes back labelled, and at the end all exit codes are 0. The
environment names a namespace (NAMESPACE), the checkpoint (WEIGHTS) and a parameter file (PARAMETERS).
"""

from __future__ import annotations

import os
import unittest
from typing import Any

import launch_testing
import rclpy
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_testing.actions import ReadyToTest
from launch_testing.asserts import assertExitCodes
from rclpy.signals import SignalHandlerOptions

from launch import LaunchDescription
from places import REPOSITORY
from ros_control import operating
from ros_harness import cloud, exchange
from spvnas_ros.clouds.point_cloud2 import decode

NAMESPACE = os.environ["NAMESPACE"]
FILE = REPOSITORY / "launch" / "segment.launch.py"


def generate_test_description() -> LaunchDescription:
    arguments = {
        "namespace": NAMESPACE,
        "weights": os.environ["WEIGHTS"],
        "params_file": os.environ["PARAMETERS"],
        "points": f"{NAMESPACE}/segmenter/input/points",
        "device": "cpu",
        "autostart": "false",
    }
    source = PythonLaunchDescriptionSource(str(FILE))
    return LaunchDescription(
        [IncludeLaunchDescription(source, launch_arguments=list(arguments.items())), ReadyToTest()]
    )


class TestLaunched(unittest.TestCase):
    def test_the_states_are_walked_and_a_cloud_comes_back_labelled(self) -> None:
        # No handlers of signals: the main thread is launch's, and so are they.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            with operating(NAMESPACE) as operator:
                assert operator.state() == "unconfigured"
                assert operator.change("configure")
                assert operator.state() == "inactive"
                assert operator.change("activate")
                with exchange(NAMESPACE) as asking:
                    labelled = decode(asking.ask(cloud(points=300)).cloud)
                assert len(labelled) == 300
                assert {"x", "intensity", "label", "confidence"} <= set(labelled.dtype.names or ())
                assert operator.change("deactivate")
                assert operator.change("cleanup")
                assert operator.state() == "unconfigured"
        finally:
            rclpy.shutdown()


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    def test_the_node_ends_with_status_0(self, proc_info: Any) -> None:
        assert any("segmenter_node" in name for name in proc_info.process_names())
        assertExitCodes(proc_info)
