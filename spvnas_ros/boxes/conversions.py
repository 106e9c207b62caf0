"""Boxes between our frame and other projects', as pure functions on arrays.

Ours are rows x, y, z of the centre, length, width, height, yaw (anticlockwise from x, x forward, y left, z up).

| project | frame | rows |
| --- | --- | --- |
| KITTI | camera: x right, y down, z ahead | x, y, z of the bottom, length, height, width, rotation_y |
| OpenPCDet | ours | ours; yaw not wrapped |
| mmdetection3d | ours | z of the bottom |
| nuScenes | any, z up; its sensor's own: x right, y ahead | centre; width, length, height; quaternion w, x, y, z |

All functions return float64 and take any float type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Numbers = npt.NDArray[np.floating[Any]]
_Doubles = npt.NDArray[np.float64]

CORNERS = np.array([(x, y, z) for x in (0.5, -0.5) for y in (0.5, -0.5) for z in (0.5, -0.5)])
"""The corners of a box of size 1, `[8, 3]`."""


def wrapped(angles: npt.ArrayLike) -> _Doubles:
    """Returns angles, radians, in -pi..pi (pi itself becomes -pi)."""
    angles = np.asarray(angles, np.float64)
    # Angles inside stay as they are, to the last bit.
    turned = np.where((angles >= -np.pi) & (angles < np.pi), angles, (angles + np.pi) % (2 * np.pi) - np.pi)
    inside: _Doubles = np.where(turned >= np.pi, -np.pi, turned)
    return inside


def from_kitti_camera(camera: _Numbers, camera_from_lidar: _Numbers) -> _Doubles:
    """Returns boxes `[N, 7]` of labels in the rectified camera's frame.

    camera: `[N, 7]`: x, y, z of the bottom's centre, length, height, width, rotation_y (from x towards -z)
    camera_from_lidar: `[4, 4]`, R0_rect times Tr_velo_to_cam

    As OpenPCDet and mmdetection3d do: the bottom's centre moves by the calibration, half the height is added upwards,
    and the angle is exchanged for -(rotation_y + pi / 2), whatever small tilt the calibration has.
    """
    camera = _rows(camera)
    place = _moved(camera[:, :3], np.linalg.inv(np.asarray(camera_from_lidar, np.float64)))
    length, height, width = camera[:, 3], camera[:, 4], camera[:, 5]
    place[:, 2] += height / 2
    return np.column_stack((place, length, width, height, wrapped(-(camera[:, 6] + np.pi / 2))))


def to_kitti_camera(boxes: _Numbers, camera_from_lidar: _Numbers) -> _Doubles:
    """Returns labels `[N, 7]` as `from_kitti_camera` takes them; its inverse, with rotation_y in -pi..pi."""
    boxes = _rows(boxes)
    bottom = boxes[:, :3].copy()
    bottom[:, 2] -= boxes[:, 5] / 2
    place = _moved(bottom, np.asarray(camera_from_lidar, np.float64))
    return np.column_stack((place, boxes[:, 3], boxes[:, 5], boxes[:, 4], wrapped(-boxes[:, 6] - np.pi / 2)))


def observation_angle(camera: _Numbers) -> _Doubles:
    """Returns KITTI's alpha `[N]` of labels `[N, 7]`: the angle at which the camera sees the object, in -pi..pi."""
    camera = _rows(camera)
    return wrapped(camera[:, 6] - np.arctan2(camera[:, 0], camera[:, 2]))


def image_boxes(camera: _Numbers, projection: _Numbers, size: tuple[int, int] | None = None) -> _Doubles:
    """Returns left, top, right, bottom `[N, 4]`, pixels, of labels `[N, 7]` in the camera's picture.

    projection: `[3, 4]`, KITTI's P2
    size: width and height of the picture, to whose pixels the rectangle is cut; None does not cut

    An object that is not wholly ahead of the camera, whose rectangle would mean nothing, has NaN.
    """
    camera = _rows(camera)
    corners = kitti_corners(camera)
    seen = np.concatenate([corners, np.ones((*corners.shape[:2], 1))], -1) @ np.asarray(projection, np.float64).T
    ahead = seen[..., 2].min(1) > 0
    pixels = seen[..., :2] / np.where(ahead[:, None], seen[..., 2], np.nan)[..., None]
    low, high = pixels.min(1), pixels.max(1)
    if size is not None:
        limit = np.array(size) - 1
        low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
    return np.concatenate([low, high], 1)


def kitti_corners(camera: _Numbers) -> _Doubles:
    """Returns the corners `[N, 8, 3]` of labels `[N, 7]`, in the camera's frame."""
    camera = _rows(camera)
    # Along the front, down, and across: the bottom is where y is largest.
    local = np.array([(along, -(up + 0.5), across) for along, across, up in CORNERS])
    size = camera[:, None, [3, 4, 5]]
    along, down, across = np.moveaxis(local[None] * size, -1, 0)
    cos, sin = np.cos(camera[:, 6:]), np.sin(camera[:, 6:])
    turned = np.stack([cos * along + sin * across, down, cos * across - sin * along], -1)
    corners: _Doubles = turned + camera[:, None, :3]
    return corners


