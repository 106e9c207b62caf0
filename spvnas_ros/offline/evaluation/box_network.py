"""Scores the boxes of a network on scans with boxes around their objects: KITTI's object set and simulated drives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spvnas_ros.boxes.words import words_for
from spvnas_ros.frame import Boxes, Points
from spvnas_ros.offline.datasets.boxed import BoxedScan, open_boxed
from spvnas_ros.offline.datasets.scan import DatasetError
from spvnas_ros.offline.evaluation.box_ap import BoxFrame, average_precisions
from spvnas_ros.offline.evaluation.box_report import BoxReport
from spvnas_ros.perception import Detector, Perception
from spvnas_ros.recordings.object_tables import Objects
from spvnas_ros.segment.progress import OnFrame, Skipped, progress_bar
from spvnas_ros.zoo.cache import resolve_weights
from spvnas_ros.zoo.checkpoint import BOXES, CheckpointError, gives


@dataclass(frozen=True)
class BoxNetwork:
    """A network that finds boxes.

    names:       of the classes, in index order
    point_range: x, y, z minimum, then maximum, metres: where it looks for them
    """

    find: Callable[[Points], Boxes]
    names: tuple[str, ...]
    point_range: tuple[float, ...]


def load_network(weights: str | Path, device: str = "auto") -> BoxNetwork:
    """Reads a detector, or a network that gives labels and boxes.

    Raises CheckpointError for a network without boxes, and the errors of `Detector.load` and `Perception.load`.
    """
    path = resolve_weights(weights)
    if gives(path) == BOXES:
        detector = Detector.load(path, device)
        return BoxNetwork(detector, detector.names, detector.facts.spec.point_range)
    perception = Perception.load(path, device)
    if perception.facts.spec.boxes is None:
        raise CheckpointError(f"{path} labels points and finds no boxes; expected a detector, or one that does both")

    def find(points: Points) -> Boxes:
        return perception(points, labels=False).boxes or Boxes.none()

    return BoxNetwork(find, perception.box_names, perception.facts.spec.boxes.point_range)


def evaluate_network(
    source: Path,
    network: BoxNetwork,
    *,
    name: str,
    sequences: str | None = None,
    intensity: str | None = None,
    intensity_field: str | None = None,
    min_points: int = 1,
    on_frame: OnFrame = lambda _: None,
) -> BoxReport:
    """Finds boxes in every scan of a data set and compares them with the true ones: AP around the sensor.

    source:     KITTI's object set, or a simulated drive with boxes
    name:       of the weights, for the report
    min_points: objects with fewer points are neither right nor wrong
    on_frame:   is called after each scan, with what was wrong if it was skipped

    Objects count whose middle is in the network's range, seen from above. Raises DatasetError where the source has no
    boxes, or no scan of it can be read.
    """
    scans = open_boxed(source, sequences=sequences, intensity=intensity, intensity_field=intensity_field)
    frames, skipped = [], list[Skipped]()
    for index in range(len(scans)):
        try:
            scan = scans[index]
        except DatasetError as error:
            skipped.append(Skipped(scans.name(index), str(error)))
            on_frame(skipped[-1])
            continue
        truth, counts = _truth(scan, network)
        frames.append(BoxFrame(scan.name, truth, network.find(scan.points), ignored=counts < min_points))
        on_frame(None)
    if not frames:
        raise DatasetError(
            f"none of {len(scans)} scan(s) can be read; the first is {skipped[0].name}: {skipped[0].reason}"
        )
    return BoxReport(
        source=str(source),
        predictions=name,
        frames=len(frames),
        without_results=0,
        kitti=(),
        around=average_precisions(frames, network.names),
        skipped=tuple(skipped),
    )


def network_report(source: Path, weights: Path, *, sequences: str | None, device: str) -> BoxReport:
    """Evaluates weights with progress shown. Raises the errors of `load_network` and `evaluate_network`."""
    network = load_network(weights, device)
    with progress_bar(len(open_boxed(source, sequences=sequences)), "finding boxes") as on_frame:
        return evaluate_network(source, network, name=weights.name, sequences=sequences, on_frame=on_frame)


def rows_of(
    objects: Objects, names: Sequence[str], point_range: Sequence[float] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Returns which objects are of some classes, KITTI's words and a simulated drive's being the same, and their class.

    point_range: as `BoxNetwork` has it: only objects whose middle is in it, seen from above; None for all
    """
    words = {word: index for index, name in enumerate(names) for word in words_for(name)}
    classes = np.array([words.get(kind.lower(), -1) for kind in objects.kinds], np.int64)
    kept = classes >= 0
    if point_range is not None:
        low, high = np.array(point_range[:2]), np.array(point_range[3:5])
        kept &= ((objects.boxes[:, :2] >= low) & (objects.boxes[:, :2] <= high)).all(1)
    return np.flatnonzero(kept), classes[kept].astype(np.uint8)


def _truth(scan: BoxedScan, network: BoxNetwork) -> tuple[Boxes, np.ndarray]:
    """Returns the objects of the network's classes in its range, and how many points each has."""
    rows, classes = rows_of(scan.objects, network.names, network.point_range)
    return Boxes(scan.objects.boxes[rows], np.ones(len(rows), np.float32), classes), scan.objects.counts[rows]
