"""Sensors at any height and tilt: scans for training are upright, bags are as the sensor saw them, boxes stay boxes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from test_simulation_lidar import actor, cuboid, exact, ground, in_world, off_surface, scene
from typer.testing import CliRunner

from spvnas_ros.cli import app
from spvnas_ros.clouds.mount import SENSOR_HEIGHT, Mount, Placement, find_ground
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.errors import UserError
from spvnas_ros.offline.datasets import open_dataset
from spvnas_ros.offline.simulation import drive
from spvnas_ros.offline.simulation.cast import SimulationError
from spvnas_ros.offline.simulation.drive import Plan
from spvnas_ros.offline.simulation.lidar import OUTLIER, Lidar, SimulatedScan
from spvnas_ros.offline.simulation.mounting import MountRange, parse_height
from spvnas_ros.offline.simulation.object_writer import objects_of
from spvnas_ros.offline.simulation.sensors import SENSORS, VLP16, Sensor
from spvnas_ros.offline.training.config import SimulateConfig
from spvnas_ros.offline.training.simulated import folders, make_missing
from spvnas_ros.recordings.bags import BagReader

_FINE = 0.006
"""Float32 at 100 m, and the grain of Embree, metres."""
MOUNTS = st.builds(
    lambda height, tilt, seed: MountRange((height, height), tilt).draw(VLP16, np.random.default_rng(seed)),
    st.floats(0.3, 3.0),
    st.floats(0.0, 8.0),
    st.integers(0, 1000),
)


def driven(mount: Mount, sensor: Sensor, moving: bool = False) -> tuple[Lidar, SimulatedScan]:
    """A box stands or drives 9 m ahead on flat ground."""
    box = actor(lambda t: (9.0 + 8.0 * t * moving, 2.0, 0.0, 0.4), 252 if moving else 10, 3)
    lidar = Lidar(scene(ground(), box), sensor, np.random.default_rng(0), mount)
    return lidar, lidar.scan(0.0, np.random.default_rng(1))


@given(mount=MOUNTS, moving=st.booleans(), deskew=st.booleans())
@settings(max_examples=12, deadline=None)
def test_levelled_scans_stand_on_the_ground_that_networks_know(mount: Mount, moving: bool, deskew: bool) -> None:
    lidar, scan = driven(mount, exact(VLP16, deskew=deskew), moving)
    level = lidar.levelled(scan)
    on_ground = scan.labels == 40
    assert (~on_ground).any()
    assert np.abs(level.points[on_ground, 2] + SENSOR_HEIGHT).max() < _FINE
    for each in (scan, level):
        assert np.abs(in_world(each)[on_ground, 2]).max() < _FINE
        met = lidar.meeting(lidar.scene.actors[0], each, 0.0)
        assert off_surface(in_world(each)[~on_ground], lidar.scene.actors[0].pose(met.moment)).max() < _FINE
        assert met.sensor[2, 3] == pytest.approx(mount.z)
    (x, y, z, *_, yaw) = objects_of(lidar, level, 0.0).boxes[0]
    assert (y, z, yaw) == pytest.approx((2.0, cuboid().vertices[:, 2].max() / 2 - SENSOR_HEIGHT, 0.4), abs=0.01)
    assert x == pytest.approx(lidar.scene.actors[0].pose(met.moment)[0], abs=0.01)


@given(low=st.floats(0.2, 5), high=st.floats(0.2, 5), tilt=st.floats(0, 15), seed=st.integers(0, 99))
def test_mounts_are_drawn_from_their_range(low: float, high: float, tilt: float, seed: int) -> None:
    low, high = sorted((low, high))
    mount = MountRange((low, high), tilt).draw(VLP16, np.random.default_rng(seed))
    assert mount.z is not None
    assert low <= mount.z <= high
    assert np.degrees(np.arccos(min(mount.rotation()[2, 2], 1.0))) <= tilt + 1e-6


@pytest.mark.parametrize("name", SENSORS)
def test_a_low_sensor_sees_the_ground_around_it_and_no_roof_of_a_car(name: str) -> None:
    sensor = replace(exact(SENSORS[name]), body=SENSORS[name].body, body_echo=1.0)
    scans = [driven(Mount(height), sensor)[1] for height in (0.4, 0.9, 1.8)]
    own = [scan.points[scan.labels == OUTLIER] for scan in scans]
    assert all(len(each) for each in (own[0], own[2]))
    assert np.abs(own[0][:, :2]).max() < 0.5
    assert np.abs(own[1][:, :2]).max(initial=0) < 0.5
    assert np.abs(own[2][:, :2]).max() > 1.0
    for scan in scans[:2]:
        bearing = np.arctan2(scan.points[:, 1], scan.points[:, 0])[scan.labels == 40]
        around = np.histogram(bearing, 36, (-np.pi, np.pi))[0]
        assert (around > 0).all()


@pytest.mark.parametrize("text", ["", "high", "1:2:3", "0.05", "2:1", "1:9", "nan"])
def test_heights_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="mount height"):
        MountRange(parse_height(text))


def test_a_tilt_that_makes_no_sense_is_refused() -> None:
    for tilt in (-1.0, 40.0, float("nan")):
        with pytest.raises(UserError, match="mount tilt"):
            Plan(mount_tilt=tilt)


def test_a_share_of_the_streets_has_another_mount() -> None:
    mounts = MountRange((0.4, 0.5), 6, share=0.3)
    drawn = [mounts.draw(VLP16, np.random.default_rng(number)) for number in range(200)]
    usual = [mount for mount in drawn if mount == Mount(VLP16.height)]
    assert 120 <= len(usual) <= 160
    assert all(0.4 <= (mount.z or 0) <= 0.5 for mount in drawn if mount not in usual)
    with pytest.raises(UserError, match="neither a height nor a tilt"):
        Plan(mount_share=0.3)
    with pytest.raises(UserError, match="found the mount share 0"):
        Plan(mount_tilt=1, mount_share=0)


SMALL = ("--sensor", "vlp16", "--scenes", "2", "--scans-per-scene", "1", "--seed", "5", "--kind", "highway")
MOUNTED = (*SMALL, "--mount-height", "0.4:2.6", "--mount-tilt", "6")


def simulate(out: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["simulate", *arguments, "--processes", "1", "--out", str(out)])
    return done.exit_code, done.stderr


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mounted") / "drives"
    assert simulate(out, *MOUNTED, "--format", "semantic-kitti,bag,boxes") == (0, "")
    return out


def told(drives: Path, number: int) -> Mount:
    known = json.loads((drives / "mounts" / f"{number:02d}.json").read_text())
    return Mount(known["z"], known["roll"], known["pitch"], known["yaw"])


def test_each_street_has_its_own_mount_which_is_told(drives: Path) -> None:
    first, second = (told(drives, number) for number in range(2))
    assert first != second
    assert all(0.4 <= (mount.z or 0) <= 2.6 for mount in (first, second))


def test_what_is_trained_on_is_what_the_mount_makes_of_the_bag(drives: Path) -> None:
    dataset = open_dataset(drives)
    for number in range(2):
        with BagReader(drives / "bags" / f"{number:02d}") as bag:
            (cloud,) = [decode(each.decode()) for each in bag]
        raw = np.stack([cloud[name] for name in "xyz"], axis=1).astype(np.float64)
        moved = Placement(mount=told(drives, number)).apply(raw)
        points: npt.NDArray[np.float32] = dataset[number].points
        np.testing.assert_allclose(points[:, :3], moved, atol=1e-4)
        found = find_ground(points[:, :3])
        assert found is not None
        assert (found.height, found.tilt) == (pytest.approx(SENSOR_HEIGHT, abs=0.15), pytest.approx(0, abs=2.0))


def test_the_bag_holds_the_mount(drives: Path) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Reader(drives / "bags" / "01") as reader:
        (static,) = [
            store.deserialize_cdr(raw, c.msgtype) for c, _, raw in reader.messages() if c.topic == "/tf_static"
        ]
    turn, place = static.transforms[0].transform.rotation, static.transforms[0].transform.translation
    mount = told(drives, 1)
    assert place.z == mount.z
    up = np.array([2 * (turn.x * turn.z - turn.w * turn.y), 2 * (turn.y * turn.z + turn.w * turn.x)])
    np.testing.assert_allclose(up, mount.rotation()[2, :2], atol=1e-9)


def test_a_folder_goes_on_with_the_same_mounts_only(drives: Path) -> None:
    before = {path: path.read_bytes() for path in drives.rglob("*") if path.is_file()}
    code, said = simulate(drives, *SMALL, "--format", "semantic-kitti,bag,boxes")
    assert code == 1
    assert "mount_height [0.4, 2.6], now None" in said
    assert simulate(drives, *MOUNTED, "--format", "semantic-kitti,bag,boxes")[0] == 0
    assert before == {path: path.read_bytes() for path in drives.rglob("*") if path.is_file()}


def test_a_recipe_asks_for_mounts() -> None:
    config = SimulateConfig(scenes=2, validation_scenes=1, mount_height=(0.4, 2.6), mount_tilt=6.0)
    assert {(f.plan.mount_height, f.plan.mount_tilt) for f in folders(config)} == {((0.4, 2.6), 6.0)}
    assert not any(f.plan.mounts.moves for f in folders(SimulateConfig(scenes=2)))
    (folder,) = folders(replace(config, validation_scenes=0, mount_share=0.5, boxes=True))
    assert (folder.plan.mount_share, folder.plan.formats) == (0.5, ("semantic-kitti", "boxes"))


def test_finished_drives_of_an_older_simulator_are_trained_on_but_not_those_of_other_mounts(
    drives: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "vlp16" / "train"
    shutil.copytree(drives, folder)
    settings = json.loads((folder / "simulation.json").read_text())
    (folder / "simulation.json").write_text(json.dumps({**settings, "version": 1}))
    config = SimulateConfig(str(tmp_path), ("vlp16",), scenes=2, scans=1, mount_height=(0.4, 2.6), mount_tilt=6.0)
    said: list[str] = []
    make_missing(config, said.append)
    assert said == []
    with pytest.raises(SimulationError, match=r"mount_height \[0.4, 2.6\], now None"):
        make_missing(replace(config, mount_height=(), mount_tilt=0.0), said.append)


def test_a_robot_with_a_low_sensor_drives_on_the_sidewalk_of_every_other_street(tmp_path: Path) -> None:
    plan = Plan("vlp16", 1, kind="urban", seed=8, mount_height=(0.8, 0.8))
    list(drive.simulate(plan, 2, tmp_path / "drives"))
    where = []
    for number in range(2):
        scan = open_dataset(tmp_path / "drives")[number]
        near = scan.labels[np.hypot(scan.points[:, 0], scan.points[:, 1]) < 4.5]
        where.append(int((near == 10).sum()) > int((near == 8).sum()))
    assert where == [True, False]
