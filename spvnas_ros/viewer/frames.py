"""Reads any frame of a recording together with its labels and boxes, which come from the recording or a network."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from spvnas_ros.clouds.point_cloud2 import CONFIDENCE_FIELD, LABEL_FIELD
from spvnas_ros.errors import UserError
from spvnas_ros.frame import UNLABELLED, Boxes, Points, Segmentation
from spvnas_ros.labels import LabelMap
from spvnas_ros.recordings.scans import Cloud, Frame, Source
from spvnas_ros.viewer.box_sources import Boxing
from spvnas_ros.viewer.view_boxes import ViewBoxes

Labels = npt.NDArray[np.uint8]

_CACHED = 12
_OUT_OF_SIGHT = 1e4
"""Metres. Points farther away are left out, and with them NaN and infinity."""


class Network(Protocol):
    """Labels points and, where it has classes of boxes, finds objects. `Perception` is one."""

    @property
    def box_names(self) -> tuple[str, ...]: ...

    def __call__(self, points: Points, *, boxes: bool) -> Segmentation: ...


class Known(NamedTuple):
    """What is known of all points of a cloud: labels, confidence, and boxes that a network found beside them.

    Each is None where it is not known.
    """

    labels: Labels | None = None
    confidence: npt.NDArray[np.float32] | None = None
    boxes: Boxes | None = None


class FrameError(UserError):
    """A frame cannot be shown. The message says why. Other frames may be fine."""


@dataclass(frozen=True)
class ViewFrame:
    """The part of a frame that is shown: the points with a usable position, and what is known of them.

    points:     float32 `[N, 4]`, x, y, z in metres and intensity in 0..1, all finite
    labels:     uint8 `[N]`, class indices, 255 = unlabelled; None where there are no labels
    confidence: float32 `[N]` in 0..1; None where there is no confidence
    truth:      uint8 `[N]`, the true class indices, 255 = none; None where there is no truth
    boxes:      the objects that were found; None where nothing looks for any
    true_boxes: the objects that are there; None where nobody knows them
    problem:    why boxes are not there that should be; "" where all is well
    """

    name: str
    points: Points
    labels: Labels | None = None
    confidence: npt.NDArray[np.float32] | None = None
    truth: Labels | None = None
    boxes: ViewBoxes | None = None
    true_boxes: ViewBoxes | None = None
    problem: str = ""


@dataclass
class Labelling:
    """Finds the labels of frames.

    A network labels all frames where there is one. Without a network, a bag's labels come from a field of its clouds,
    and the labels of scans come from .label files; both may come from the other one where it is named.

    label_map:   what raw ids mean
    field:       field of the clouds; None: a bag's `label`, where the clouds have it
    folder:      folder of .label files; None: where SemanticKITTI and `spvnas segment` keep them, if they are there. A
                 bag has one file for each cloud, in order of names
    network:     labels the points of a frame; None: there is no network
    raw:         whether a field holds raw ids, in place of class indices as the node writes them
    predictions: whether the labels that `spvnas segment` left in a data set's root are taken before the root's own

    Once a cloud has a number that is no class index, this cloud and all later ones are read as raw ids.
    """

    label_map: LabelMap
    field: str | None = None
    folder: Path | None = None
    network: Network | None = None
    raw: bool = False
    predictions: bool = True
    _in_order: dict[str, Path] | None = None

    def __call__(self, source: Source, frame: Frame, cloud: Cloud, *, boxes: bool = False) -> Known:
        """Returns labels and confidence of all points of the cloud, and with `boxes` those that the network finds.

        Raises FrameError where labels do not fit the cloud or are not where `field` or `folder` says. Raises ValueError
        for unknown ids, and what the network raises.
        """
        if self.network is not None:
            result = self.network(cloud.points, boxes=boxes)
            return Known(result.labels, result.confidence, result.boxes)
        if self.folder is None and (cloud.message is not None or self.field is not None):
            return self._from_fields(cloud.record)
        file = self.file(source, frame.name)
        return Known() if file is None else Known(self._from_file(file, len(cloud.points)))

    def _from_fields(self, points: npt.NDArray[np.void]) -> Known:
        field, names = self.field or LABEL_FIELD, points.dtype.names or ()
        if field not in names or points.dtype[field].shape:
            if self.field is None:
                return Known()
            raise FrameError(
                f"the cloud has no field {field!r} with one number a point; found {', '.join(names) or 'none'}"
            )
        with np.errstate(invalid="ignore"):
            ids = points[field].astype(np.int64)
        confident = CONFIDENCE_FIELD in names and not points.dtype[CONFIDENCE_FIELD].shape
        confidence = points[CONFIDENCE_FIELD].astype(np.float32) if confident else None
        return Known(self._encode(ids), confidence)

    def _encode(self, ids: npt.NDArray[np.int64]) -> Labels:
        outside = (ids < 0) | (ids >= len(self.label_map.classes)) & (ids != UNLABELLED)
        if not self.raw and not outside.any():
            return ids.astype(np.uint8)
        labels = self.label_map.encode(ids)
        # Only after they were valid raw ids: a damaged cloud says nothing about the others.
        self.raw = True
        return labels

    def _files_of(self, bag: Source, folder: Path) -> dict[str, Path]:
        if self._in_order is None:
            from spvnas_ros.offline.evaluation.truth import files_in_order

            self._in_order = files_in_order(bag, folder)
        return self._in_order

    def _from_file(self, file: Path, count: int) -> Labels:
        raw = file.read_bytes()
        if len(raw) != 4 * count:
            raise FrameError(f"{file} has {len(raw)} bytes, but the scan {count} points; expected 4 bytes a point")
        return self.label_map.encode(np.frombuffer(raw, "<u4"))

    def file(self, source: Source, name: str) -> Path | None:
        """Returns the file with a frame's labels; None where there is none.

        Raises FrameError where `folder` has none, TruthError where it has not one for each cloud of a bag.
        """
        if source.kind == "bag":
            return None if self.folder is None else self._files_of(source, self.folder)[name]
        sequence, _, stem = name.rpartition("/")
        if sequence:
            folders = _sequence_folders(self.folder or source.path, sequence, self.predictions)
        else:
            folders = [self.folder, self.folder / "labels"] if self.folder else _label_folders(source.path)
        file = next((folder / f"{stem}.label" for folder in folders if (folder / f"{stem}.label").is_file()), None)
        if file is None and self.folder:
            raise FrameError(f"there is no {folders[0] / stem}.label")
        return file


@dataclass(frozen=True)
class Truth:
    """What is known to be true of the frames that are shown.

    frames:  their points with the true labels, from a source of its own
    numbers: number there of each frame that is shown; None: the same
    asked:   whether somebody named this truth. Where nobody did, it was only looked for: a frame without one is none
             the worse, and the file of the labels that are shown is no truth about them
    """

    frames: Frames
    numbers: Sequence[int] | None = None
    asked: bool = False

    def of(self, index: int, name: str, count: int, shown: Path | None) -> Labels | None:
        """Returns the true labels of the frame that is shown as number `index`; None where they are not known.

        name, count: of the frame and its points
        shown:       file of the labels that are shown

        Raises FrameError where the truth that was asked for cannot be read, or is of another number of points.
        """
        try:
            if not self.asked and shown is not None and shown == self.frames.label_file(name):
                return None
            found = self.frames[index if self.numbers is None else self.numbers[index]]
        except (FrameError, IndexError) as error:
            if self.asked:
                raise FrameError(f"the truth: {error}") from error
            return None
        if found.labels is not None and len(found.labels) != count:
            if self.asked:
                raise FrameError(f"the truth has {len(found.labels)} points, the frame {count}")
            return None
        return found.labels


class Frames:
    """Gives the frames of a source by number. It reads a frame when it is asked for, and keeps the last few.

    A bag is read forward from the nearest frame whose position is known, so a first jump far ahead takes time.

    Attributes:
        box_names: classes of boxes that are known before any frame was read, in the order of their index
        boxed:     whether something finds, or has found, boxes
        true_boxed: whether true boxes are known
    """

    def __init__(
        self, source: Source, labelling: Labelling, truth: Truth | None = None, boxing: Boxing | None = None
    ) -> None:
        self.source = source
        self._truth = truth
        self._labelling = labelling
        self._boxing = boxing or Boxing()
        self._wanted = True
        detector = self._boxing.detector
        # Boxes that somebody has named take the place of those that the network would find.
        self._by_network = labelling.network is not None and not detector and not self._boxing.recorded
        self.box_names: tuple[str, ...] = detector[1] if detector else ()
        if labelling.network is not None and self._by_network:
            self.box_names = labelling.network.box_names
        self.boxed = bool(self.box_names) or self._boxing.recorded is not None
        self.true_boxed = self._boxing.true is not None
        self._cache: OrderedDict[int, ViewFrame] = OrderedDict()
        self._stamps: list[int] = []
        self._restart(0, None)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> ViewFrame:
        """Returns a frame.

        Raises FrameError where the frame cannot be read or labelled, and IndexError where there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index not in self._cache:
            # All errors of scans, bags, clouds and label maps are ValueErrors; those of a network are RuntimeErrors.
            try:
                self._cache[index] = self._read(index, self._find(index))
            except (ValueError, OSError, RuntimeError) as error:
                raise FrameError(str(error)) from error
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(index)
        return self._cache[index]

    def want_boxes(self, wanted: bool) -> None:
        """Says whether boxes that are found are shown; those of a network are not computed where they are not."""
        if wanted and not self._wanted and self.box_names:
            self._cache.clear()  # what was read meanwhile has none
        self._wanted = wanted

    def label_file(self, name: str) -> Path | None:
        """Returns the file with the labels of the frame `name`; None where they come from elsewhere, or not at all."""
        if self._labelling.network is not None:
            return None
        return self._labelling.file(self.source, name)

    def _read(self, index: int, frame: Frame) -> ViewFrame:
        cloud = frame.load()
        known = self._labelling(self.source, frame, cloud, boxes=self._wanted and self._by_network)
        labels, confidence = known.labels, known.confidence
        placed = (np.abs(cloud.points[:, :3]) < _OUT_OF_SIGHT).all(axis=1)
        found, true, problem = self._boxes(index, frame, cloud, known.boxes)
        return ViewFrame(
            frame.name,
            cloud.points[placed],
            None if labels is None else labels[placed],
            None if confidence is None else np.nan_to_num(confidence[placed]),
            self._truth.of(index, frame.name, int(placed.sum()), self.label_file(frame.name)) if self._truth else None,
            found,
            true,
            problem,
        )

    def _boxes(
        self, index: int, frame: Frame, cloud: Cloud, found: Boxes | None
    ) -> tuple[ViewBoxes | None, ViewBoxes | None, str]:
        """Returns found boxes and true ones where the points are shown, and what is wrong with them."""
        boxing, problems = self._boxing, []
        if boxing.detector is not None and self._wanted:
            found = boxing.detector[0](cloud.points)
        boxes: list[ViewBoxes | None] = []
        for source in (None if self.box_names else boxing.recorded, boxing.true):
            try:
                boxes.append(source(index, frame, cloud) if source else None)
            except (UserError, OSError) as error:
                boxes.append(None)
                problems.append(str(error))
        placement = self.source.sensor.placement(cloud.record)
        if placement is not None:
            boxes = [each and each.moved(placement.matrix()) for each in boxes]
        if found is not None:
            boxes[0] = ViewBoxes.of(found, self.box_names)
        seen, true = (each and each.within(_OUT_OF_SIGHT) for each in boxes)
        return seen, true, "; ".join(problems)

    def _find(self, index: int) -> Frame:
        known = min(index, len(self._stamps) - 1)
        if index < self._next or known > self._next:
            stamp = self._stamps[known]
            self._restart(bisect_left(self._stamps, stamp), stamp)
        try:
            for frame in self._ahead:
                if self._next == len(self._stamps):
                    self._stamps.append(frame.stamp)
                self._next += 1
                if self._next > index:
                    return frame
        except ValueError:
            self._restart(0, None)
            raise
        raise FrameError(f"{self.source.path} ends before frame {index}")

    def _restart(self, number: int, stamp: int | None) -> None:
        self._next = number
        self._ahead: Iterator[Frame] = self.source.resume(number, stamp)


def _sequence_folders(root: Path, sequence: str, predictions: bool) -> list[Path]:
    """Returns the folders of a data set's root, or of a run over one, that may hold the labels of a sequence."""
    names = ("predictions", "labels") if predictions else ("labels",)
    return [root / "sequences" / sequence / name for name in names]


def _label_folders(path: Path) -> list[Path]:
    """Returns the folders that may hold the labels of a scan, a folder of scans or a SemanticKITTI sequence."""
    folder = path if path.is_dir() else path.parent
    beside = [folder, folder / "labels", folder / "velodyne"]
    return [*beside, folder.parent / "labels"] if folder.name == "velodyne" else beside
