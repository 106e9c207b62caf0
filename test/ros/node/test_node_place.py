"""Where the network sees clouds of another mount or frame, while what is published keeps its coordinates."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from places import HELPERS

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from sensor_msgs.msg import PointCloud2, PointField

from moving_sensor import MOUNT, vehicle
from ros_harness import Process, cloud, eventually, exchange, ros, segmenter_with, with_data
from spvnas_ros.clouds.mount import SENSOR_HEIGHT, Mount, Placement
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.ros.replay.exchange import CloudExchange

__all__ = ["ros"]  # fixture

COUNT = 50
ROWS = np.random.default_rng(5).uniform((-30, -30, -2, 0), (30, 30, 3, 1), (COUNT, 4))

with_tf = pytest.mark.skipif(
    find_spec("tf2_msgs") is None,
    reason="tf2_msgs is not there; python -m spvnas_ros.ros.build_messages builds it",
)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the perception `recording` writes what it is given."""
    monkeypatch.setenv("RECORDED", str(tmp_path))
    return tmp_path


def message(rows: np.ndarray, seconds: float = 1.0, frame: str = "lidar") -> PointCloud2:
    """x, y, z as float64 and intensity as float32."""
    layout = np.dtype([("x", "f8"), ("y", "f8"), ("z", "f8"), ("intensity", "f4")])
    record = np.empty(len(rows), layout)
    for column, name in enumerate(layout.names or ()):
        record[name] = rows[:, column]
    sent = cloud(len(rows))
    kinds = {"f8": PointField.FLOAT64, "f4": PointField.FLOAT32}
    sent.fields = [
        PointField(name=name, offset=layout.fields[name][1], datatype=kinds[layout[name].str[1:]], count=1)
        for name in layout.names or ()
    ]
    sent.point_step, sent.row_step = layout.itemsize, layout.itemsize * len(rows)
    sent.header.frame_id = frame
    sent.header.stamp.sec, sent.header.stamp.nanosec = int(seconds), round(seconds % 1 * 1e9)
    return with_data(sent, record.tobytes())


def ask(asking: CloudExchange, recorded: Path, sent: PointCloud2) -> np.ndarray:
    """What the network was given for a cloud, which comes back as it was sent."""
    came = decode(asking.ask(sent).cloud)
    for name in ("x", "y", "z", "intensity"):
        np.testing.assert_array_equal(came[name], decode(sent)[name])
    return np.load(max(recorded.iterdir(), key=lambda file: int(file.stem)))


def test_a_mount_moves_what_the_network_sees_and_nothing_else(ros: str, recorded: Path) -> None:
    parameters = {"mount.z": 0.5, "mount.pitch": 8, "mount.yaw": 90.0}
    with segmenter_with(ros, "recording", **parameters) as process, exchange(ros) as asking:
        seen = ask(asking, recorded, message(ROWS))
        expected = Placement(mount=Mount(0.5, 0, 8, 90)).apply(ROWS[:, :3])
        np.testing.assert_allclose(seen[:, :3], expected, atol=1e-5)
        np.testing.assert_allclose(seen[:, 3], ROWS[:, 3], atol=1e-6)
        assert process.stop() == 0


def test_an_origin_is_subtracted_before_the_cast_to_float32(ros: str, recorded: Path) -> None:
    utm = ROWS + np.array([458_123.25, 5_428_321.5, 120, 0])
    with segmenter_with(ros, "recording", origin="458123.25,5428321.5,120") as process, exchange(ros) as asking:
        np.testing.assert_allclose(ask(asking, recorded, message(utm))[:, :3], ROWS[:, :3], atol=1e-5)
        assert process.stop() == 0


@with_tf
def test_a_target_frame_is_asked_of_tf_at_each_stamp_or_once_where_it_is_static(ros: str, recorded: Path) -> None:
    sensor = Process(sys.executable, str(HELPERS / "moving_sensor.py"))
    parameters = {"target_frame": "odom", "mount.z": 0}
    with sensor, segmenter_with(ros, "recording", **parameters) as process, exchange(ros) as asking:
        # TF needs a moment; clouds before it are skipped.
        assert eventually(lambda: asking.send(message(ROWS, 100.1)) or bool(list(recorded.iterdir())))
        for seconds in (100.27, 102.5):
            seen = ask(asking, recorded, message(ROWS, seconds))
            expected = (vehicle(seconds) @ MOUNT).apply(ROWS[:, :3]) - [0, 0, SENSOR_HEIGHT]
            np.testing.assert_allclose(seen[:, :3], expected, atol=1e-4)
        assert process.stop() == 0


@with_tf
def test_a_frame_that_tf_does_not_know_is_told_once_and_the_node_lives_on(ros: str, recorded: Path) -> None:
    with segmenter_with(ros, "recording", target_frame="velodyne") as process, exchange(ros) as asking:
        for _ in range(3):
            asking.send(message(ROWS))
            process.wait_for(r"skipped a bad cloud \(no-transform\): no transform from 'lidar' to target_frame")
        seen = ask(asking, recorded, message(ROWS, frame="velodyne"))
        np.testing.assert_allclose(seen[:, :3], ROWS[:, :3], atol=1e-6)
        assert process.stop() == 0
        assert process.output.count("skipped a bad cloud (no-transform)") == 1
