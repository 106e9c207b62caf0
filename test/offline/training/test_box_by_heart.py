"""A detector learns written frames of KITTI by heart; docs/detection.md has the long run, to AP 100."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from places import RECIPES
from spvnas_ros.offline.augment.kitti_frames import write_frames
from spvnas_ros.offline.training.command import run

STEPS = 60


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_real_frame_with_sampled_pedestrians_is_learnt(shared: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    write_frames(
        shared / "data" / "kitti", frames, {"sample_objects": {"counts": {"Pedestrian": 40}, "min_points": 20}}, seed=1
    )
    for path in frames.rglob("*.*"):
        if path.stem != "000000":
            path.unlink()
    near = ["detector.width=4", "detector.point_range=[0, -12, -3, 24, 12, 1]", "optimiser.learning_rate=0.01"]
    brief = [f"trainer.steps={STEPS}", f"trainer.validate_every={STEPS}", "trainer.batch_size=1"]
    data = [f"data.train={frames}", f"data.validation={frames}"]
    assert run(RECIPES / "kitti_by_heart.yaml", [*near, *brief, *data], tmp_path / "run", quiet=True) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < losses[0] / 4
    assert log[-1]["objects"]["Pedestrian"] >= 8
    assert log[-1]["ap"]["Pedestrian"] > 0.6
