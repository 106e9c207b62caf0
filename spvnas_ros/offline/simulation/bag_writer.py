"""Writes a simulated drive as a rosbag2: clouds in the sensor's own scale, `/clock`, `/tf` and `/tf_static`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.stores.ros2_humble import builtin_interfaces__msg__Time as Time
from rosbags.typesys.stores.ros2_humble import geometry_msgs__msg__Quaternion as Quaternion
from rosbags.typesys.stores.ros2_humble import geometry_msgs__msg__Transform as Transform
from rosbags.typesys.stores.ros2_humble import geometry_msgs__msg__TransformStamped as TransformStamped
from rosbags.typesys.stores.ros2_humble import geometry_msgs__msg__Vector3 as Vector3
from rosbags.typesys.stores.ros2_humble import rosgraph_msgs__msg__Clock as Clock
from rosbags.typesys.stores.ros2_humble import std_msgs__msg__Header as Header
from rosbags.typesys.stores.ros2_humble import tf2_msgs__msg__TFMessage as TFMessage

from spvnas_ros.offline.simulation.lidar import Lidar, SimulatedScan
from spvnas_ros.offline.simulation.sensors import Sensor
from spvnas_ros.recordings.bags import BagWriter, cloud_message, encode

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

TOPIC = "/points"
ODOM, BASE, LIDAR = "odom", "base_link", "lidar"
FIELDS = [
    ("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"),
    ("ring", "<u2"), ("label", "<u2"), ("instance", "<u2"), ("time", "<f4"),
]  # fmt: skip
"""Fields of a point. `label` holds SemanticKITTI's raw label, `time` the seconds since the stamp."""
_START = 1_700_000_000 * 10**9
_POSES = 5
"""Number of transforms in a sweep."""


@contextmanager
def drive_writer(path: Path, lidar: Lidar) -> Iterator[Callable[[float, SimulatedScan], None]]:
    """Opens a new mcap bag and yields a function that records a scan, given the second at which its sweep began. The
    bag appears when the block ends.

    Points of sensors that deskew are given for the middle of the sweep. Their stamp is that moment, too, and `time`
    counts from it. Raises BagError where the bag cannot be written.
    """
    sensor = lidar.unit.sensor
    path.parent.mkdir(parents=True, exist_ok=True)
    with BagWriter(path, "mcap", force=True) as bag:  # of a scene that was killed between its formats
        mounted = False

        def write(t: float, scan: SimulatedScan) -> None:
            nonlocal mounted
            begin = _nanoseconds(t)
            if not mounted:
                bag.write(
                    "/tf_static",
                    _encoded(TFMessage([_transform(lidar.unit.mount, begin, BASE, LIDAR)])),
                    begin,
                    TFMessage.__msgtype__,
                )
                mounted = True
            for share in np.linspace(0, 1, _POSES, endpoint=False):
                moment = t + float(share) * sensor.sweep
                stamp = _nanoseconds(moment)
                bag.write("/clock", _encoded(Clock(_time(stamp))), stamp, Clock.__msgtype__)
                odometry = _transform(lidar.scene.ego_pose(moment), stamp, ODOM, BASE)
                bag.write("/tf", _encoded(TFMessage([odometry])), stamp, TFMessage.__msgtype__)
            message = cloud_message(_record(scan, sensor), _nanoseconds(t + sensor.reference), LIDAR)
            bag.write(TOPIC, encode(message), _nanoseconds(t + sensor.sweep))

        yield write


def _record(scan: SimulatedScan, sensor: Sensor) -> npt.NDArray[np.void]:
    record = np.empty(len(scan), FIELDS)
    for column, name in enumerate(("x", "y", "z", "intensity")):
        record[name] = scan.points[:, column]
    record["intensity"] *= sensor.receiver.full_intensity
    record["ring"], record["label"], record["instance"] = scan.ring, scan.labels, scan.instances
    record["time"] = scan.time - np.float32(sensor.reference)
    return record


def _transform(pose: npt.NDArray[np.float64], stamp: int, parent: str, child: str) -> TransformStamped:
    x, y, z, w = _quaternion(pose[:3, :3])
    moved = Vector3(float(pose[0, 3]), float(pose[1, 3]), float(pose[2, 3]))
    return TransformStamped(Header(_time(stamp), parent), child, Transform(moved, Quaternion(x, y, z, w)))


def _quaternion(turn: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Returns x, y, z, w of a rotation matrix: the eigenvector of Bar-Itzhack's symmetric matrix (J. Guidance 23,
    2000).
    """
    (a, b, c), (d, e, f), (g, h, i) = turn
    matrix = np.array(
        [
            [a - e - i, b + d, c + g, h - f],
            [b + d, e - a - i, f + h, c - g],
            [c + g, f + h, i - a - e, d - b],
            [h - f, c - g, d - b, a + e + i],
        ]
    )
    values = np.linalg.eigh(matrix)[1][:, -1]
    x, y, z, w = (values if values[3] >= 0 else -values).tolist()
    return x, y, z, w


def _nanoseconds(t: float) -> int:
    return _START + round(t * 1e9)


def _time(stamp: int) -> Time:
    return Time(stamp // 10**9, stamp % 10**9)


def _encoded(message: Any) -> bytes:
    return bytes(_typestore().serialize_cdr(message, message.__msgtype__))


@cache
def _typestore() -> Typestore:
    return get_typestore(Stores.ROS2_HUMBLE)
