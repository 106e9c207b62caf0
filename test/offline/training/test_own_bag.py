"""From a bag of one's own, with names and ids of one's own, to weights and their score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from drives import write_drive
from spvnas_ros.cli import app
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.offline.datasets import DatasetError, LabelField, open_dataset
from spvnas_ros.offline.training.config import DataConfig
from spvnas_ros.offline.training.data import open_training, open_validation, sensor_of
from spvnas_ros.recordings.bags import BagWriter, cloud_message, encode
from spvnas_ros.zoo.checkpoint import load_checkpoint

CLOUDS = 3
CAR, TRUCK = 10, 18
"""Raw ids. Both are class indices, too, so whoever recorded them must say what they are."""


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two topics of clouds whose field `category` says car ahead and truck behind, intensities in 0..255."""
    path = tmp_path_factory.mktemp("bag") / "drive"
    fields = [(name, "<f4") for name in ("x", "y", "z", "intensity")] + [("category", "<u4")]
    with BagWriter(path) as writer:
        for number in range(CLOUDS):
            points, _ = street_scan(number, 16, 100)
            for topic, rows in (("/front", points), ("/rear", points[:50])):
                record = np.zeros(len(rows), fields)
                for column, name in enumerate(("x", "y", "z")):
                    record[name] = rows[:, column]
                record["intensity"] = rows[:, 3] * 255
                record["category"] = raw_ids(rows)
                writer.write(topic, encode(cloud_message(record, number, "lidar")), number)
    return path


def raw_ids(points: np.ndarray) -> np.ndarray:
    return np.where(points[:, 0] > 0, CAR, TRUCK)


def spvnas(*arguments: object) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


def small_recipe(path: Path) -> Path:
    document = {
        "name": "own",
        "net": {"widths": [4, 4, 8, 8, 8, 8, 8, 8, 8], "depths": [1] * 8},
        "data": {"voxel_size": 0.3, "max_voxels": 1500, "workers": 0},
        "schedule": {"warmup_steps": 0},
        "trainer": {"steps": 2, "batch_size": 1, "device": "cpu", "log_every": 1, "validate_every": 2},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_bag_with_fields_and_ids_of_its_own_becomes_weights_and_their_score(bag: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    chosen = ["data.topic=/front", "data.labels_field=category", "data.label_ids=raw"]
    recipe = small_recipe(tmp_path / "own.yaml")
    done = spvnas("train", recipe, f"data.train={bag}", f"data.validation={bag}", *chosen, "--out", out)
    assert done.exit_code == 0, done.output
    (validation,) = [line for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if "miou" in line]
    assert {name for name, iou in validation["iou"].items() if iou is not None} == {"car", "truck"}

    facts = load_checkpoint(out / "best.safetensors")[1]
    intensities = np.concatenate([street_scan(number, 16, 100)[0][:, 3] for number in range(CLOUDS)])
    assert facts.training_intensity is not None
    assert facts.training_intensity.median == pytest.approx(np.median(intensities), abs=1e-6)
    assert facts.training_intensity.p95 == pytest.approx(np.percentile(intensities, 95), abs=1e-6)
    shown = " ".join(spvnas("inspect", "-w", out / "best.safetensors").stdout.split())
    assert f"{facts.training_intensity.p95:.3g}" in shown

    options = ("--topic", "/front", "--truth", "category", "--label-ids", "raw", "--json")
    report = json.loads(spvnas("evaluate", bag, "-w", out / "best.safetensors", *options).stdout)
    ahead = sum(int((raw_ids(street_scan(number, 16, 100)[0]) == CAR).sum()) for number in range(CLOUDS))
    assert (report["truth_points"]["car"], report["truth_points"]["truck"]) == (ahead, report["points"] - ahead)
    assert report["truth"] == "field 'category'"


def test_what_the_ids_are_is_the_users_to_say(bag: Path) -> None:
    def classes(ids: str) -> set[int]:
        dataset = open_dataset(bag, topic="/front", field=LabelField("category", ids))
        return set(np.unique(dataset[0].labels).tolist())

    assert classes("raw") == {0, 3}
    assert classes("auto") == classes("class") == {CAR, TRUCK}


def test_the_choice_holds_for_bags_and_leaves_other_sources_alone(bag: Path, tmp_path: Path) -> None:
    write_drive(tmp_path, 2)
    chosen = {"topic": "/rear", "labels_field": "category", "label_ids": "raw"}
    config = DataConfig(
        train=(str(bag), str(tmp_path)), validation=(str(tmp_path),), label_map="semantic-kitti", **chosen
    )
    scans, validation = open_training(config), open_validation(config)
    assert (len(scans), len(scans[0])) == (CLOUDS + 2, 50)
    assert validation is not None
    assert len(validation) == 2
    assert sensor_of(scans)[0] is not None

    alone = DataConfig(train=(str(tmp_path),), label_map="semantic-kitti", labels_field="category")
    with pytest.raises(DatasetError, match=r"data\.labels_field is 'category', which chooses in bags, but none of"):
        open_training(alone)
    with pytest.raises(DatasetError, match="no field 'label'"):
        open_training(DataConfig(train=(str(bag),), label_map="semantic-kitti", topic="/front"))


def test_what_a_network_wrote_is_learnt_only_where_the_recipe_says_so(bag: Path, weights: Path, tmp_path: Path) -> None:
    assert spvnas("segment", bag, "-w", weights, "-o", tmp_path / "out", "--topic", "/rear").exit_code == 0
    source = (str(tmp_path / "out" / "bag"),)
    with pytest.raises(DatasetError, match=r"data\.network_labels=true"):
        open_training(DataConfig(train=source, label_map="semantic-kitti"))
    assert len(open_training(DataConfig(train=source, label_map="semantic-kitti", network_labels=True))) == CLOUDS
