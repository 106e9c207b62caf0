"""`make demo`'s program: a drive, the real node from its first state to its last, all its topics, score and viewer."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; pip install 'spvnas_ros[ros]' brings it")
pytest.importorskip("embreex", reason="embreex is not installed; pip install 'spvnas_ros[simulate]' brings it")

from browser import CHROMIUM
from joint_networks import write_joint
from ros_harness import private_domain, weights
from spvnas_ros.boxes.choice import SURE
from spvnas_ros.clouds.point_cloud2 import decode
from spvnas_ros.demo.__main__ import main
from spvnas_ros.demo.recording import given_drive, simulated_drive
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.offline.datasets import LabelField
from spvnas_ros.offline.evaluation.metrics import confusion_matrix, score
from spvnas_ros.recordings.bags import LABELLED_TOPIC, BagReader
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.ros.node.statistics import STAGES
from spvnas_ros.viewer.box_sources import Boxing, NamedBoxes, recorded_boxes, true_boxes
from spvnas_ros.viewer.frames import Frames, Labelling
from spvnas_ros.viewer.view_boxes import sure
from spvnas_ros.zoo.checkpoint import load_checkpoint
from view_samples import labelled_bag

__all__ = ["weights"]  # a fixture

TRANSITIONS = ["unconfigured", "inactive", "active", "inactive", "unconfigured"]


@pytest.fixture(autouse=True)
def domain() -> Iterator[None]:
    """Only the environment: the demo brings its own ROS."""
    with private_domain():
        yield


def demo(*arguments: str | Path) -> int:
    """The demo in this process, which spares the imports; gives its exit status."""
    return main([*map(str, arguments)])


def test_the_demo_shows_a_simulated_drive_and_scores_its_labels_and_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, weights = tmp_path / "out", write_joint(tmp_path / "joint.safetensors", street_scan(0, 16, 200)[0])
    assert demo("--sensor", "vlp16", "--clouds", "3", "--weights", weights, "--out", out) == 0
    said = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())

    node = summary["node"]
    assert node["states"] == TRANSITIONS
    assert node["status"] == 0
    assert node["clouds"] == dict.fromkeys(("labeled_points", "colored_points", "filtered_points"), 3)
    assert set(node["times_ms"]) >= set(STAGES) - {"objects"}
    assert node["reports"] > 0
    assert "not trained" in node["health"]["node"]
    if node["labels"] is not None:
        assert node["labels"] == {
            **{str(i): name for i, name in enumerate(SEMANTIC_KITTI.classes)},
            "255": "unlabelled",
        }

    # Boxes are in the labelled bag beside the true ones, by which they are scored.
    with open_source(out / "labelled") as source:
        boxes, _ = recorded_boxes(NamedBoxes(), source, out / "labelled")
        boxing = Boxing(recorded=boxes, true=true_boxes(source))
        frames = [Frames(source, Labelling(SEMANTIC_KITTI), boxing=boxing)[index] for index in range(3)]
    if node["objects"] is None:
        assert "objects are missing: vision_msgs is not built" in said
    else:
        assert node["objects"] == 3
        figure = summary["objects"]["car"]  # which are there for sure
        found = [each and each.among(sure(each, SURE)).kinds for each in (frame.boxes for frame in frames)]
        true = [each and each.kinds for each in (frame.true_boxes for frame in frames)]
        assert figure["found"] == sum((each or ()).count("car") for each in found)
        assert 0 < figure["objects"] <= sum((each or ()).count("car") for each in true)
        assert 0 <= figure["ap"] <= 100
        assert f"{sum(each['found'] for each in summary['objects'].values())} boxes of score 0.3 or more" in said

    # The score is that of the labelled bag, whose clouds keep the truth beside the labels.
    confusion, predictions = np.zeros((19, 20), np.int64), np.zeros(256, np.int64)
    with BagReader(out / "labelled") as reader:
        for recorded in reader:
            cloud = decode(recorded.decode())
            predictions += np.bincount(cloud["label"], minlength=256)
            confusion += confusion_matrix(SEMANTIC_KITTI.encode(cloud["input_label"]), cloud["label"], 19)
    assert summary["clouds"] == 3
    found = score(confusion, SEMANTIC_KITTI.classes)
    assert summary["miou"] == pytest.approx(found.miou)
    assert f"mIoU {summary['miou']:.1%}" in said

    assert "its page answered" in said
    assert ("screenshot" in summary["files"]) == bool(CHROMIUM and find_spec("playwright"))
    for name in {"picture", "truth", "screenshot"} & summary["files"].keys():
        assert Path(summary["files"][name]).read_bytes().startswith(b"\x89PNG")
    assert f"spvnas view {out / 'labelled'}" in said

    # The table has every class that occurs on either side, with its points on both.
    rows = {
        line.split()[0]: line.split()[1:]
        for line in said[said.index("predicted") : said.index("objects  ")].splitlines()
        if line[:1] == " "
    }
    for index, name in enumerate(SEMANTIC_KITTI.classes):
        predicted, known = int(predictions[index]), int(confusion[index].sum())
        if predicted or known:
            assert rows[name][0] == f"{predicted:,}"
            assert rows[name][2] == (f"{known:,}" if known else "absent")
            assert (rows[name][3] == "-") == (known == 0)
    assert summary["truth"] == {name: n for name, n in found.truth_points.items() if n}
    neither = re.search("neither predicted nor in the truth: (.*)", said)
    silent = [n for i, n in enumerate(SEMANTIC_KITTI.classes) if not predictions[i] and not confusion[i].any()]
    assert (neither.group(1).split(", ") if neither else []) == silent

    # A field of labels is taken for the truth, unless a network wrote it.
    assert given_drive(out / "simulated" / "bags" / "00", None).field == LabelField("label")
    assert given_drive(out / "labelled", None).field == LabelField("input_label")


def test_a_bag_of_ones_own_comes_back_labelled_also_without_a_viewer(
    shared: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    bag, out = shared / "data" / "bags" / "vlp16_pointcloud2_mcap", tmp_path / "out"
    assert demo(bag, "--weights", weights, "--out", out) == 0
    said = capsys.readouterr().out

    with BagReader(bag) as sent, BagReader(out / "labelled") as came:
        assert (came.topic, came.storage, len(came)) == (LABELLED_TOPIC, "mcap", 4)
        labels = []
        for before, after in zip(sent, came, strict=True):
            assert after.stamp == before.stamp
            cloud, labelled = before.decode(), after.decode()
            assert labelled.header == cloud.header
            for name in ("x", "y", "z", "intensity", "ring", "time"):
                np.testing.assert_array_equal(decode(labelled)[name], decode(cloud)[name])
            labels.append(decode(labelled)["label"])

    summary = json.loads((out / "summary.json").read_text())
    assert (summary["clouds"], summary["points"], summary["bad"], summary["miou"]) == (4, 116_827, {}, None)
    assert len(summary["classes"]) == len(np.unique(np.concatenate(labels)))
    assert 0 < summary["ms_p50"] <= summary["ms_p95"]
    assert "The network is not trained" in said
    assert "pip install 'spvnas_ros[view]'" in said
    assert "no truth" in said


def test_a_viewer_that_does_not_start_fails_the_demo_after_everything_else(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken" / "viser").mkdir(parents=True)
    (tmp_path / "broken" / "viser" / "__init__.py").write_text("raise RuntimeError('no viewer today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"), prepend=os.pathsep)
    labelled_bag(tmp_path / "bag", 1)
    out = tmp_path / "out"
    assert demo(tmp_path / "bag", "--weights", weights, "--out", out) == 1
    said = capsys.readouterr().out
    assert re.search("^viewer +did not work: the viewer did not start: ", said, re.MULTILINE)
    summary = json.loads((out / "summary.json").read_text())
    assert "no viewer today" in summary["viewer"]
    assert (summary["clouds"], summary["miou"]) == (1, None)
    assert "no truth to compare with" in said  # a network wrote the labels of that bag, and nothing else did
    assert (out / "picture.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--weights", "nowhere"], "there is no file nowhere"),
        (["--engine", "steam"], "the node cannot configure: .*steam"),
    ],
)
def test_the_demo_says_why_there_is_none(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    labelled_bag(tmp_path / "bag", 1)
    assert demo(tmp_path / "bag", "--weights", weights, *arguments, "--out", tmp_path / "out") == 1
    complaint = capsys.readouterr().err
    assert re.match(f"demo: {reason}", complaint), complaint
    assert not list((tmp_path / "out").glob("*labelled*"))


def test_without_embree_a_street_with_its_truth_is_drawn(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("embreex")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "embreex", None)
    said: list[str] = []
    drive = simulated_drive(tmp_path, "hdl64", 2, said.append)
    assert "pip install 'spvnas_ros[simulate]'" in said[0]

    truth = drive.truth(load_checkpoint(weights)[1])
    assert truth is not None
    with BagReader(drive.bag) as reader:
        known = [truth.read(str(number), decode(cloud.decode())) for number, cloud in enumerate(reader)]
    assert len(known) == 2
    assert {"road", "building", "car", "vegetation"} <= {SEMANTIC_KITTI.classes[i] for i in np.unique(known[1])}
