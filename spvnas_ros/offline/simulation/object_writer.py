"""Writes boxes around everything movable that the sensor saw, all around it: a table for each scan.

OUT/boxes/00/000000.csv belongs to OUT/sequences/00/velodyne/000000.bin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np

from spvnas_ros.boxes.conversions import moved
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.simulation.kitti_boxes import occlusion_of
from spvnas_ros.offline.simulation.lidar import Lidar, SimulatedScan
from spvnas_ros.offline.simulation.semantic_kitti_writer import whole_folder
from spvnas_ros.recordings.object_tables import Objects, write_objects


@contextmanager
def table_writer(folder: Path, lidar: Lidar) -> Iterator[Callable[[float, SimulatedScan], None]]:
    """Yields a function that writes the table of a scan, given the second at which its sweep began.

    The folder appears at the end of the block: whole, or not at all. Raises OSError where it cannot be written.
    """
    numbers = count()
    with whole_folder(folder) as temporary:
        temporary.mkdir(parents=True)
        yield lambda t, scan: write_objects(temporary / f"{next(numbers):06d}.csv", objects_of(lidar, scan, t))


def objects_of(lidar: Lidar, scan: SimulatedScan, t: float) -> Objects:
    """Returns the objects of which a scan has at least one point, where its points show them. Their ids are the
    instances of its labels.

    t: seconds at which the sweep began

    What stands on a slope is tilted, and its box is not.
    """
    counts = np.bincount(scan.instances, minlength=1 << 16)
    kinds, boxes, points, occlusion, ids = [], [], [], [], []
    for actor in lidar.scene.actors:
        label = SEMANTIC_KITTI.to_class[actor.raw_label]
        if not counts[actor.instance]:
            continue
        met = lidar.meeting(actor, scan, t)
        x, y, z, yaw = actor.pose(met.moment)
        box = np.array([[x, y, z + actor.size[2] / 2, *actor.size, yaw]])
        kinds.append(SEMANTIC_KITTI.classes[label])
        shown = moved(box, np.linalg.inv(met.frame))[0]
        # Tables have four decimals, and 3.1416 would lie beyond half a turn.
        shown[6] = np.clip(shown[6], -3.1415, 3.1415)
        boxes.append(shown)
        points.append(int(counts[actor.instance]))
        occlusion.append(occlusion_of(lidar.visible_share(actor, met.moment, met.sensor)))
        ids.append(actor.instance)
    return Objects(
        tuple(kinds),
        np.array(boxes, np.float32).reshape(-1, 7),
        np.array(points, np.int64),
        np.array(occlusion, np.int64),
        np.array(ids, np.int64),
    )