def box_corners(boxes: _Numbers) -> _Doubles:
    """Returns the corners `[N, 8, 3]` of boxes `[N, 7]`."""
    boxes = _rows(boxes)
    along, across, up = np.moveaxis(CORNERS[None] * boxes[:, None, 3:6], -1, 0)
    cos, sin = np.cos(boxes[:, 6:]), np.sin(boxes[:, 6:])
    turned = np.stack([cos * along - sin * across, sin * along + cos * across, up], -1)
    corners: _Doubles = turned + boxes[:, None, :3]
    return corners


def from_openpcdet(boxes: _Numbers) -> _Doubles:
    """Returns boxes `[N, 7]` of OpenPCDet's, whose yaw may be any angle."""
    boxes = _rows(boxes)
    boxes[:, 6] = wrapped(boxes[:, 6])
    return boxes


def to_openpcdet(boxes: _Numbers) -> _Doubles:
    """Returns OpenPCDet's boxes `[N, 7]`: they are ours."""
    return _rows(boxes)


def from_mmdet3d(boxes: _Numbers) -> _Doubles:
    """Returns boxes `[N, 7]` of mmdetection3d's LiDAR boxes (its version 1.0 and later), whose z is the bottom's."""
    boxes = from_openpcdet(boxes)
    boxes[:, 2] += boxes[:, 5] / 2
    return boxes


def to_mmdet3d(boxes: _Numbers) -> _Doubles:
    """Returns mmdetection3d's LiDAR boxes `[N, 7]`, whose z is the bottom's."""
    boxes = to_openpcdet(boxes)
    boxes[:, 2] -= boxes[:, 5] / 2
    return boxes


def from_nuscenes(centre: _Numbers, wlh: _Numbers, rotation: _Numbers, *, sensor_axes: bool = False) -> _Doubles:
    """Returns boxes `[N, 7]` of nuScenes' annotations or results.

    centre:      `[N, 3]`
    wlh:         `[N, 3]`: width, length, height
    rotation:    `[N, 4]`: quaternions w, x, y, z, of any length but 0; what they tilt is left out
    sensor_axes: they are in the frame of nuScenes' LIDAR_TOP, whose x is right and y ahead; the boxes then are in ours
    """
    centre, wlh, rotation = (np.asarray(each, np.float64) for each in (centre, wlh, rotation))
    w, x, y, z = rotation.reshape(-1, 4).T
    yaw = np.arctan2(2 * (w * z + x * y), w * w + x * x - y * y - z * z)
    place, size = centre.reshape(-1, 3), wlh.reshape(-1, 3)[:, [1, 0, 2]]
    if sensor_axes:
        place, yaw = np.column_stack((place[:, 1], -place[:, 0], place[:, 2])), yaw - np.pi / 2
    return np.column_stack((place, size, wrapped(yaw)))


def to_nuscenes(boxes: _Numbers, *, sensor_axes: bool = False) -> tuple[_Doubles, _Doubles, _Doubles]:
    """Returns centre `[N, 3]`, width, length, height `[N, 3]` and quaternions w, x, y, z `[N, 4]`; the inverse of
    `from_nuscenes`.
    """
    boxes = _rows(boxes)
    place, yaw = boxes[:, :3].copy(), boxes[:, 6]
    if sensor_axes:
        place, yaw = np.column_stack((-place[:, 1], place[:, 0], place[:, 2])), yaw + np.pi / 2
    half, none = wrapped(yaw) / 2, np.zeros(len(boxes))
    return place, boxes[:, [4, 3, 5]], np.column_stack((np.cos(half), none, none, np.sin(half)))


def moved(boxes: _Numbers, transform: _Numbers) -> _Doubles:
    """Returns boxes `[N, 7]` in another frame whose z points up too, or nearly.

    transform: `[4, 4]`, from the boxes' frame to the other. The heading turns with it; what it tilts is left out.
    """
    rows, matrix = _rows(boxes), np.asarray(transform, np.float64)
    heading = rows[:, 6]
    front = np.column_stack((np.cos(heading), np.sin(heading), np.zeros(len(rows)))) @ matrix[:3, :3].T
    rows[:, :3] = _moved(rows[:, :3], matrix)
    rows[:, 6] = wrapped(np.arctan2(front[:, 1], front[:, 0]))
    return rows


def _rows(boxes: _Numbers) -> _Doubles:
    """Returns a copy."""
    return np.array(boxes, np.float64).reshape(-1, 7)


def _moved(places: _Doubles, transform: _Doubles) -> _Doubles:
    there: _Doubles = places @ transform[:3, :3].T + transform[:3, 3]
    return there
