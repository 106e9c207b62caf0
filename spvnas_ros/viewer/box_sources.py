"""Finds the boxes of recordings: those that a run has left, messages of a bag, and true ones beside the frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spvnas_ros.boxes.overlap import COLUMNS, checked
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes, Points
from spvnas_ros.recordings.box_bags import BOXES_TOPIC, TRUE_BOXES_TOPIC, RecordedBoxes, read_boxes
from spvnas_ros.recordings.containers.container import BagError
from spvnas_ros.recordings.containers.open_container import open_container
from spvnas_ros.recordings.kitti_objects import DONT_CARE, lidar_boxes, read_calibration, read_objects
from spvnas_ros.recordings.message_types import DETECTIONS_TYPE
from spvnas_ros.recordings.object_tables import read_objects_of
from spvnas_ros.recordings.scans import Cloud, Frame, Source
from spvnas_ros.segment.output import BAG, BOXES, SUMMARY, box_file
from spvnas_ros.viewer.view_boxes import ViewBoxes

BoxSource = Callable[[int, Frame, Cloud], ViewBoxes | None]
"""Gives the boxes of a frame, by its number in the recording, in the cloud's own frame; None where nobody knows any.

It raises UserError and OSError where they cannot be read.
"""

_TABLES = "boxes"
_BAGS = "bags"


class ViewBoxesError(UserError):
    """Boxes that cannot be shown. The message says why."""


@dataclass(frozen=True)
class Boxing:
    """Where the boxes of frames come from, besides a network that labels and finds them.

    detector: finds objects in the points of a frame, with the names of their classes; None where there is none
    recorded: boxes that something has found
    true:     boxes that are true
    """

    detector: tuple[Callable[[Points], Boxes], tuple[str, ...]] | None = None
    recorded: BoxSource | None = None
    true: BoxSource | None = None


def boxes_of_a_run(out: Path) -> BoxSource | None:
    """Returns the boxes that `spvnas segment` has left of scans in a folder; None where it has left none."""
    if not (out / SUMMARY).is_file() or not (out / BOXES).is_dir():
        return None

    def read(_: int, frame: Frame, __: Cloud) -> ViewBoxes | None:
        file = box_file(out, frame.name)
        return _document(file) if file.is_file() else None

    return read


def _document(file: Path) -> ViewBoxes:
    try:
        boxes = json.loads(file.read_text("utf-8"))["boxes"]
        kinds = tuple(str(box["class"]) for box in boxes)
        rows = np.array([[float(box[column]) for column in COLUMNS] for box in boxes], np.float64)
        scores = np.array([float(box["score"]) for box in boxes], np.float64)
        return ViewBoxes(kinds, checked(rows.reshape(-1, len(COLUMNS)), "the file"), scores)
    except (ValueError, KeyError, TypeError) as error:
        raise ViewBoxesError(f"{file} does not hold boxes as `spvnas segment` writes them: {error}") from error


@dataclass(frozen=True)
class NamedBoxes:
    """Boxes that an option names: a detector's weights, a folder of `spvnas segment`, or a topic; one of these."""

    detector: str | None = None
    run: Path | None = None
    topic: str | None = None

    @classmethod
    def parse(cls, name: str | None) -> NamedBoxes:
        """Returns what an option names; nothing for None."""
        if name is None:
            return cls()
        path = Path(name)
        if path.is_dir():
            return cls(run=path)
        if path.suffix != ".safetensors" and not path.exists() and name.startswith("/"):
            return cls(topic=name)
        return cls(detector=name)


def recorded_boxes(named: NamedBoxes, source: Source, run: Path) -> tuple[BoxSource | None, str]:
    """Returns the boxes that are recorded about the frames of a source, and what the user should know of them.

    run: the path that was to be shown, which may be a run's folder

    Raises ViewBoxesError and BagError where the boxes that are named are not there.
    """
    if named.run is not None:
        found = boxes_of_a_run(named.run)
        if found is None and (named.run / BAG).is_dir() and (topic := found_topic(topics_of_boxes(named.run / BAG))):
            found = boxes_in_a_bag(named.run / BAG, topic)
        if found is None:
            raise ViewBoxesError(
                f"{named.run} holds no boxes of `spvnas segment`, expected its folder of a run with some"
            )
        return found, ""
    if named.topic is not None:
        topics = topics_of_boxes(source.path) if source.kind == "bag" else ()
        if named.topic not in topics:
            raise ViewBoxesError(f"{source.path} has no boxes on {named.topic}; found {', '.join(topics) or 'none'}")
        return boxes_in_a_bag(source.path, named.topic), ""
    if found := boxes_of_a_run(run):
        return found, ""
    if source.kind != "bag":
        return None, ""
    try:
        topics = topics_of_boxes(source.path)
        topic = found_topic(topics)
        if topic is None:
            return None, ""
        others = [each for each in topics if each not in (topic, TRUE_BOXES_TOPIC)]
        more = f"The boxes are those of {topic}; --boxes shows those of {', '.join(others)}." if others else ""
        return boxes_in_a_bag(source.path, topic), more
    except BagError as error:
        return None, f"The boxes of this bag are not shown: {error}"


