"""Runs `spvnas view`. It checks the arguments that are cheap to check before it loads torch or starts the page."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from spvnas_ros.clouds.intensity import Intensity
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.clouds.sensor_rules import Sensor
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes, Points
from spvnas_ros.labels import LABEL_MAPS, SEMANTIC_KITTI
from spvnas_ros.palettes import SPVNAS, shown
from spvnas_ros.palettes import check as check_palette
from spvnas_ros.recordings.scans import ScanError, open_source
from spvnas_ros.segment.command import check_names
from spvnas_ros.segment.output import BAG, LABELS, SEQUENCES, SUMMARY
from spvnas_ros.viewer.box_sources import (
    Boxing,
    NamedBoxes,
    origin_of_a_run,
    recorded_boxes,
    true_boxes,
)
from spvnas_ros.viewer.colours import Classes
from spvnas_ros.viewer.frames import Frames, Labelling
from spvnas_ros.viewer.truth_place import label_map_of_a_run, looked_for, named_truth, open_truth, truth_of_a_run
from spvnas_ros.zoo.cache import resolve_weights

if TYPE_CHECKING:
    from spvnas_ros.perception import Detector, Perception
    from spvnas_ros.viewer.window import Window


class ViserMissing(UserError):
    """viser is not installed."""


def run(
    path: Path,
    weights: str | None = None,
    *,
    labels: Path | None = None,
    labels_field: str | None = None,
    truth: str | None = None,
    topic: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "auto",
    intensity: str = "auto",
    intensity_field: str | None = None,
    origin: str | None = None,
    mount: str | None = None,
    quiet: bool = False,
    label_map: str | None = None,
    palette: str = SPVNAS,
    columns: str | None = None,
    boxes: str | None = None,
) -> int:
    """Serves the viewer until SIGINT or SIGTERM. Returns the exit status, 0.

    truth:     what the labels are compared with: a folder of .label files, or a field of the clouds; None: what the run
               was compared with whose folder `path` is, or what lies beside the frames
    intensity, intensity_field, origin, mount: the rules for the sensor, as the options have them
    quiet:     nothing is said about clouds that do not fit the network
    columns:   what the numbers of a point are, for scans that do not say it; None: as the run had it
    boxes:     the detector that finds objects, a folder of `spvnas segment` that has them, or a bag's topic of boxes;
               None: what the weights find, else what the run or the bag has
    label_map: what raw ids mean; None: as the run or the weights have it, else SemanticKITTI's

    Raises ViserMissing, ViewError where the page cannot be served, ValueError for an unknown label map, palette,
    device, engine or precision, and what `results_of_a_run`, `open_source` and `Perception.load` raise.
    """
    if find_spec("viser") is None:
        raise ViserMissing("the viewer needs viser; install it: pip install 'spvnas_ros[view]' (or pip install viser)")
    if label_map is not None and label_map not in LABEL_MAPS:
        raise UserError(f"unknown label map {label_map!r}, expected one of {', '.join(LABEL_MAPS)}")
    check_palette(palette)
    place = named_truth(truth) or truth_of_a_run(path)
    label_map = label_map or label_map_of_a_run(path)
    columns = columns or columns_of_a_run(path)
    run, named = path, NamedBoxes.parse(boxes)
    path, labels = results_of_a_run(path, labels)
    warning = ""
    if place is not None and place.source is not None and not place.source.exists():
        warning, place = f"\nThe truth of this run was in {place.source}, which is not there: it is not shown.", None
    check_names(device, engine, precision)
    if weights is not None:
        resolve_weights(weights)
    if named.detector is not None:
        resolve_weights(named.detector)
    rule, placed = Intensity(intensity, intensity_field), PlaceRule.parse(origin, mount)
    with ExitStack() as opened:
        source = opened.enter_context(open_source(path, intensity=rule, topic=topic, place=placed, columns=columns))
        known = LABEL_MAPS[label_map or SEMANTIC_KITTI.name]
        labelling = Labelling(known, labels_field, labels)
        classes = Classes(known.classes, shown(known.classes, known.palette, palette), palette)
        perception, boxing = None, Boxing()
        if weights is not None:
            from spvnas_ros.perception import Perception

            perception = Perception.load(weights, device=device, engine=engine, precision=precision)
            labelling.network = perception
            facts = perception.facts
            from spvnas_ros.segment.first_look import first_look, tell

            source.sensor.suit(facts.sensor_height)
            concerns = first_look(source.look(), source.sensor, facts)  # before the remarks: looking makes some
            tell([*source.remarks, *concerns], quiet=quiet)
            known = LABEL_MAPS.get(label_map or facts.label_map, known)
            classes = Classes(facts.classes, shown(facts.classes, facts.palette, palette), palette)
        if named.detector is not None:
            detector = _detector(named.detector, device, source.sensor, perception)
            boxing = Boxing(detector=(detector, detector.names))
            warning += "" if detector.trained else "\nThis detector is untrained: its boxes mean nothing."
        elif boxes is not None or perception is None or not perception.box_names:
            recorded, remark = recorded_boxes(named, source, run)
            boxing, warning = Boxing(recorded=recorded), warning + (remark and f"\n{remark}")
        recording, numbers = origin_of_a_run(run)
        boxing = replace(boxing, true=true_boxes(source, numbers, recording))

        from spvnas_ros.viewer.window import Window

        compared = None
        if place is None:
            place = looked_for(source, labels, labels_field, network=weights is not None)
        if place is not None and classes.names == known.classes:
            compared = opened.enter_context(open_truth(place, source, known))
        window = Window(Frames(source, labelling, compared, boxing), classes, host=host, port=port)
        if perception is not None and not perception.facts.trained:
            warning += "\nThese weights are untrained: the labels mean nothing."
        with _ended_by_signals(window):
            Console(soft_wrap=True, highlight=False, markup=False).print(f"{path}: {window.url} (Ctrl-C ends){warning}")
            window.run()
    return 0


@dataclass(frozen=True)
class _Lifted:
    """A detector that looks at points that lie `lift` metres lower than it knows them."""

    detector: Detector
    lift: float

    @property
    def names(self) -> tuple[str, ...]:
        return self.detector.names

    @property
    def trained(self) -> bool:
        return self.detector.facts.trained

    def __call__(self, points: Points) -> Boxes:
        found = self.detector(points + np.array([0, 0, self.lift, 0], np.float32))
        return replace(found, boxes=found.boxes - np.array([0, 0, self.lift, 0, 0, 0, 0], np.float32))


def _detector(weights: str, device: str, sensor: Sensor, perception: Perception | None) -> _Lifted:
    """Returns a detector that takes points as they are shown: where the labelling network knows them, if there is one.

    Where it is known how high they are above the ground, the detector sees them at the height of its own sensor.
    """
    from spvnas_ros.perception import Detector

    detector = Detector.load(weights, device=device)
    if perception is None:
        sensor.suit(detector.facts.sensor_height)
        return _Lifted(detector, 0.0)
    lift = perception.facts.sensor_height - detector.facts.sensor_height if sensor.stands else 0.0
    return _Lifted(detector, lift)


def columns_of_a_run(path: Path) -> str | None:
    """Returns the columns of the scans of a run whose results `path` holds; None where they needed no names."""
    try:
        columns = json.loads((path / SUMMARY).read_text()).get("columns")
    except (OSError, ValueError, AttributeError):
        return None
    return columns if isinstance(columns, str) and columns else None


def results_of_a_run(path: Path, labels: Path | None) -> tuple[Path, Path | None]:
    """Returns the recording and the labels to show. A folder that `spvnas segment` wrote stands for what it labelled.

    Any other path is returned as it is, with `labels`. Raises ScanError where the labelled scans do not exist any more,
    or where the folder does not name them.
    """
    summary = path / SUMMARY
    if not summary.is_file():
        return path, labels
    if (path / BAG).is_dir():
        return path / BAG, labels
    found = next((place for place in (path / LABELS, path / SEQUENCES) if place.is_dir()), None)
    if found is None:
        return path, labels
    folder = path if found.name == SEQUENCES else found
    try:
        scans = Path(json.loads(summary.read_text())["source"])
    except (ValueError, KeyError, TypeError) as error:
        raise ScanError(f"{summary} does not say which scans were labelled; give the scans, and --labels") from error
    if not scans.exists():
        raise ScanError(f"{path} holds labels of {scans}, which is not there; give the scans, and --labels {folder}")
    return scans, labels or folder


@contextmanager
def _ended_by_signals(window: Window) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: window.stop()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
