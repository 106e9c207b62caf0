"""Provides the recording that the demo labels: the user's own bag, or a simulated drive.

Where the simulator cannot run, a street of boxes takes the place of the simulated drive.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spvnas_ros.clouds.point_cloud2 import LABEL_FIELD
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.datasets.label_field import LabelField, truth_field
from spvnas_ros.recordings.bags import BagReader, BagWriter, cloud_message, encode
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.viewer.box_sources import BoxSource, true_boxes

if TYPE_CHECKING:
    from spvnas_ros.offline.evaluation.truth import Truth
    from spvnas_ros.zoo.checkpoint import Facts

SEED = 2026
"""Seed of the simulated street. The training recipes use small seeds: no shipped network was trained in this street."""

_INTERVAL = 0.5
"""Seconds between clouds: long enough that ten clouds show more than one corner."""

_STREET = "street"
_STREET_STEP, _STREET_NS = 5.0, 500_000_000
_STREET_FIELDS = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), (LABEL_FIELD, "<u2")]


@dataclass(frozen=True)
class Drive:
    """A recording to label.

    topic: the topic of the clouds; None where the bag has only one
    what:  a description in words, for the user
    field: the field of the clouds that holds the truth; None where there is no truth
    """

    bag: Path
    what: str
    topic: str | None = None
    field: LabelField | None = None

    def true_boxes(self) -> BoxSource | None:
        """Returns what gives the true boxes of a cloud; None where nobody knows any. Raises what `open_source` does."""
        with open_source(self.bag, intensity="none", topic=self.topic) as source:
            return true_boxes(source)

    def truth(self, facts: Facts) -> Truth | None:
        """Returns a reader that gives the truth as classes of these weights, or None where the recording has no truth.

        Raises what `open_truth` raises.
        """
        from spvnas_ros.offline.evaluation.truth import open_truth

        return open_truth(self.bag, self.topic, self.field, facts) if self.field else None


def given_drive(bag: Path, topic: str | None) -> Drive:
    """Returns the user's bag as a recording to label.

    The truth is the clouds' field `label`. Where a network wrote that field, the truth is the field `input_label`.

    Raises BagError or PointCloudError where the bag, or its first cloud, cannot be read.
    """
    with BagReader(bag, topic) as reader:
        names = next(({field.name for field in cloud.decode().fields} for cloud in reader), set())
        what = f"{len(reader)} clouds of {reader.topic} in {bag}"
    known = truth_field(names)
    return Drive(bag, what, topic, LabelField(known) if known else None)


def simulated_drive(out: Path, sensor: str, clouds: int, say: Callable[[str], None], *, boxed: bool = False) -> Drive:
    """Simulates a drive in a new street and writes it below the folder `out`, with `boxed` also its true boxes.

    Where Embree is missing, it draws a street of boxes instead and passes the reason to `say`.

    Raises SimulationError, BagError or OSError where the drive cannot be written, and ValueError for an unknown sensor.
    """
    from spvnas_ros.offline.simulation.cast import SimulationError, check_embree
    from spvnas_ros.offline.simulation.drive import CONFIGURATION, Plan, simulate

    plan = Plan(sensor, clouds, _INTERVAL, SEED, formats=("bag", "boxes") if boxed else ("bag",))
    try:
        check_embree()
    except SimulationError as error:
        say(f"{error}; going on with a street of boxes")
        return _street_drive(out / _STREET, clouds)
    folder = out / "simulated"
    if (folder / CONFIGURATION).is_file():
        # An earlier demo left this folder; its simulator may have been an older one.
        shutil.rmtree(folder)
    for _ in simulate(plan, 1, folder):
        pass
    what = (
        f"{clouds} clouds of a simulated {sensor} in a street of seed {SEED}, which no shipped network was trained in"
    )
    return Drive(folder / "bags" / "00", what, field=LabelField(ids="raw"))


def _street_drive(bag: Path, clouds: int) -> Drive:
    from spvnas_ros.engine.sample_street import FRAME_ID, TOPIC, street_scan

    with BagWriter(bag, "mcap", force=True) as writer:
        for number in range(clouds):
            points, labels = street_scan(0, position=number * _STREET_STEP)
            record = np.empty(len(points), _STREET_FIELDS)
            for column, name in enumerate(("x", "y", "z", "intensity")):
                record[name] = points[:, column]
            record[LABEL_FIELD] = SEMANTIC_KITTI.decode(labels)
            stamp = number * _STREET_NS
            writer.write(TOPIC, encode(cloud_message(record, stamp, FRAME_ID)), stamp)
    return Drive(bag, f"{clouds} clouds of a drawn street", field=LabelField(ids="raw"))
