"""The demo's street looks to a network like what a LiDAR returns, and is the same every time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.engine.sample_street import BEAMS, TOPIC, street_scan, write_drive_bag
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.recordings.bags import BagError, BagReader
from spvnas_ros.recordings.scans import open_source

CLASS = {name: index for index, name in enumerate(SEMANTIC_KITTI.classes)}


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), beams=st.sampled_from(sorted(BEAMS)), position=st.floats(-1e4, 1e4))
def test_every_scan_is_what_its_sensor_could_return(seed: int, beams: int, position: float) -> None:
    points, labels = street_scan(seed, beams, 180, position)
    assert (points.dtype, labels.dtype) == (np.float32, np.uint8)
    assert points.shape == (len(labels), 4)
    assert 0.5 * beams * 180 < len(points) <= beams * 180
    assert np.isfinite(points).all()
    assert labels.max() < len(SEMANTIC_KITTI.classes)
    assert 0 <= points[:, 3].min() <= points[:, 3].max() <= 1
    distance = np.linalg.norm(points[:, :3], axis=1)
    assert 0.5 < distance.min() < distance.max() < 81
    elevation = np.degrees(np.arcsin(points[:, 2] / distance))
    highest, lowest = BEAMS[beams]
    assert lowest - 0.1 < elevation.min() < elevation.max() < highest + 0.1
    assert points[:, 2].min() > -2.0  # nothing lies under the road


def test_the_ground_is_where_its_class_says() -> None:
    points, labels = street_scan(0)
    road, sidewalk = points[labels == CLASS["road"]], points[labels == CLASS["sidewalk"]]
    assert np.abs(road[:, 1]).max() < 4.2
    assert np.median(road[:, 2]) == pytest.approx(-1.73, abs=0.03)
    assert np.median(sidewalk[:, 2]) == pytest.approx(-1.61, abs=0.03)
    assert np.abs(points[labels == CLASS["building"], 1]).min() > 10


def test_a_street_has_the_common_classes() -> None:
    labels = np.concatenate([street_scan(0, position=20.0 * step)[1] for step in range(4)])
    shares = np.bincount(labels, minlength=19) / len(labels)
    for name in ("road", "sidewalk", "building", "car", "vegetation", "terrain"):
        assert shares[CLASS[name]] > 0.01, name
    for name in ("trunk", "pole", "fence", "person", "traffic-sign"):
        assert shares[CLASS[name]] > 0.0001, name


def test_the_same_arguments_give_the_same_scan_and_others_another() -> None:
    points, labels = street_scan(5, 16, 360, 7.0)
    again, labels_again = street_scan(5, 16, 360, 7.0)
    np.testing.assert_array_equal(points, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert not np.array_equal(street_scan(6, 16, 360, 7.0)[0], points)


def walls(position: float) -> set[tuple[int, int]]:
    """Square metres of the street, around x = 20, in which a wall on the left is seen."""
    points, labels = street_scan(1, position=position)
    x, y = points[:, 0] + position, points[:, 1]
    chosen = (labels == CLASS["building"]) & (y > 0) & (np.abs(x - 20) < 20)
    return set(zip(np.rint(x[chosen]).tolist(), np.rint(y[chosen]).tolist(), strict=True))


def test_the_street_stands_still_while_the_sensor_moves() -> None:
    before, after = walls(0.0), walls(6.0)
    assert len(before & after) > 0.6 * len(before) > 10


def test_a_scan_takes_less_than_a_second() -> None:
    street_scan(0)
    start = time.process_time()
    street_scan(0, position=1.0)
    assert time.process_time() - start < 0.5  # measured 0.06


def test_an_unknown_sensor_is_named() -> None:
    with pytest.raises(ValueError, match="found 48 beams"):
        street_scan(0, beams=48)


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_drive_is_a_bag_like_a_drivers(tmp_path: Path, storage: str) -> None:
    write_drive_bag(tmp_path / "drive", 3, seed=2, beams=16, columns=360, storage=storage)
    with BagReader(tmp_path / "drive") as bag:
        assert (bag.topic, bag.storage, len(bag)) == (TOPIC, storage, 3)
        clouds = [(recorded.stamp, recorded.decode()) for recorded in bag]
    stamps = [stamp for stamp, _ in clouds]
    assert np.diff(stamps).tolist() == [10**8, 10**8]
    for stamp, cloud in clouds:
        assert cloud.header.frame_id == "lidar"
        assert cloud.header.stamp.sec * 10**9 + cloud.header.stamp.nanosec == stamp
        points = decode(cloud)
        assert points.dtype.names == ("x", "y", "z", "intensity", "ring")
        elevation = np.arctan2(points["z"], np.hypot(points["x"], points["y"]))
        assert set(np.unique(points["ring"])) <= set(range(16))
        assert np.abs(np.degrees(elevation) - (15 - 2.0 * points["ring"])).max() < 0.01
    with open_source(tmp_path / "drive") as source:
        expected = [street_scan(2, 16, 360, float(step))[0] for step in range(3)]
        for frame, points in zip(source, expected, strict=True):
            np.testing.assert_array_equal(frame.load().points, points)
    with pytest.raises(BagError, match="exists already"):
        write_drive_bag(tmp_path / "drive", 1)
