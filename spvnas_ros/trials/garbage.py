"""Clouds as broken drivers send them: what a message can say, and does not mean."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np
from sensor_msgs.msg import PointCloud2

from spvnas_ros.trials.plain import plain_cloud

FRAME = "garbage"

_NUMBERS = (0, 1, 2, 3, 7, 15, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
_NAMES = ("x", "y", "z", "intensity", "label", "confidence", "", "ä", "x y", "a" * 300)
_MOST_POINTS = 200


def garbage_cloud(rng: np.random.Generator) -> PointCloud2:
    """A small cloud with one to four things changed. The same state of `rng` gives the same."""
    cloud = plain_cloud(rng, int(rng.integers(_MOST_POINTS + 1)), FRAME)
    for which in rng.integers(len(_CHANGES), size=rng.integers(1, 5)):
        _CHANGES[which](cloud, rng)
    return cloud


def _number(rng: np.random.Generator, most: int = 2**32 - 1) -> int:
    return min(int(rng.choice(_NUMBERS)) if rng.random() < 0.7 else int(rng.integers(100)), most)


def _set_number(name: str) -> Callable[[PointCloud2, np.random.Generator], None]:
    return lambda cloud, rng: setattr(cloud, name, _number(rng))


def _change_field(cloud: PointCloud2, rng: np.random.Generator) -> None:
    if not cloud.fields:
        return
    field = cloud.fields[int(rng.integers(len(cloud.fields)))]
    what = int(rng.integers(4))
    if what == 0:
        field.offset = _number(rng)
    elif what == 1:
        field.datatype = _number(rng, 255) if rng.random() < 0.5 else int(rng.integers(10))
    elif what == 2:
        field.count = _number(rng)
    else:
        field.name = str(rng.choice(_NAMES))


def _drop_field(cloud: PointCloud2, rng: np.random.Generator) -> None:
    cloud.fields = [field for field in cloud.fields if rng.random() < 0.7]


def _repeat_fields(cloud: PointCloud2, rng: np.random.Generator) -> None:
    cloud.fields = [field for field in cloud.fields for _ in range(int(rng.integers(1, 4)))]


def _cut_data(cloud: PointCloud2, rng: np.random.Generator) -> None:
    cloud.data = cloud.data[: int(rng.integers(len(cloud.data) + 1))]


def _append_data(cloud: PointCloud2, rng: np.random.Generator) -> None:
    cloud.data = cloud.data + array("B", rng.bytes(int(rng.integers(1000))))


def _noise_data(cloud: PointCloud2, rng: np.random.Generator) -> None:
    cloud.data = array("B", rng.bytes(len(cloud.data)))


def _turn_bytes(cloud: PointCloud2, _rng: np.random.Generator) -> None:
    cloud.is_bigendian = not cloud.is_bigendian


_CHANGES: tuple[Callable[[PointCloud2, np.random.Generator], None], ...] = (
    *(_set_number(name) for name in ("width", "height", "point_step", "row_step")),
    _change_field,
    _change_field,
    _drop_field,
    _repeat_fields,
    _cut_data,
    _append_data,
    _noise_data,
    _turn_bytes,
)
