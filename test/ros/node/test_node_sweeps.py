"""Earlier clouds through TF: a sensor that moves through a scene that stands still, as the network sees it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from places import HELPERS

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not there; python -m spvnas_ros.ros.build_messages builds it")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from moving_sensor import MOUNT, vehicle
from ros_harness import Process, cloud, eventually, exchange, ros, segmenter_with, with_data
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.ros.node.parameters import PARAMETERS
from spvnas_ros.ros.node.sweeps import SweepRules
from spvnas_ros.ros.process.lifetime import spinning
from spvnas_ros.ros.replay.exchange import CloudExchange

__all__ = ["ros"]  # fixture

COUNT = 40
SCENE = np.random.default_rng(3).uniform((40, -30, 0), (90, 30, 5), (COUNT, 3))
"""In odom."""


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the perception `recording` writes what it is given."""
    monkeypatch.setenv("RECORDED", str(tmp_path))
    return tmp_path


def moving_sensor() -> Process:
    return Process(sys.executable, str(HELPERS / "moving_sensor.py"))


def lidar(seconds: float) -> np.ndarray:
    """The scene in the sensor's frame, `[COUNT, 3]`."""
    return (vehicle(seconds) @ MOUNT).inverse().apply(SCENE)


def scan(seconds: float, intensity: float = 0.5, ego: int = 0) -> PointCloud2:
    """What the sensor sees at a stamp, with some points of its own vehicle behind the others."""
    rows = np.full((COUNT + ego, 4), intensity, np.float32)
    rows[:COUNT, :3], rows[COUNT:, :3] = lidar(seconds), (-1.0, 0.5, -0.5)
    message = with_data(cloud(COUNT + ego), rows.tobytes())
    message.header.stamp.sec, message.header.stamp.nanosec = int(seconds), round(seconds % 1 * 1e9)
    return message


def ask(asking: CloudExchange, recorded: Path, sent: PointCloud2) -> np.ndarray:
    """What the network was given for a cloud, whose own points come back labelled in their order, and they alone."""
    before = set(recorded.iterdir())
    came = asking.ask(sent).cloud
    points = decode(came)
    assert came.header == sent.header
    np.testing.assert_array_equal(points["label"], np.arange(sent.width) % 19)
    for name in ("x", "y", "z", "intensity"):
        np.testing.assert_array_equal(points[name], decode(sent)[name])
    (new,) = set(recorded.iterdir()) - before
    return np.load(new)


def test_the_network_sees_earlier_points_where_they_are_now(ros: str, recorded: Path) -> None:
    parameters = {"sweeps.count": 2, "sweeps.timeout": 10.0, "sweeps.ego_radius": 2.5, "crop_box.min_z": -50.0}
    with moving_sensor(), segmenter_with(ros, "recording", **parameters) as process, exchange(ros) as asking:
        first = ask(asking, recorded, scan(100.27, 0.1, ego=5))
        assert len(first) == COUNT + 5

        # Waits for TF, which nobody has received so far.
        second = ask(asking, recorded, scan(101.33, 0.2, ego=3))
        assert len(second) == COUNT + 3 + COUNT, "without the earlier ego points"
        third = ask(asking, recorded, scan(102.5, 0.3))
        assert len(third) == 3 * COUNT
        np.testing.assert_allclose(second[COUNT + 3 :, :3], lidar(101.33), atol=3e-3)
        np.testing.assert_allclose(third[:, :3], np.tile(lidar(102.5), (3, 1)), atol=3e-3)
        np.testing.assert_allclose(third[:, 3], np.repeat([0.3, 0.2, 0.1], COUNT), atol=1e-6)
        assert len(ask(asking, recorded, scan(102.9))) == 3 * COUNT, "no more than two earlier clouds"

        assert len(ask(asking, recorded, scan(101.0))) == COUNT, "the stamps jumped back"
        process.wait_for("time jumped back")
        after = ask(asking, recorded, scan(101.4))
        np.testing.assert_allclose(after[:, :3], np.tile(lidar(101.4), (2, 1)), atol=3e-3)
        assert process.stop() == 0
        assert "labelled without" not in process.output


