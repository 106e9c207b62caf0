"""Reads and writes boxes in bags: messages of type vision_msgs/Detection3DArray, without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.conversions import from_nuscenes, to_nuscenes
from spvnas_ros.boxes.overlap import BoxError, checked
from spvnas_ros.recordings.containers.container import BagError, Channel, named
from spvnas_ros.recordings.containers.open_container import open_container
from spvnas_ros.recordings.message_types import DETECTIONS_TYPE, typestore

BOXES_TOPIC: Final = "/segmenter/output/boxes"
"""Of the boxes beside labelled clouds."""
TRUE_BOXES_TOPIC: Final = "/truth/objects"
"""Of true boxes, in the recordings that have them."""
_QUATERNION = ("w", "x", "y", "z")
_LEVEL_WITHIN = 1e-3
"""How far the length of a quaternion may be from 1."""


@dataclass(frozen=True)
class RecordedBoxes:
    """The objects of one message.

    stamp:    of its header, nanoseconds since 1970
    frame_id: of its header
    names:    class of each object
    boxes:    float64 `[N, 7]`, as in `spvnas_ros.frame.Boxes`
    scores:   float64 `[N]`
    """

    stamp: int
    frame_id: str
    names: tuple[str, ...]
    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]


def boxes_topic(path: Path, wanted: str | None, option: str) -> str:
    """Returns the topic of boxes that is wanted; None wants the only one.

    option: what names a topic, for the error where there are several

    Raises BagError where the bag cannot be read, and where it has no such topic or several.
    """
    with closing(open_container(path)) as container:
        return _choose(path, container.channels, wanted, option)


def read_boxes(path: Path, topic: str) -> list[RecordedBoxes]:
    """Returns the messages of a topic, in order of recording.

    Raises BagError where the bag cannot be read, and for a message that is damaged, has an object without a class,
    sizes that are negative or numbers that are not finite; it names topic and stamp.
    """
    with closing(open_container(path)) as container:
        channels = [each for each in container.channels if each.topic == topic and _holds_boxes(each)]
        with named(f"{path} is damaged"):
            return [decode_boxes(f"{path}, {topic}", raw) for _, _, raw in container.messages(channels)]


def in_seconds(stamp: int) -> str:
    """Returns nanoseconds as seconds with nine decimals, all of them right: a float has not so many."""
    return f"{stamp // 10**9}.{stamp % 10**9:09d}"


def encode_boxes(boxes: RecordedBoxes) -> bytes:
    """Serialises a message (CDR), as `BagWriter.write` takes it."""
    types = typestore().types
    message = {name: types[f"vision_msgs/msg/{name}"] for name in ("Detection3DArray", "Detection3D", "BoundingBox3D")}
    hypothesis = types["vision_msgs/msg/ObjectHypothesis"]
    with_pose = types["vision_msgs/msg/ObjectHypothesisWithPose"]
    pose, vector = types["geometry_msgs/msg/Pose"], types["geometry_msgs/msg/Vector3"]
    point, quaternion = types["geometry_msgs/msg/Point"], types["geometry_msgs/msg/Quaternion"]
    covariance = types["geometry_msgs/msg/PoseWithCovariance"]
    stamp = types["builtin_interfaces/msg/Time"](boxes.stamp // 10**9, boxes.stamp % 10**9)
    header = types["std_msgs/msg/Header"](stamp, boxes.frame_id)
    detections = []
    for row, name, score, turn in zip(boxes.boxes, boxes.names, boxes.scores, to_nuscenes(boxes.boxes)[2], strict=True):
        w, x, y, z = turn.tolist()
        where = pose(point(*row[:3].tolist()), quaternion(x, y, z, w))
        what = with_pose(hypothesis(name, float(score)), covariance(where, np.zeros(36)))
        box = message["BoundingBox3D"](where, vector(*row[3:6].tolist()))
        detections.append(message["Detection3D"](header, [what], box, ""))
    return bytes(typestore().serialize_cdr(message["Detection3DArray"](header, detections), DETECTIONS_TYPE))


def decode_boxes(where: str, raw: bytes) -> RecordedBoxes:
    """Decodes a serialised message (CDR). Raises BagError, which says `where`, as `read_boxes` does."""
    with named(f"{where}: a recorded message is damaged"):
        message: Any = typestore().deserialize_cdr(raw, DETECTIONS_TYPE)
    stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
    where = f"{where}, stamp {in_seconds(stamp)}"
    names, scores, centres, sizes, turns = [], [], [], [], []
    for number, detection in enumerate(message.detections):
        if not detection.results:
            raise BagError(f"{where}: object {number} has no hypothesis, expected its class")
        best = max((result.hypothesis for result in detection.results), key=lambda each: each.score)
        place, turn, size = detection.bbox.center.position, detection.bbox.center.orientation, detection.bbox.size
        names.append(best.class_id)
        scores.append(best.score)
        centres.append((place.x, place.y, place.z))
        sizes.append((size.y, size.x, size.z))
        turns.append([getattr(turn, axis) for axis in _QUATERNION])
    if (wrong := _not_turned(turns)) is not None:
        raise BagError(f"{where}: object {wrong} has the orientation {turns[wrong]} (w, x, y, z), expected length 1")
    if len(nan := np.flatnonzero(~np.isfinite(scores))):
        raise BagError(f"{where}: object {nan[0]} has the score {scores[nan[0]]}, expected a finite number")
    arrays = (np.array(each, np.float64) for each in (centres, sizes, turns))
    try:
        boxes = checked(from_nuscenes(*arrays), "the message")
    except BoxError as error:
        raise BagError(f"{where}: {error}") from error
    return RecordedBoxes(stamp, message.header.frame_id, tuple(names), boxes, np.array(scores, np.float64))


def _not_turned(turns: Sequence[Sequence[float]]) -> int | None:
    """Returns the first of the quaternions whose length is not 1."""
    lengths = np.linalg.norm(np.array(turns, np.float64).reshape(-1, 4), axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) < _LEVEL_WITHIN))
    return int(wrong[0]) if len(wrong) else None


def _holds_boxes(channel: Channel) -> bool:
    return (channel.type, channel.encoding) == (DETECTIONS_TYPE, "cdr")


def _choose(path: Path, channels: Sequence[Channel], wanted: str | None, option: str) -> str:
    topics = sorted({each.topic for each in channels if _holds_boxes(each)})
    if not topics:
        found = ", ".join(sorted({f"{each.topic} ({each.type})" for each in channels})) or "no topics"
        raise BagError(f"{path} has no topic of type {DETECTIONS_TYPE}; found {found}")
    if wanted is None:
        if len(topics) > 1:
            raise BagError(f"{path} has several topics of boxes, name one with {option}: {', '.join(topics)}")
        return topics[0]
    topic = "/" + wanted.lstrip("/")
    if topic not in topics:
        raise BagError(f"{path} has no boxes on {topic}; found {', '.join(topics)}")
    return topic
