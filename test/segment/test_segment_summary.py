"""What a run says of itself: times, intensity, empty recordings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spvnas_cli import segmented
from spvnas_ros.frame import Segmentation
from spvnas_ros.perception import Perception
from spvnas_ros.recordings.bags import BagWriter, cloud_message, encode
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.segment.label_frames import Interrupted
from spvnas_ros.segment.run import segment
from spvnas_ros.segment.summary import describe


class Counting:
    """A network that notes how many points it is asked for."""

    def __init__(self, perception: Perception) -> None:
        self._perception, self.facts, self.engine = perception, perception.facts, perception.engine
        self.box_names, self.min_score = perception.box_names, perception.min_score
        self.calls: list[int] = []

    def __call__(self, points: np.ndarray, scores: bool = False, *, boxes: bool = True) -> Segmentation:
        self.calls.append(len(points))
        return self._perception(points, scores, boxes=boxes)


def test_the_first_call_is_a_warm_up_and_not_measured(scans: Path, perception: Perception, tmp_path: Path) -> None:
    counting = Counting(perception)
    with open_source(scans) as source:
        sizes = [len(frame.load().points) for frame in source]
        summary = segment(source, counting, tmp_path / "out")
    assert counting.calls == [sizes[0], *sizes]
    assert len(summary.ms) == summary.frames == 3


@pytest.mark.parametrize(
    ("rule", "kind", "values", "scale", "says"),
    [
        ("auto", "f4", (0.5, 200), "divided by 255", "intensity from field 'intensity', divided by 255 (auto)"),
        ("auto", "u1", (1, 200), "divided by 255", "intensity from field 'intensity', divided by 255 (auto)"),
        ("auto", "u2", (1, 60000), "divided by 65535", "intensity from field 'intensity', divided by 65535 (auto)"),
        ("auto", "f4", (0.5, 1), "taken as it is", "intensity from field 'intensity', taken as it is (auto)"),
        ("100", "f4", (5, 100), "divided by 100", "intensity from field 'intensity', divided by 100 (100)"),
        ("none", "f4", (5, 100), "taken as it is", "intensity not used"),
        ("auto", None, (0, 0), "", "no intensity found (fields: x, y, z)"),
    ],
)
def test_the_intensity_scale_is_reported(
    perception: Perception, tmp_path: Path, rule: str, kind: str | None, values: tuple[float, float],
    scale: str, says: str,
) -> None:  # fmt: skip
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4"), *([("intensity", kind)] if kind else [])]
    with BagWriter(tmp_path / "in") as bag:
        for stamp, value in enumerate(values):
            cloud = np.ones(5, fields)
            if kind:
                cloud["intensity"] = value
            bag.write("/points", encode(cloud_message(cloud, 0, "lidar")), stamp)
    with open_source(tmp_path / "in", intensity=rule) as source:
        summary = segment(source, perception, tmp_path / "out")
    assert describe(summary, tmp_path / "out", "bag").splitlines()[0].endswith(f"; {says}")
    document = json.loads((tmp_path / "out/summary.json").read_text())
    field = "intensity" if kind and rule != "none" else None
    assert (document["intensity"], document["intensity_from"]) == (rule, field)
    assert document["intensity_scale"] == scale


def test_the_command_reports_the_intensity_scale(scans: Path, weights: Path, tmp_path: Path) -> None:
    status, said, _ = segmented(scans, "-w", weights, "-o", tmp_path / "out", "--device", "cpu")
    assert status == 0
    assert said.splitlines()[0].endswith("intensity from field 'intensity', taken as it is (auto)")


def test_a_bag_without_clouds_and_a_run_stopped_at_once_say_so(perception: Perception, tmp_path: Path) -> None:
    cloud = np.zeros(5, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    with BagWriter(tmp_path / "in") as bag:
        bag.write("/points", encode(cloud_message(cloud, 0, "lidar")), 1)
    with open_source(tmp_path / "in") as source:
        with pytest.raises(Interrupted, match="0 of 1 frames"):
            segment(source, perception, tmp_path / "out", stopped=lambda: True)
        empty = segment(source, perception, tmp_path / "other")
    empty.frames, empty.skipped = 0, []
    assert "holds no frames" in describe(empty, tmp_path / "out", "bag")
    assert not (tmp_path / "out").exists()