def test_without_tf_each_cloud_is_labelled_alone_with_one_warning_and_counted(ros: str, recorded: Path) -> None:
    listener = Node("listener")
    counted: list[str] = []

    def keep(array: DiagnosticArray) -> None:
        counted.extend(value.value for s in array.status for value in s.values if value.key == "without earlier sweeps")

    listener.create_subscription(DiagnosticArray, "/diagnostics", keep, 10)
    parameters = {"sweeps.count": 1, "sweeps.timeout": 0.05}
    with (
        spinning(listener),
        segmenter_with(ros, "recording", **parameters) as process,
        exchange(ros) as asking,
    ):
        for number in range(4):
            assert len(ask(asking, recorded, scan(100 + number))) == COUNT
        process.wait_for("labelled without the earlier sweeps: .*lidar.*odom")
        assert eventually(lambda: bool(counted) and counted[-1] == "3")
        assert process.stop() == 0
        assert process.output.count("labelled without") == 1


def test_only_a_node_with_sweeps_listens_to_tf(ros: str, recorded: Path) -> None:
    listener = Node("listener")
    with spinning(listener):
        with segmenter_with(ros, "recording") as process, exchange(ros) as asking:
            for seconds in (100.0, 100.5):
                assert len(ask(asking, recorded, scan(seconds))) == COUNT
            assert [listener.count_subscribers(topic) for topic in ("/tf", "/tf_static")] == [0, 0]
            assert process.stop() == 0
        with segmenter_with(ros, "recording", **{"sweeps.count": 1}) as process, exchange(ros):
            assert eventually(lambda: [listener.count_subscribers(t) for t in ("/tf", "/tf_static")] == [1, 1])
            assert process.stop() == 0


def test_a_clock_that_jumps_back_forgets_the_earlier_clouds(ros: str, recorded: Path) -> None:
    listener = Node("listener")
    clock = listener.create_publisher(Clock, "/clock", 10)

    def show(seconds: int) -> None:
        message = Clock()
        message.clock.sec = seconds
        clock.publish(message)

    parameters = {"sweeps.count": 1, "sweeps.timeout": 10.0, "use_sim_time": True}
    with (
        spinning(listener),
        moving_sensor(),
        segmenter_with(ros, "recording", **parameters) as process,
        exchange(ros) as asking,
    ):
        assert eventually(lambda: clock.get_subscription_count() == 1)
        show(200)
        ask(asking, recorded, scan(100.2))
        assert len(ask(asking, recorded, scan(100.5))) == 2 * COUNT
        show(100)
        process.wait_for("time jumped back")
        assert len(ask(asking, recorded, scan(100.6))) == COUNT
        assert len(ask(asking, recorded, scan(100.7))) == 2 * COUNT
        assert process.stop() == 0


def test_a_cloud_that_fails_with_the_earlier_ones_does_not_cost_the_next(ros: str) -> None:
    parameters = {"sweeps.count": 1, "sweeps.fixed_frame": "lidar", "sweeps.ego_radius": 0.0}
    with segmenter_with(ros, "failing", **parameters) as process, exchange(ros) as asking:
        assert asking.ask(cloud(6, stamp=1)).cloud.width == 6
        asking.send(cloud(7, stamp=2))
        process.wait_for("RuntimeError: thirteen points")
        assert asking.ask(cloud(7, stamp=3)).cloud.width == 7
        assert process.stop() == 0


def test_sweeps_without_anything_that_hears_tf_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {name: entry.default for name, entry in PARAMETERS.items()} | {"sweeps.count": 3}
    assert SweepRules.of(values).count == 3
    with pytest.raises(ValueError, match=r"sweeps\.fixed_frame must be a frame's name .* found '/odom'"):
        SweepRules.of(values | {"sweeps.fixed_frame": "/odom"})
    for name in ("tf2_ros", "tf2_msgs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"sweeps\.count must be 0 here, found 3: .*build_messages builds tf2_msgs"):
        SweepRules.of(values)
    assert SweepRules.of(values | {"sweeps.count": 0}).count == 0
