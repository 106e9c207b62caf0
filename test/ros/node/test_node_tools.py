"""What comes with the node: transport, worker, bag player, overhead measurement."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Semaphore, active_count
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

from driver_messages import plain, write
from ros_harness import Process, collect, private_domain, ros, weights
from spvnas_ros.offline.simulation.drive import Plan, simulate
from spvnas_ros.recordings.bags import BagReader
from spvnas_ros.ros.node.worker import LatestWorker
from spvnas_ros.ros.process.lifetime import spinning
from spvnas_ros.ros.process.transport import cloud_transport, share_file
from spvnas_ros.trials.overhead import measure

__all__ = ["ros", "weights"]  # fixtures


# -- transport --------------------------------------------------------------------------------------------------------


def test_the_transport_profile_is_found_and_holds_clouds() -> None:
    variables = cloud_transport({})
    profile = ElementTree.parse(variables["FASTDDS_DEFAULT_PROFILES_FILE"])
    size = profile.findtext(".//{*}segment_size")
    assert size is not None
    assert int(size) >= 64 << 20
    assert {kind.text for kind in profile.iterfind(".//{*}transport_descriptor/{*}type")} == {"SHM", "UDPv4"}


def test_a_distribution_before_kilted_gets_the_variable_it_knows() -> None:
    assert list(cloud_transport({"ROS_DISTRO": "humble"})) == ["FASTRTPS_DEFAULT_PROFILES_FILE"]
    assert list(cloud_transport({"ROS_DISTRO": "kilted"})) == ["FASTDDS_DEFAULT_PROFILES_FILE"]


@pytest.mark.parametrize(
    "variable",
    ["FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"],
)
def test_whoever_chose_transports_keeps_them(variable: str) -> None:
    assert cloud_transport({variable: "mine"}) == {}


def test_shared_files_are_found_in_a_ros_workspace_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "share" / "spvnas_ros" / "config" / "only_here.yaml"
    file.parent.mkdir(parents=True)
    file.touch()
    assert share_file("config/only_here.yaml") is None
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/elsewhere:{tmp_path}")
    assert share_file("config/only_here.yaml") == file


# -- worker -----------------------------------------------------------------------------------------------------------


def test_the_worker_takes_the_newest_and_lets_the_rest_go() -> None:
    entered, opened, done = Semaphore(0), Semaphore(0), []

    def handle(item: int) -> None:
        entered.release()
        assert opened.acquire(timeout=60)
        done.append(item)

    worker = LatestWorker(handle, "test")
    assert not worker.put(1)
    assert entered.acquire(timeout=60)
    assert [worker.put(item) for item in (2, 3, 4)] == [False, True, True]
    opened.release(2)
    assert entered.acquire(timeout=60)
    assert not worker.stop()
    assert done == [1, 4]


def test_stopping_the_worker_finishes_the_item_in_work_and_drops_the_one_that_waits() -> None:
    before = active_count()
    entered, opened, done = Event(), Event(), []

    def handle(item: int) -> None:
        entered.set()
        assert opened.wait(60)
        done.append(item)

    worker = LatestWorker(handle, "test")
    worker.put(1)
    assert entered.wait(60)
    worker.put(2)
    opened.set()
    dropped = worker.stop()
    assert done == ([1] if dropped else [1, 2])
    assert active_count() == before


# -- bag player -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_the_player_publishes_every_cloud_as_it_was_recorded(shared: Path, ros: str, storage: str) -> None:
    bag = shared / "data" / "bags" / f"vlp16_pointcloud2_{storage}"
    node = Node("listener")
    collector = collect(node, f"{ros}/points", QoSProfile(depth=10))
    command = [sys.executable, "-m", "spvnas_ros.ros.replay.bag_player", str(bag), "--rate", "4", "--wait", "60"]
    with spinning(node), Process(*command, "--ros-args", "-r", f"/velodyne_points:={ros}/points") as player:
        collector.wait_until(lambda clouds: len(clouds) == 4)
        assert player.wait() == 0, player.output
    with BagReader(bag) as reader:
        recorded = [deserialize_message(cloud.raw, PointCloud2) for cloud in reader]
    assert collector.clouds == recorded
    assert "played 4 messages" in player.output


def test_a_looping_player_begins_again_until_it_is_stopped(shared: Path, ros: str) -> None:
    bag = shared / "data" / "bags" / "vlp16_pointcloud2_mcap"
    node = Node("listener")
    collector = collect(node, f"{ros}/points", QoSProfile(depth=10))
    command = [
        sys.executable,
        "-m",
        "spvnas_ros.ros.replay.bag_player",
        str(bag),
        "--rate",
        "20",
        "--loop",
        "--wait",
        "60",
    ]
    with spinning(node), Process(*command, "--ros-args", "-r", f"/velodyne_points:={ros}/points") as player:
        collector.wait_until(lambda clouds: len(clouds) >= 6)
        assert player.stop() == 0, player.output
    assert collector.clouds[4] == collector.clouds[0]


def test_static_transforms_of_a_bag_are_latched_whatever_it_says(tmp_path: Path, ros: str) -> None:
    """A simulated drive says nothing of how they were published, and listeners of them ask for it."""
    messages = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not built: make messages")
    plan = Plan("vlp16", 1, seed=5, formats=("bag",))
    assert [done.scans for done in simulate(plan, 1, tmp_path)] == [1]
    node = Node("listener")
    qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    heard: SimpleQueue[Any] = SimpleQueue()
    node.create_subscription(messages.TFMessage, f"{ros}/tf_static", heard.put, qos)
    command = [sys.executable, "-m", "spvnas_ros.ros.replay.bag_player", str(tmp_path / "bags" / "00"), "--wait", "60"]
    with spinning(node), Process(*command, "--ros-args", "-r", f"/tf_static:={ros}/tf_static"):
        assert heard.get(timeout=60).transforms[0].child_frame_id == "lidar"


def test_a_bag_that_cannot_be_played_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metadata.yaml").write_text("rosbag2_bagfile_information: 3")
    with Process(sys.executable, "-m", "spvnas_ros.ros.replay.bag_player", str(tmp_path / "broken")) as player:
        assert player.wait() == 1
    assert "broken cannot be read as a rosbag2" in player.output
    assert "Traceback" not in player.output


def test_a_bag_of_ros_1_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    bag = write(tmp_path / "old.bag", True, "sensor_msgs/msg/PointCloud2", plain)
    with Process(sys.executable, "-m", "spvnas_ros.ros.replay.bag_player", str(bag)) as player:
        assert player.wait() == 1
    assert f"rosbags-convert --src {bag} --dst {bag.with_suffix('')}" in player.output


# -- overhead ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def domain() -> Iterator[None]:
    """Only the environment: the measurement brings its own ROS."""
    with private_domain():
        yield


@pytest.mark.usefixtures("domain")
def test_the_middleware_costs_little_at_120_000_points(capsys: pytest.CaptureFixture[str]) -> None:
    overhead = measure(points=120_000, clouds=20)
    with capsys.disabled():
        print(f"\n{overhead}")
    # On a quiet machine it is a tenth of that (python -m spvnas_ros.trials.overhead); this one may be busy.
    assert overhead.sum.p50 < 150
    assert overhead.clouds == 20
