"""The segmenter node with a real network: a real bag, and clouds that are none, into one process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

from ros_harness import Process, cloud, exchange, ros_domain, segmenter, weights, with_data
from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.point_cloud2 import decode, to_points
from spvnas_ros.recordings.bags import BagReader
from spvnas_ros.ros.replay.exchange import CloudExchange

__all__ = ["weights"]


class Labelling(NamedTuple):
    """A running node and a way to ask it."""

    process: Process
    exchange: CloudExchange


@pytest.fixture(scope="module")
def labelling(weights: Path) -> Iterator[Labelling]:
    """A node with the narrow network, ready to be asked."""
    with ros_domain() as namespace, segmenter(namespace, weights=weights) as process:
        with exchange(namespace) as asking:
            yield Labelling(process, asking)
        assert process.stop() == 0
        assert "Traceback" not in process.output


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_cloud_of_a_real_bag_comes_back_point_for_point(
    shared: Path, weights: Path, labelling: Labelling, storage: str
) -> None:
    from spvnas_ros.perception import Perception

    perception, intensity = Perception.load(weights), Intensity()
    with BagReader(shared / "data" / "bags" / f"vlp16_pointcloud2_{storage}") as bag:
        clouds = list(bag)
    for recorded in clouds:
        sent = deserialize_message(recorded.raw, PointCloud2)
        came = labelling.exchange.ask(recorded.raw).cloud
        before, after = decode(sent), decode(came)

        assert came.header == sent.header
        assert (came.height, came.width, came.is_dense) == (sent.height, sent.width, sent.is_dense)
        assert after.dtype.names == (*before.dtype.names, "label", "confidence")
        for name in before.dtype.names:
            np.testing.assert_array_equal(after[name], before[name])

        expected = perception(to_points(before, intensity))
        np.testing.assert_array_equal(after["label"], expected.labels)
        np.testing.assert_array_equal(after["confidence"], expected.confidence)
        assert after["label"].max() < 19
        assert after["confidence"].min() > 0
    assert len(clouds) == 4


def test_points_that_are_not_finite_and_empty_clouds_are_answered(labelling: Labelling) -> None:
    values = np.random.default_rng(1).uniform(-9, 9, (60, 4)).astype(np.float32)
    values[::3, 0], values[1::3, 2], values[5, 3] = np.nan, np.inf, np.nan
    points = decode(labelling.exchange.ask(with_data(cloud(60), values.tobytes())).cloud)
    nowhere = ~np.isfinite(values).all(1)
    np.testing.assert_array_equal(points["label"] == 255, nowhere)
    np.testing.assert_array_equal(points["confidence"] == 0, nowhere)
    assert labelling.exchange.ask(cloud(0, stamp=2)).cloud.width == 0


def bad_clouds() -> dict[str, PointCloud2]:
    """By the kind the node must call them."""
    bad = {kind: cloud(stamp=90) for kind in ("short-data", "long-data", "bad-datatype", "field-outside", "no-xyz")}
    with_data(bad["short-data"], b"\0" * 100)
    with_data(bad["long-data"], b"\0" * 5000)
    bad["bad-datatype"].fields[0].datatype = 77
    bad["field-outside"].fields[2].offset = 4_000_000_000
    bad["no-xyz"].fields[1].name = "northing"
    bad["bad-point-step"] = cloud(stamp=90)
    bad["bad-point-step"].point_step = 0
    bad["bad-row-step"] = cloud(stamp=90)
    bad["bad-row-step"].height, bad["bad-row-step"].width, bad["bad-row-step"].row_step = 10, 10, 8
    return bad


def test_points_that_no_network_sees_are_counted_and_cost_the_others_nothing(labelling: Labelling) -> None:
    values = np.random.default_rng(2).uniform(-9, 9, (90, 4)).astype(np.float32)
    values[:, 3] = np.random.default_rng(3).uniform(0, 1, 90)
    asked = decode(labelling.exchange.ask(with_data(cloud(90), values.tobytes())).cloud)
    worse = np.concatenate([values, [[1e6, 0, 0, 0.5], [0, 0, 0, 0], [np.nan, 0, 0, 0], [1, 2, 3, np.inf]]])
    worse = worse.astype(np.float32)
    found = decode(labelling.exchange.ask(with_data(cloud(94, stamp=1), worse.tobytes())).cloud)
    np.testing.assert_array_equal(found["label"], [*asked["label"], 255, 255, 255, 255])
    np.testing.assert_array_equal(found["confidence"], [*asked["confidence"], 0, 0, 0, 0])


def test_bad_clouds_are_named_once_and_survived(labelling: Labelling) -> None:
    bad = bad_clouds()
    for number, (kind, message) in enumerate(bad.items()):
        labelling.exchange.send(message)
        labelling.process.wait_for(rf"skipped a bad cloud \({kind}\)")
        assert labelling.exchange.ask(cloud(50, stamp=number)).cloud.width == 50
    for message in bad.values():
        labelling.exchange.send(message)
    assert labelling.exchange.ask(cloud(60, stamp=100)).cloud.width == 60
    for kind in bad:
        assert len(re.findall(rf"skipped a bad cloud \({kind}\)", labelling.process.output)) == 1
