"""Start the node that labels clouds.

ros2 launch spvnas_ros segment.launch.py points:=/velodyne_points weights:=spvcnn_w16.safetensors
"""

import os

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription
from spvnas_ros.ros.transport import cloud_transport, share_file

ARGUMENTS = (
    ("points", "/points", "Topic of the clouds (sensor_msgs/PointCloud2)"),
    ("weights", "", "Checkpoint (.safetensors) or name of a fetched model; empty: as in params_file"),
    ("device", "", "auto, cpu, cuda or cuda:N; empty: as in params_file"),
    ("params_file", str(share_file("config/segmenter.param.yaml") or ""), "Parameters of the node (YAML)"),
    ("namespace", "", "Namespace of the node"),
    ("use_sim_time", "false", "Take the time from /clock, as when a bag plays"),
)


def segmenter(context: LaunchContext) -> list[Node]:
    """The node; arguments that were given go before the parameter file."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    overrides = {name: ParameterValue(given[name], value_type=str) for name in ("weights", "device") if given[name]}
    overrides["use_sim_time"] = ParameterValue(given["use_sim_time"], value_type=bool)
    return [
        Node(
            package="spvnas_ros",
            executable="segmenter_node",
            name="segmenter",
            namespace=given["namespace"],
            parameters=[*filter(None, [given["params_file"]]), overrides],
            remappings=[("~/input/points", given["points"])],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Called by launch."""
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value=value, description=text) for name, value, text in ARGUMENTS),
            # Also for the driver, where it is included in the same launch: without it best-effort clouds get lost.
            *(SetEnvironmentVariable(name, value) for name, value in cloud_transport(os.environ).items()),
            OpaqueFunction(function=segmenter),
        ]
    )
