"""The door for boxes: what comes out, what unusable points do to it, and which files it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import spvnas_ros
from spvnas_ros import Detector, Perception
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.errors import UserError
from spvnas_ros.frame import Boxes
from spvnas_ros.nets.detections import detect
from spvnas_ros.zoo.checkpoint import CheckpointError
from spvnas_ros.zoo.detector_checkpoint import DetectorFacts, load_detector
from tiny_detectors import FOUND, NAMES, tiny_detector


@pytest.fixture(scope="module")
def detector(detector_weights: Path) -> Detector:
    return Detector.load(detector_weights, device="cpu")


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    return street_scan(3, 16, 360)[0]


def same(one: Boxes, other: Boxes) -> None:
    for name in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_it_finds_what_the_detector_finds_and_says_what_it_is(
    detector: Detector, detector_weights: Path, cloud: np.ndarray
) -> None:
    found = detector(cloud)
    assert (len(found), detector.names, detector.device, detector.facts.name) == (FOUND, NAMES, "cpu", "tiny-second")
    same(found, detect(load_detector(detector_weights)[0], [torch.from_numpy(cloud)])[0])
    assert spvnas_ros.Boxes is Boxes


def test_points_that_it_cannot_use_change_no_box(detector: Detector, cloud: np.ndarray) -> None:
    odd = [
        (np.nan, 1, 1, 0.5), (1, np.inf, 1, 0.5), (0, 0, 0, 0.5), (3, 3, -1, np.nan), (99, 0, 0, 0.5), (1, 1, 9, 0.5),
    ]  # fmt: skip
    mixed = np.insert(cloud, np.arange(0, 600, 100), np.array(odd, np.float32), axis=0)
    same(detector(mixed), detector(cloud))
    same(detector(mixed.astype(np.float64)), detector(cloud))
    bright = cloud.copy()
    bright[::50, 3] = 7
    clipped = bright.copy()
    clipped[::50, 3] = 1
    same(detector(bright), detector(clipped))
    with pytest.warns(UserWarning, match="intensities were above 1 and clipped"):
        detector(cloud * np.array([1, 1, 1, 255], np.float32))


@pytest.mark.parametrize("points", [(), ((25.6, 25.6, 1, 0.5),), ((np.nan,) * 4,), ((0, 0, 0, 0),)])
def test_a_cloud_without_any_point_in_the_range_has_no_boxes(detector: Detector, points: tuple[object, ...]) -> None:
    assert len(detector(np.array(points, np.float32).reshape(-1, 4))) == 0


def test_the_least_score_can_be_chosen(detector_weights: Path, detector: Detector, cloud: np.ndarray) -> None:
    all_of_them = detector(cloud)
    least = float(all_of_them.scores[FOUND // 2])
    chosen = Detector.load(detector_weights, device="cpu", min_score=least)
    assert (chosen.min_score, detector.min_score) == (least, 0)
    same(chosen(cloud), all_of_them.among(all_of_them.scores >= np.float32(least)))
    with pytest.raises(UserError, match=r"least score of a box is 1\.5, expected a number in 0\.\.1"):
        Detector.load(detector_weights, device="cpu", min_score=1.5)


@pytest.mark.parametrize("points", [np.zeros((3, 5), np.float32), np.zeros((3, 4), "U1"), [[0.0, 0, 0, 0]]])
def test_other_points_are_refused(detector: Detector, points: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"points must be a float32 array \[N, 4\]"):
        detector(points)


def test_files_and_facts_of_other_networks_are_refused(weights: Path, detector_weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gives labels alone; Perception.load loads it, .* with --weights"):
        Detector.load(weights)
    with pytest.raises(CheckpointError, match=r"default.* gives labels and boxes: Perception.load .* as \.boxes"):
        Detector.load("default")
    with pytest.raises(CheckpointError, match=r"gives boxes, expected one that gives labels; .* takes it with --boxes"):
        Perception.load(detector_weights)
    with pytest.raises(CheckpointError, match="facts describe another detector"):
        Detector(tiny_detector(), DetectorFacts(load_detector(detector_weights)[0].spec.second("mmdet3d")))
    with pytest.raises(UserError, match="unknown device 'toaster'"):
        Detector.load(detector_weights, device="toaster")
