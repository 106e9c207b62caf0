"""Makes messages of objects: vision_msgs/Detection3DArray, and markers for RViz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header

from spvnas_ros.palettes import UNKNOWN_BOX, Colour
from spvnas_ros.ros.node.objects import Objects

LIFETIME_SECONDS = 2
"""Markers that no newer cloud replaces are gone after this time."""
_SOLID, _THIN, _DOUBTFUL = 1.0, 0.3, 0.1
"""How opaque arrows and names, boxes, and boxes that their points do not support are."""
_AHEAD = 0.8
"""Metres of the arrow before the box's front."""
_ABOVE, _TEXT_HEIGHT = 0.4, 0.5
"""Metres of the name above the box's top, and of its letters."""


def detections_message(vision_msgs: Any, header: Header, objects: Objects) -> Any:
    """Returns the objects as a Detection3DArray under the cloud's header.

    vision_msgs: the module `vision_msgs.msg`

    `bbox.size` is full: x along the object's front, y across, z up. `results` has the class by its name; where the
    labels of the points do not support it, a second one says which class most of them have, and their share. `id` is
    that of an object that is followed. There is no field for a velocity, and covariances stay 0: not known.
    """
    detections = []
    sizes = objects.found.boxes[:, 3:6].tolist()
    for row, pose in enumerate(_poses(objects)):
        said = [(objects.names[row], float(objects.found.scores[row]))]
        if (doubt := objects.doubt[row]) is not None:
            said.append(doubt)
        results = []
        for name, score in said:
            result = vision_msgs.ObjectHypothesisWithPose()
            result.hypothesis.class_id, result.hypothesis.score = name, score
            result.pose.pose = pose
            results.append(result)
        box = vision_msgs.BoundingBox3D(center=pose, size=_vector(*sizes[row]))
        detections.append(vision_msgs.Detection3D(header=header, results=results, bbox=box, id=objects.ids[row]))
    return vision_msgs.Detection3DArray(header=header, detections=detections)


def marker_message(visualization_msgs: Any, header: Header, objects: Objects, colours: Mapping[str, Colour]) -> Any:
    """Returns the objects as a MarkerArray under the cloud's header, which takes away the markers before.

    visualization_msgs: the module `visualization_msgs.msg`
    colours:            of the classes, by name

    Namespaces: `boxes` (cubes that let points shine through), `fronts` (arrows to where the front is), `names` (class,
    score and, where there is one, id), `motions` (of what moves, arrows as long as the way of a second).
    """
    kind = visualization_msgs.Marker
    markers = [kind(header=header, action=kind.DELETEALL)]
    sizes = objects.found.boxes[:, 3:6].tolist()
    ends = objects.ends().tolist()
    lifetime = Duration(sec=LIFETIME_SECONDS)
    for row, pose in enumerate(_poses(objects)):
        length, _, height = sizes[row]
        name, doubt = objects.names[row], objects.doubt[row]
        colour = colours.get(name, UNKNOWN_BOX)
        text = f"{name} {objects.found.scores[row]:.2f}" + (f" #{objects.ids[row]}" if objects.ids[row] else "")
        if doubt is not None:
            text += f" ({doubt[0]}?)"
        box = _marker(kind, header, "boxes", row, kind.CUBE, lifetime)
        # RViz draws nothing that has no size.
        box.pose, box.scale = pose, _vector(*(max(side, 1e-3) for side in sizes[row]))
        box.color = _colour(colour, _THIN if doubt is None else _DOUBTFUL)
        front = _marker(kind, header, "fronts", row, kind.ARROW, lifetime)
        front.pose, front.scale = pose, _vector(length / 2 + _AHEAD, 0.12, 0.3)
        front.color = _colour(colour, _SOLID)
        label = _marker(kind, header, "names", row, kind.TEXT_VIEW_FACING, lifetime)
        label.pose, label.scale = _above(pose, height / 2 + _ABOVE), _vector(0.0, 0.0, _TEXT_HEIGHT)
        label.color, label.text = _colour(colour, _SOLID), text
        markers += [box, front, label]
        if objects.motions and objects.motions[row] is not None:
            motion = _marker(kind, header, "motions", row, kind.ARROW, lifetime)
            motion.points, motion.scale = [pose.position, _point(*ends[row])], _vector(0.2, 0.5, 0.6)
            motion.color = _colour(colour, _SOLID)
            markers.append(motion)
    return visualization_msgs.MarkerArray(markers=markers)


def _poses(objects: Objects) -> list[Pose]:
    return [
        Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=a, y=b, z=c, w=w))
        for (x, y, z), (a, b, c, w) in zip(objects.centres().tolist(), objects.turns().tolist(), strict=True)
    ]


def _above(pose: Pose, height: float) -> Pose:
    """Returns a place above that of a pose, in the direction that is up for the box."""
    turn = pose.orientation
    up = np.array(
        (
            2 * (turn.x * turn.z + turn.w * turn.y),
            2 * (turn.y * turn.z - turn.w * turn.x),
            1 - 2 * (turn.x**2 + turn.y**2),
        )
    )
    place = pose.position
    x, y, z = (np.array((place.x, place.y, place.z)) + height * up).tolist()
    return Pose(position=Point(x=x, y=y, z=z))


def _marker(kind: Any, header: Header, group: str, number: int, shape: int, lifetime: Duration) -> Any:
    return kind(header=header, ns=group, id=number, type=shape, action=kind.ADD, lifetime=lifetime)


def _point(x: float, y: float, z: float) -> Point:
    return Point(x=x, y=y, z=z)


def _vector(x: float, y: float, z: float) -> Vector3:
    return Vector3(x=x, y=y, z=z)


def _colour(colour: Colour, opaque: float) -> ColorRGBA:
    red, green, blue = (part / 255 for part in colour)
    return ColorRGBA(r=red, g=green, b=blue, a=opaque)