def origin_of_a_run(path: Path) -> tuple[Path | None, tuple[int, ...] | None]:
    """Returns the bag that a run labelled whose folder this is, and the number there of each cloud of the run's own
    bag; None for what is no such run.
    """
    try:
        summary = json.loads((path / SUMMARY).read_text("utf-8"))
        if summary["kind"] != "bag":
            return None, None
        return Path(summary["source"]), tuple(map(int, summary["names"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None, None


def topics_of_boxes(bag: Path) -> tuple[str, ...]:
    """Returns the topics of a bag that hold boxes, in order. Raises BagError where it cannot be read."""
    with closing(open_container(bag)) as container:
        found = {each.topic for each in container.channels if (each.type, each.encoding) == (DETECTIONS_TYPE, "cdr")}
    return tuple(sorted(found))


def boxes_in_a_bag(bag: Path, topic: str) -> BoxSource:
    """Returns the boxes of a topic, which belong to the clouds with the stamps of their headers.

    Raises BagError as `read_boxes` does.
    """
    messages: dict[int, RecordedBoxes] = {each.stamp: each for each in read_boxes(bag, topic)}

    def read(_: int, __: Frame, cloud: Cloud) -> ViewBoxes | None:
        if cloud.message is None:
            return None
        header = cloud.message.header
        found = messages.get(header.stamp.sec * 10**9 + header.stamp.nanosec)
        if found is not None and found.frame_id != header.frame_id:
            raise ViewBoxesError(
                f"the boxes on {topic} are in the frame {found.frame_id!r} and the cloud in {header.frame_id!r}, so "
                "they are not shown"
            )
        return None if found is None else ViewBoxes(found.names, found.boxes, found.scores)

    return read


def found_topic(topics: Sequence[str]) -> str | None:
    """Returns the topic whose boxes are shown as found where nobody named one; None without any."""
    others = [topic for topic in topics if topic != TRUE_BOXES_TOPIC]
    return BOXES_TOPIC if BOXES_TOPIC in others else next(iter(others), None)


def true_boxes(source: Source, numbers: Sequence[int] | None = None, recording: Path | None = None) -> BoxSource | None:
    """Returns the true boxes that lie beside the frames of a source, or are messages of its bag; None without any.

    numbers:   number in the recording of each frame; None: the same
    recording: bag from which the source was made; None: none
    """
    if source.kind != "bag":
        return _beside if any(_place(file) for file in source.files) else None
    for bag in dict.fromkeys((source.path, *([recording] if recording else []))):
        try:
            if TRUE_BOXES_TOPIC in topics_of_boxes(bag):
                return boxes_in_a_bag(bag, TRUE_BOXES_TOPIC)
        except (BagError, OSError):  # that it is damaged is said of its clouds
            continue
        folder = bag.absolute().parent.parent / _TABLES / bag.name
        if bag.absolute().parent.name == _BAGS and folder.is_dir():
            return _tables(folder, numbers if bag == recording else None)
    return None


def _beside(_: int, frame: Frame, __: Cloud) -> ViewBoxes | None:
    file = None if frame.file is None else _place(frame.file)
    if file is None or frame.file is None:
        return None
    if file.suffix == ".csv":
        table = read_objects_of(file)
        return ViewBoxes.true(table.kinds, table.boxes)
    calibration = read_calibration(file.parent.parent / "calib" / file.name)
    objects = read_objects(file, scored=False)
    kept = objects.has_box & np.array([kind.lower() != DONT_CARE.lower() for kind in objects.kinds], np.bool_)
    return ViewBoxes.true(objects.kinds, lidar_boxes(objects, calibration)).among(kept)


def _place(scan: Path) -> Path | None:
    """Returns where the true boxes of a scan lie: a simulated drive's table, or KITTI's labels; None without any."""
    scan = scan.absolute()
    if scan.parent.name != "velodyne":
        return None
    sequence = scan.parent.parent
    table = sequence.parent.parent / _TABLES / sequence.name / f"{scan.stem}.csv"
    if table.is_file():
        return table
    labels = sequence / "label_2" / f"{scan.stem}.txt"
    return labels if labels.is_file() and (sequence / "calib" / labels.name).is_file() else None


def _tables(folder: Path, numbers: Sequence[int] | None) -> BoxSource:
    def read(index: int, _: Frame, __: Cloud) -> ViewBoxes | None:
        if numbers is not None and index >= len(numbers):
            return None
        file = folder / f"{index if numbers is None else numbers[index]:06d}.csv"
        if not file.is_file():
            return None
        table = read_objects_of(file)
        return ViewBoxes.true(table.kinds, table.boxes)

    return read
