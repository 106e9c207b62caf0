"""Semantic classes, their colours and the maps from raw label ids, by name.

Two maps turn SemanticKITTI's raw label ids into the 19 classes, and they differ. A mIoU measured with one map cannot be
compared with a mIoU measured with the other. Every checkpoint and every figure therefore names its map. A third map is
nuScenes': its raw ids and classes are others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spvnas_ros.errors import UserError
from spvnas_ros.frame import UNLABELLED


def plain_ids(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns label ids `[N]` of any whole numbers `[N]`, int64: the low 16 bits, or the number itself where it is
    negative.

    Many tools write -1 for "no label". It is recognised in unsigned integers of 16 bits and more, too, which hold it as
    their largest number.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize >= 4:
        values = values.astype(values.dtype.newbyteorder("="), copy=False).view(f"i{values.dtype.itemsize}")
    ids = values.astype(np.int64)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        ids[ids == 0xFFFF] = -1
    # Below that it is an id whose upper half, the instance, is large.
    negative = (ids < 0) & (ids >= -0x8000)
    return np.where(negative, ids, ids & 0xFFFF)


@dataclass(frozen=True)
class LabelMap:
    """The translation of a data set's raw label ids into class indices.

    name:     the name that checkpoints and reports use
    classes:  class names, in index order
    palette:  `(r, g, b)` 0..255 of each class, as the data set has them (shown are those of `palettes`)
    to_class: raw id -> class index; ids mapped to 255 are ignored
    to_raw:   class index -> the raw id written to label files
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    to_class: Mapping[int, int]
    to_raw: tuple[int, ...]

    def encode(self, raw: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Returns the class indices uint8 `[N]` of raw ids `[N]` (any integer type; only the low 16 bits count, and -1
        is unlabelled).

        Raises ValueError with the ids that the map does not list. An unknown id never becomes a class silently.
        """
        known = plain_ids(raw)
        ids = known & 0xFFFF
        table = np.full(1 << 16, -1, np.int16)
        for raw_id, index in self.to_class.items():
            table[raw_id] = index
        encoded = np.where(known == -1, UNLABELLED, table[ids])
        if (encoded < 0).any():
            unknown = sorted({int(i) for i in known[encoded < 0]})
            raise UserError(
                f"label map {self.name!r} does not list raw label id(s) {unknown}; "
                "use the map the labels were written with, or 0 for unlabelled points"
            )
        return encoded.astype(np.uint8)

    def decode(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
        """Returns the raw ids uint32 `[N]` of class indices uint8 `[N]`; 255 (unlabelled) becomes raw id 0."""
        table = np.zeros(256, np.uint32)
        table[: len(self.to_raw)] = self.to_raw
        return table[labels]


_CLASSES = (
    ("car", 10, (100, 150, 245)),
    ("bicycle", 11, (100, 230, 245)),
    ("motorcycle", 15, (30, 60, 150)),
    ("truck", 18, (80, 30, 180)),
    ("other-vehicle", 20, (0, 0, 255)),
    ("person", 30, (255, 30, 30)),
    ("bicyclist", 31, (255, 40, 200)),
    ("motorcyclist", 32, (150, 30, 90)),
    ("road", 40, (255, 0, 255)),
    ("parking", 44, (255, 150, 255)),
    ("sidewalk", 48, (75, 0, 75)),
    ("other-ground", 49, (175, 0, 75)),
    ("building", 50, (255, 200, 0)),
    ("fence", 51, (255, 120, 50)),
    ("vegetation", 70, (0, 175, 0)),
    ("trunk", 71, (135, 60, 0)),
    ("terrain", 72, (150, 240, 80)),
    ("pole", 80, (255, 240, 150)),
    ("traffic-sign", 81, (255, 0, 0)),
)
_NAMES = tuple(name for name, _, _ in _CLASSES)
_PALETTE = tuple(colour for _, _, colour in _CLASSES)
_RAW = tuple(raw for _, raw, _ in _CLASSES)
_INDEX = {name: index for index, name in enumerate(_NAMES)}
_SHARED = {raw: index for index, raw in enumerate(_RAW)} | {
    0: UNLABELLED,  # unlabelled
    1: UNLABELLED,  # outlier
    52: UNLABELLED,  # other-structure
    99: UNLABELLED,  # other-object
    252: _INDEX["car"],
    253: _INDEX["bicyclist"],
    254: _INDEX["person"],
    255: _INDEX["motorcyclist"],
    258: _INDEX["truck"],
    259: _INDEX["other-vehicle"],
}

SEMANTIC_KITTI = LabelMap(
    "semantic-kitti",
    _NAMES,
    _PALETTE,
    _SHARED
    | dict.fromkeys((13, 16, 256, 257), _INDEX["other-vehicle"])  # bus, on-rails, and moving
    | {60: _INDEX["road"]},  # lane-marking
    _RAW,
)
"""The map of the official benchmark. mmdetection3d uses it too."""

MIT_HAN_LAB = LabelMap(
    "mit-han-lab",
    _NAMES,
    _PALETTE,
    _SHARED | dict.fromkeys((13, 16, 60, 256, 257), UNLABELLED),
    _RAW,
)
"""The map of the published SPVNAS models. It ignores bus, on-rails and lane-marking."""

_NUSCENES_CLASSES = (
    ("barrier", 9, (112, 128, 144)),
    ("bicycle", 14, (220, 20, 60)),
    ("bus", 16, (255, 127, 80)),
    ("car", 17, (255, 158, 0)),
    ("construction_vehicle", 18, (233, 150, 70)),
    ("motorcycle", 21, (255, 61, 99)),
    ("pedestrian", 2, (0, 0, 230)),
    ("traffic_cone", 12, (47, 79, 79)),
    ("trailer", 22, (255, 140, 0)),
    ("truck", 23, (255, 99, 71)),
    ("driveable_surface", 24, (0, 207, 191)),
    ("other_flat", 25, (175, 0, 75)),
    ("sidewalk", 26, (75, 0, 75)),
    ("terrain", 27, (112, 180, 60)),
    ("manmade", 28, (222, 184, 135)),
    ("vegetation", 30, (0, 175, 0)),
)
NUSCENES_CATEGORIES = (
    "noise",
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
    "flat.driveable_surface",
    "flat.other",
    "flat.sidewalk",
    "flat.terrain",
    "static.manmade",
    "static.other",
    "static.vegetation",
    "vehicle.ego",
)
"""What the numbers in nuScenes' label files stand for, in order from 0."""

NUSCENES = LabelMap(
    "nuscenes",
    tuple(name for name, _, _ in _NUSCENES_CLASSES),
    tuple(colour for _, _, colour in _NUSCENES_CLASSES),
    dict.fromkeys(range(len(NUSCENES_CATEGORIES)), UNLABELLED)
    | {raw: index for index, (_, raw, _) in enumerate(_NUSCENES_CLASSES)}
    | dict.fromkeys((3, 4, 6), 6)  # children, construction workers and police officers are pedestrians
    | {15: 2},  # bendy buses
    tuple(raw for _, raw, _ in _NUSCENES_CLASSES),
)
"""The 16 classes of nuScenes' LiDAR segmentation challenge (nuscenes-devkit, eval/lidarseg/utils.py), in its order. Its
class 0 (noise, and what is too rare) is unlabelled here.
"""

LABEL_MAPS: Mapping[str, LabelMap] = {m.name: m for m in (SEMANTIC_KITTI, MIT_HAN_LAB, NUSCENES)}
