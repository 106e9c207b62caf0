"""Describes what the launch files start: arguments, and processes as data. It imports neither launch nor rclpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spvnas_ros.errors import UserError
from spvnas_ros.ros.process.transport import PACKAGE, share_file

RVIZ_CONFIG = "rviz/segment.rviz"
NODE = "segmenter"

_RVIZ_POINTS = "/points"
_RVIZ_OUTPUTS = ("colored_points", "labeled_points", "filtered_points", "object_markers")
"""Topics that the RViz configuration shows."""

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class LaunchArgumentError(UserError):
    """A launch argument cannot be used. The message says which values can."""


@dataclass(frozen=True)
class Argument:
    """An argument of a launch file: its name, its default and a text that says what it is for."""

    name: str
    default: str
    text: str


@dataclass(frozen=True)
class Started:
    """A program of a ROS package, and how it is started.

    arguments:       command-line arguments before the ROS arguments
    parameter_files: files of parameters; `parameters` overrides them
    parameters:      values by name, of the types that the parameters are declared with
    remappings:      pairs of topics, from and to
    """

    package: str
    executable: str
    name: str | None = None
    namespace: str = ""
    arguments: tuple[str, ...] = ()
    parameter_files: tuple[str, ...] = ()
    parameters: Mapping[str, str | bool] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()


def segment_arguments() -> tuple[Argument, ...]:
    """Returns the arguments of segment.launch.py."""
    return (
        Argument("points", "/points", "Topic of the clouds (PointCloud2, compressed clouds, Livox's CustomMsg)"),
        Argument(
            "weights",
            "",
            "Checkpoint (.safetensors), name of a fetched model, or default; empty: as in params_file, "
            "and default where that has none",
        ),
        Argument("device", "", "auto, cpu, cuda or cuda:N; empty: as in params_file"),
        Argument("precision", "", "auto, fp32, int16 (CPU), fp16 or bf16 (CUDA); empty: as in params_file"),
        Argument("autostart", "", "Whether the node configures and activates itself; empty: as in params_file"),
        Argument("track", "", "Whether objects are followed and have ids (objects.track); empty: as in params_file"),
        Argument("params_file", str(share_file("config/segmenter.param.yaml") or ""), "Parameters of the node (YAML)"),
        Argument("namespace", "", "Namespace of the node"),
        Argument("rviz", "false", "Open RViz on the coloured clouds and the objects"),
        Argument("use_sim_time", "false", "Take the time from /clock; with bag:=, the bag gives it"),
        Argument("bag", "", "A rosbag2 to play once the node is active; empty: none"),
        Argument("rate", "1.0", "Times as fast as recorded, for bag"),
    )


def replay_arguments() -> tuple[Argument, ...]:
    """Returns the arguments of replay.launch.py."""
    return (
        Argument("bag", "", "The rosbag2 to evaluate: its folder, or an .mcap or .db3 file"),
        Argument("weights", "default", "Checkpoint (.safetensors), name of a fetched model, or default"),
        Argument("out", "runs/replay", "Folder for report.json"),
        Argument("rate", "1.0", "Times as fast as recorded"),
        Argument("device", "auto", "auto, cpu, cuda or cuda:N"),
        Argument("engine", "auto", "auto, cpu, cuda or torch; or an installed spconv, spconv-triton, torchsparse"),
        Argument("precision", "auto", "auto, fp32, int16 (CPU), fp16 or bf16 (CUDA)"),
        Argument("intensity", "auto", "Scale of the intensities, as the node's parameter"),
        Argument("intensity_field", "", "The field that holds them; empty: a known name"),
        Argument("origin", "", "The sensor's place in the clouds' frame: x,y,z or auto; empty: its origin"),
        Argument("mount", "", "z=,roll=,pitch=,yaw= of the clouds' frame, or auto; empty: as the network knows it"),
        Argument("topic", "", "The clouds' topic, where the bag has several"),
        Argument("truth", "", "A field of the clouds, or a folder of SemanticKITTI's .label files; empty: none"),
        Argument("label_ids", "", "What the field holds: raw, class or auto; empty: auto"),
        Argument("network_labels", "false", "Take labels that a network wrote into the field for the truth"),
    )


def segmenter(given: Mapping[str, str]) -> Started:
    """Returns the node. An empty argument leaves the value of the parameter file. Raises LaunchArgumentError."""
    own = ("weights", "device", "precision")
    parameters: dict[str, str | bool] = {name: given[name] for name in own if given[name]}
    parameters |= {name: flag(given, name) for name in ("autostart", "use_sim_time") if given[name]}
    if given["track"]:
        parameters["objects.track"] = flag(given, "track")
    return Started(
        PACKAGE,
        "segmenter_node",
        name=NODE,
        namespace=given["namespace"],
        parameter_files=(given["params_file"],) if given["params_file"] else (),
        parameters=parameters,
        remappings=(("~/input/points", given["points"]),),
    )


def player(given: Mapping[str, str]) -> Started | None:
    """Returns the bag player, or None where no bag is given. Raises LaunchArgumentError."""
    if not given["bag"]:
        return None
    clock = ("--clock",) if flag(given, "use_sim_time") else ()
    return Started(PACKAGE, "bag_player", arguments=(given["bag"], "--rate", _rate(given), *clock))


def viewer(given: Mapping[str, str]) -> Started | None:
    """Returns RViz, or None where it is not wanted.

    Raises LaunchArgumentError, also where the RViz configuration is not installed.
    """
    if not flag(given, "rviz"):
        return None
    config = share_file(RVIZ_CONFIG)
    if config is None:
        raise LaunchArgumentError(f"rviz:=true, but {RVIZ_CONFIG} is not installed with {PACKAGE}; install it again")
    namespace = given["namespace"].strip("/")
    remappings = [(_RVIZ_POINTS, given["points"])] if given["points"] != _RVIZ_POINTS else []
    if namespace:
        topics = [f"/{NODE}/output/{name}" for name in _RVIZ_OUTPUTS]
        remappings += [(topic, f"/{namespace}{topic}") for topic in topics]
    return Started(
        "rviz2",
        "rviz2",
        name="rviz2",
        arguments=("-d", str(config)),
        parameters={"use_sim_time": flag(given, "use_sim_time")},
        remappings=tuple(remappings),
    )


def replay(given: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the arguments of `spvnas` that evaluate a bag in real time. Raises LaunchArgumentError."""
    if not given["bag"]:
        raise LaunchArgumentError("bag is missing; add bag:=...")
    command = ["replay", given["bag"], "--force", "--rate", _rate(given)]
    for name in (
        "weights",
        "out",
        "device",
        "engine",
        "precision",
        "intensity",
        "intensity_field",
        "origin",
        "mount",
        "topic",
        "truth",
        "label_ids",
    ):
        if given[name]:
            command += [f"--{name.replace('_', '-')}", given[name]]
    if flag(given, "network_labels"):
        command.append("--network-labels")
    return tuple(command)


def flag(given: Mapping[str, str], name: str) -> bool:
    """Returns the value of a true-or-false argument. Raises LaunchArgumentError for any other value."""
    text = given[name].strip().lower()
    if text not in _TRUE + _FALSE:
        raise LaunchArgumentError(f"{name} is {given[name]!r}, expected true or false")
    return text in _TRUE


def _rate(given: Mapping[str, str]) -> str:
    try:
        valid = 0 < float(given["rate"]) < float("inf")
    except ValueError:
        valid = False
    if not valid:
        raise LaunchArgumentError(f"rate is {given['rate']!r}, expected a number above 0")
    return given["rate"]
