"""`read_points` and `create_cloud`: the meaning of sensor_msgs_py, whether it is installed or not."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")

from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from spvnas_ros.clouds.point_cloud2 import PointCloudError
from spvnas_ros.ros.node.messages import message_bytes
from spvnas_ros.trials import _point_cloud2 as ours
from spvnas_ros.trials import point_cloud2 as chosen

try:
    from sensor_msgs_py import point_cloud2 as theirs
except ImportError:
    theirs = None

VALUES = np.array([(0, 0.5, 1), (2, np.nan, 4), (5, 6, 7), (8, 9, 10), (11, 12, 13), (14, 15, np.nan)], np.float32)


def fields(*described: tuple[str, int, int] | tuple[str, int, int, int]) -> list[PointField]:
    return [
        PointField(name=name, offset=offset, datatype=datatype, count=(*count, 1)[0])
        for name, offset, datatype, *count in described
    ]


XYZ = fields(("x", 0, 7), ("y", 4, 7), ("z", 8, 7))
MIXED = fields(("a", 0, 7), ("b", 4, 8), ("c", 12, 2), ("", 13, 3), ("d", 16, 6, 2))


def mixed_points(count: int = 5) -> np.ndarray:
    dtype = np.dtype(
        {
            "names": ["a", "b", "c", "unnamed_field_3", "d_0", "d_1"],
            "formats": ["<f4", "<f8", "<u1", "<i2", "<u4", "<u4"],
            "offsets": [0, 4, 12, 13, 16, 20],
            "itemsize": 24,
        }
    )
    points = np.zeros(count, dtype)
    for number, name in enumerate(dtype.names or ()):
        points[name] = np.arange(count) * (number + 1)
    return points


def cloud(values: np.ndarray = VALUES, described: list[PointField] = XYZ, **more: Any) -> PointCloud2:
    made: dict[str, Any] = {"height": 1, "width": len(values), "point_step": values.nbytes // len(values)} | more
    return PointCloud2(
        header=Header(frame_id="lidar"), fields=described, data=message_bytes(values), is_dense=False, **made
    )


def rows(points: np.ndarray) -> list[tuple[float, ...]]:
    return [tuple(point) for point in points.reshape(-1).tolist()]


Read = Callable[[ModuleType], np.ndarray]
READS: dict[str, Read] = {
    "everything": lambda m: m.read_points(cloud()),
    "two fields, turned round": lambda m: m.read_points(cloud(), field_names=["z", "x"]),
    "a generator of names": lambda m: m.read_points(cloud(), field_names=["y"]),
    "without NaN": lambda m: m.read_points(cloud(), skip_nans=True),
    "without NaN in one field": lambda m: m.read_points(cloud(), field_names=["z"], skip_nans=True),
    "some points": lambda m: m.read_points(cloud(), uvs=[4, 0, 0]),
    "some points, as an array": lambda m: m.read_points(cloud(), uvs=np.array([3, 1])),
    "some of those without NaN": lambda m: m.read_points(cloud(), skip_nans=True, uvs=[3, 1]),
    "organised, flat": lambda m: m.read_points(cloud(height=2, width=3)),
    "organised, in its shape": lambda m: m.read_points(cloud(height=2, width=3), reshape_organized_cloud=True),
    "one row has no shape": lambda m: m.read_points(cloud(), reshape_organized_cloud=True),
    "padded points": lambda m: m.read_points(cloud(VALUES, XYZ[:2])),
    "mixed types, several values, no name": lambda m: m.read_points(cloud(mixed_points(), MIXED)),
    "big-endian": lambda m: m.read_points(cloud(VALUES.astype(">f4"), is_bigendian=True)),
    "created from tuples": lambda m: m.read_points(m.create_cloud(Header(), XYZ, VALUES.tolist())),
    "created from a plain array": lambda m: m.read_points(m.create_cloud(Header(), XYZ, VALUES)),
    "created from a structured array": lambda m: m.read_points(m.create_cloud(Header(), MIXED, mixed_points())),
    "created organised": lambda m: m.read_points(
        m.create_cloud(Header(), XYZ, VALUES.reshape(3, 2, 3)), reshape_organized_cloud=True
    ),
}
EXPECTED: dict[str, list[tuple[float, ...]]] = {
    "everything": rows(VALUES.view("f4,f4,f4")),
    "two fields, turned round": [(z, x) for x, _, z in VALUES.tolist()],
    "a generator of names": [(y,) for _, y, _ in VALUES.tolist()],
    "without NaN": [p for p in map(tuple, VALUES.tolist()) if not any(np.isnan(p))],
    "without NaN in one field": [(z,) for z in VALUES[:5, 2].tolist()],
    "some points": [tuple(VALUES[i].tolist()) for i in (4, 0, 0)],
    "some points, as an array": [tuple(VALUES[i].tolist()) for i in (3, 1)],
    "some of those without NaN": [tuple(VALUES[i].tolist()) for i in (4, 2)],
    "organised, flat": rows(VALUES.view("f4,f4,f4")),
    "organised, in its shape": rows(VALUES.view("f4,f4,f4")),
    "one row has no shape": rows(VALUES.view("f4,f4,f4")),
    "padded points": [(x, y) for x, y, _ in VALUES.tolist()],
    "mixed types, several values, no name": rows(mixed_points()),
    "big-endian": rows(VALUES.view("f4,f4,f4")),
    "created from tuples": rows(VALUES.view("f4,f4,f4")),
    "created from a plain array": rows(VALUES.view("f4,f4,f4")),
    "created from a structured array": rows(mixed_points()),
    "created organised": rows(VALUES.view("f4,f4,f4")),
}
SHAPES = {"organised, in its shape": (3, 2), "created organised": (3, 2)}


@pytest.mark.parametrize("module", [ours, chosen], ids=["ours", "chosen"])
@pytest.mark.parametrize("what", READS)
def test_points_are_read_as_they_were_written(module: ModuleType, what: str) -> None:
    points = READS[what](module)
    np.testing.assert_equal(rows(points), EXPECTED[what])
    assert points.shape == SHAPES.get(what, (len(EXPECTED[what]),))


@pytest.mark.skipif(
    theirs is None, reason="sensor_msgs_py is not installed (it is not on PyPI): nothing to compare with"
)
@pytest.mark.parametrize("what", READS)
def test_ours_equals_sensor_msgs_py(what: str) -> None:
    assert theirs is not None
    mine, other = READS[what](ours), READS[what](theirs)
    assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
    for name in mine.dtype.names or ():  # what is between the fields is nobody's
        assert mine[name].tobytes() == other[name].tobytes()


@pytest.mark.skipif(
    theirs is None, reason="sensor_msgs_py is not installed (it is not on PyPI): nothing to compare with"
)
@pytest.mark.parametrize(
    "points", [VALUES, VALUES.tolist(), VALUES.reshape(3, 2, 3)], ids=["array", "list", "organised"]
)
def test_our_messages_equal_those_of_sensor_msgs_py(points: Any) -> None:
    assert theirs is not None
    assert ours.create_cloud(Header(), XYZ, points) == theirs.create_cloud(Header(), XYZ, points)


def test_a_created_message_describes_itself() -> None:
    message = ours.create_cloud(Header(frame_id="base"), MIXED, mixed_points(5), point_step=24)
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 5, 24, 120)
    assert (message.is_bigendian, message.is_dense, message.header.frame_id) == (False, False, "base")
    assert message.fields == MIXED
    assert message.data.typecode == "B"
    assert message.data.tobytes() == mixed_points(5).tobytes()


def test_a_point_step_pads_the_points() -> None:
    message = ours.create_cloud(Header(), XYZ, VALUES, point_step=20)
    assert (message.point_step, len(message.data)) == (20, 120)
    np.testing.assert_equal(rows(ours.read_points(message)), EXPECTED["everything"])


def test_an_empty_cloud_is_made_and_read() -> None:
    for nothing in ([], np.empty((0, 3), np.float32)):
        message = ours.create_cloud(Header(), XYZ, nothing)
        assert (message.width, len(message.data)) == (0, 0)
        assert ours.read_points(message).shape == (0,)


def test_a_plain_cloud_is_read_without_a_copy_and_a_big_endian_one_without_a_change() -> None:
    plain = cloud()
    ours.read_points(plain)["x"][0] = 77
    assert np.frombuffer(plain.data, np.float32)[0] == 77
    big = cloud(VALUES.astype(">f4"), is_bigendian=True)
    before = big.data.tobytes()
    ours.read_points(big)
    assert big.data.tobytes() == before


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: ours.read_points(cloud(), field_names=["w"]), "no field w"),
        (lambda: ours.read_points(cloud(width=7)), "7 points of 12 bytes do not fit into 72 bytes"),
        (lambda: ours.read_points(cloud(VALUES, fields(("x", 0, 9)))), "datatype 9"),
        (lambda: ours.read_points(cloud(VALUES, fields(("x", 10, 7)))), "make no point of 12 bytes"),
        (lambda: ours.read_points(cloud(VALUES, [XYZ[0], XYZ[0]])), "make no point"),
        (lambda: ours.create_cloud(Header(), MIXED, VALUES), "structured array"),
        (lambda: ours.create_cloud(Header(), XYZ, mixed_points()), "the fields describe"),
        (lambda: ours.create_cloud(Header(), XYZ, VALUES.reshape(1, 2, 3, 3)), "3 dimensions"),
    ],
)
def test_what_does_not_fit_together_is_refused(call: Callable[[], Any], reason: str) -> None:
    with pytest.raises(PointCloudError, match=reason):
        call()
