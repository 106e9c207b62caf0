"""Scans that cannot be learnt from: they are left out and told, and neither end a training nor spoil it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from drives import write_drive
from labelled_files import write_kitti
from spvnas_ros.offline.augment import Augmentation
from spvnas_ros.offline.datasets import DatasetError, open_dataset
from spvnas_ros.offline.training.batch import Batch, VoxelDataset, collate
from spvnas_ros.offline.training.command import UNFINISHED, run
from spvnas_ros.zoo.checkpoint import load_checkpoint

SCANS = 9
GOOD = (1, 8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Nine scans, of which each but two is unusable in a way of its own."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    write_drive(folder, SCANS)
    scan, label = folder / "velodyne", folder / "labels"

    def change(number: int, points: Any = None, labels: Any = None) -> None:
        for path, change, kind in (
            (scan / f"{number:06d}.bin", points, np.float32),
            (label / f"{number:06d}.label", labels, np.uint32),
        ):
            if change is not None:
                np.asarray(change(np.fromfile(path, kind)), kind).tofile(path)

    def far(values: np.ndarray) -> np.ndarray:
        values[0] = 1e6
        return values

    change(0, lambda points: points[:0], lambda labels: labels[:0])
    change(2, lambda points: np.full_like(points, np.nan))
    change(3, labels=lambda labels: 0 * labels)
    change(4, labels=lambda labels: labels[:-1])
    change(5, far)
    change(6, lambda points: points[:4], lambda labels: labels[:1] * 0 + 40)
    change(7, labels=lambda labels: 0 * labels + 21)
    return folder


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def overrides(folder: Path, *others: str) -> list[str]:
    given = [f"data.train={folder}", f"data.validation={folder}", "data.validation_scans=0", "trainer.batch_size=1"]
    return [*given, f"trainer.steps={SCANS}", "trainer.validate_every=4", "augment={}", *others]


def test_they_are_left_out_counted_and_told_once(
    damaged: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(recipe, overrides(damaged), out) == 0
    said = "".join(capsys.readouterr())
    log = log_of(out)
    skipped = {line["skipped"]: line["reason"] for line in log if "skipped" in line}
    bad = [number for number in range(SCANS) if number not in GOOD]
    usable_where_far_points_are_left_out = "damaged/000005"
    expected = {f"damaged/{number:06d}" for number in bad}
    assert expected - {usable_where_far_points_are_left_out} <= skipped.keys() <= expected
    assert len(skipped) == sum("skipped" in line for line in log)
    for number, why in (
        (0, "no point that could"),
        (3, "no"),
        (4, "000004.label has"),
        (6, "coarsest level"),
        (7, "21"),
    ):
        assert why in skipped[f"damaged/{number:06d}"]
    assert said.count("is skipped: ") == 1
    assert f"{len(skipped)} scan(s) could not be used, the first is " in said
    assert [line["step"] for line in log if "loss" in line] == list(range(1, SCANS + 1))
    assert all(line["loss"] > 0 for line in log if "loss" in line)
    scored = [line for line in log if "miou" in line]
    assert all(0 <= line["miou"] <= 1 for line in scored)


def test_a_resumed_run_knows_them_too(damaged: Path, recipe: Path, tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    run(recipe, overrides(damaged), whole)
    again = overrides(damaged, "trainer.max_minutes=1e-9")
    statuses = [run(recipe, again, pieces, resume=True) for _ in range(SCANS)]
    assert statuses == [UNFINISHED] * (SCANS - 1) + [0]
    assert log_of(pieces) == log_of(whole)


def test_the_number_of_workers_does_not_matter(damaged: Path) -> None:
    def batches(workers: int) -> list[Batch]:
        mixing = Augmentation.from_config({"lasermix": {"probability": 1.0}, "rotate": None})
        dataset = VoxelDataset(open_dataset(damaged), mixing, voxel_size=0.3, max_voxels=500)
        keys = [(epoch, index) for epoch in range(2) for index in range(SCANS)]
        return list(DataLoader(dataset, 2, sampler=keys, num_workers=workers, collate_fn=collate))

    for one, other in zip(batches(0), batches(2), strict=True):
        assert (one.names, one.skipped) == (other.names, other.skipped)
        assert torch.equal(one.coords, other.coords)
        assert torch.equal(one.feats, other.feats)
        assert not {f"damaged/{number:06d}" for number in (0, 2, 3, 4, 7)} & set(one.names)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_data_without_any_label_are_refused_before_the_first_step(recipe: Path, tmp_path: Path, part: str) -> None:
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    write_drive(unlabelled, 2)
    for path in (unlabelled / "labels").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    out = tmp_path / "run"
    says = "unlabelled/000000: none of its points has a label that counts"
    with pytest.raises(DatasetError, match=rf"none of 2 scan\(s\) .*{says}"):
        run(recipe, [f"data.{part}={unlabelled}"], out)
    assert not out.exists()


def test_scans_of_which_none_can_be_read_are_refused_with_the_first_reason(recipe: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    for kind, suffix in (("velodyne", "bin"), ("labels", "label")):
        (empty / kind).mkdir(parents=True)
        for number in range(2):
            (empty / kind / f"{number}.{suffix}").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"none of 2 scan\(s\) can be learnt from; the first is empty/0"):
        run(recipe, [f"data.train={empty}"], tmp_path / "run")


def test_validation_in_boxes_is_called_recall(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = np.random.default_rng(0).uniform((8, -3, -1.5, 0), (14, 3, 1, 1), (4000, 4))
    car = "Car 0 0 0 0 0 9 9 2.5 3.0 3.0 0.0 1.5 10.0 0.0"
    folder = write_kitti(tmp_path / "kitti", [car], points)
    out = tmp_path / "run"
    assert run(recipe, [f"data.validation={folder}", "trainer.steps=1", "schedule.warmup_steps=0"], out) == 0
    said = "".join(capsys.readouterr())
    assert "validation recall in boxes" in said
    assert "mIoU" not in said
    line = log_of(out)[-1]
    assert "miou" not in line
    training = load_checkpoint(out / "best.safetensors")[1].training
    assert training is not None
    assert training.scores == {"recall in boxes of the validation": line["recall_in_boxes"]}
