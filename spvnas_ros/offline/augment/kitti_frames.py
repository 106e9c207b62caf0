"""Writes augmented frames of KITTI's object set as a folder in its layout: the same frames again and again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spvnas_ros.boxes.conversions import image_boxes, observation_angle, to_kitti_camera
from spvnas_ros.offline.augment.boxed_objects import build_database
from spvnas_ros.offline.augment.compose import BoxedAugmentation
from spvnas_ros.offline.augment.option_checks import AugmentationError
from spvnas_ros.offline.datasets.boxed import PICTURE, BoxedKitti, BoxedScan, open_boxed
from spvnas_ros.recordings.kitti_objects import KittiCalibration, read_calibration

_FOLDERS = ("velodyne", "label_2", "calib")


def write_frames(source: str | Path, out: str | Path, augmentation: Mapping[str, Any], *, seed: int = 0) -> int:
    """Writes every frame of a KITTI folder once, augmented; returns how many objects the written frames have.

    augmentation: as in a recipe's `augment`, see `BoxedAugmentation.from_config`. The points are those that the picture
                  shows. Rectangles and alpha are computed from the boxes, and truncation is 0; occlusion stays
    out:          a new folder

    Raises AugmentationError for a wrong augmentation, DatasetError for a source that is none of KITTI's, and OSError
    where `out` exists or cannot be written.
    """
    dataset = open_boxed(source)
    if not isinstance(dataset, BoxedKitti):
        raise AugmentationError(f"{source} is a simulated drive, expected a folder of KITTI's object set")
    augment = BoxedAugmentation.from_config(augmentation)
    scans = [dataset[index] for index in range(len(dataset))]
    database = None if augment.least is None else build_database(scans, augment.least)
    for name in _FOLDERS:
        (Path(out) / name).mkdir(parents=True)
    objects = 0
    for index, scan in enumerate(scans):
        rng = np.random.default_rng((seed, index))
        changed = augment(scan, rng, database, partial(_any, scans, rng))
        changed = replace(changed, points=changed.points.astype(np.float32))
        calibration = dataset.frames.folder / "calib" / f"{scan.name}.txt"
        velodyne, labels, calib = (Path(out) / name / scan.name for name in _FOLDERS)
        changed.points.tofile(velodyne.with_suffix(".bin"))
        lines = list(_lines(changed, read_calibration(calibration)))
        labels.with_suffix(".txt").write_text("".join(lines))
        shutil.copyfile(calibration, calib.with_suffix(".txt"))
        objects += len(lines)
    return objects


def _any(scans: Sequence[BoxedScan], rng: np.random.Generator) -> BoxedScan:
    """Returns one of the scans."""
    return scans[int(rng.integers(len(scans)))]


def _lines(scan: BoxedScan, calibration: KittiCalibration) -> Iterator[str]:
    if calibration.projection is None:
        raise AugmentationError(f"the calibration of {scan.name} has no P2, which says where in the picture boxes are")
    camera = to_kitti_camera(scan.objects.boxes, calibration.camera_from_lidar)
    rectangles, alpha = image_boxes(camera, calibration.projection, PICTURE), observation_angle(camera)
    for row, kind in enumerate(scan.objects.kinds):
        left, top, right, bottom = rectangles[row]
        if not (right > left and bottom > top):  # NaN where it is not wholly ahead
            continue
        x, y, z, length, height, width, turn = camera[row]
        numbers = (alpha[row], left, top, right, bottom, height, width, length, x, y, z, turn)
        yield f"{kind} 0 {scan.objects.occlusion[row]} {' '.join(f'{value:.4f}' for value in numbers)}\n"
