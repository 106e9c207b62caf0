"""Boxes in the viewer, without a browser: where they come from, which are shown, as which lines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joint_networks import joint_facts, joint_network
from segment_results import FRAMES, street, write_bag
from spvnas_cli import segmented, spvnas
from spvnas_ros.boxes.conversions import box_corners, moved, wrapped
from spvnas_ros.clouds.mount import PlaceRule
from spvnas_ros.engine.sample_street import street_scan
from spvnas_ros.labels import SEMANTIC_KITTI
from spvnas_ros.perception import Detector, Perception
from spvnas_ros.recordings.bags import BagWriter, cloud_message, encode
from spvnas_ros.recordings.box_bags import TRUE_BOXES_TOPIC, RecordedBoxes, encode_boxes
from spvnas_ros.recordings.message_types import DETECTIONS_TYPE
from spvnas_ros.recordings.object_tables import Objects, write_objects
from spvnas_ros.recordings.scans import open_source
from spvnas_ros.viewer.box_sources import (
    Boxing,
    BoxSource,
    NamedBoxes,
    ViewBoxesError,
    origin_of_a_run,
    recorded_boxes,
    true_boxes,
)
from spvnas_ros.viewer.command import results_of_a_run
from spvnas_ros.viewer.frames import Frames, Labelling, ViewFrame
from spvnas_ros.viewer.view_boxes import (
    BoxSwitches,
    ViewBoxes,
    chosen,
    count_boxes,
    dashed_outlines,
    describe_boxes,
    first_score,
    outlines,
)

ROW = np.array([[12.0, 3.0, -0.9, 4.2, 1.8, 1.5, 0.7]])


def frame_of(path: Path, number: int = 0, place: PlaceRule | None = None, **boxing: object) -> ViewFrame:
    with open_source(path, place=place or PlaceRule()) as source:
        return Frames(source, Labelling(SEMANTIC_KITTI), boxing=Boxing(**boxing))[number]  # type: ignore[arg-type]


def boxes(kinds: list[str], scores: list[float]) -> ViewBoxes:
    return ViewBoxes(tuple(kinds), np.repeat(ROW, len(kinds), axis=0), np.array(scores, np.float64))


box_rows = st.lists(
    st.tuples(*[st.floats(-50, 50)] * 3, *[st.floats(0.2, 12)] * 3, st.floats(-3.1, 3.1)), min_size=1, max_size=4
)


@given(box_rows)
def test_lines_join_the_corners_and_the_arrow_points_where_the_box_looks(rows: list[tuple[float, ...]]) -> None:
    table = np.array(rows)
    for lines, cross in ((outlines(table), 2), (dashed_outlines(table), 0)):
        assert (lines.dtype, lines.shape[0], lines.shape[2:]) == (np.float32, len(rows), (2, 3))
        edges, arrow = lines[:, :-3].astype(float), lines[:, -3].astype(float)
        corners = box_corners(table)
        for each in (0, 1):  # lowest and highest of the lines are those of the corners
            reach = edges.reshape(len(rows), -1, 3)
            np.testing.assert_allclose((reach.min, reach.max)[each](axis=1), (corners.min, corners.max)[each](axis=1),
                                       atol=1e-3)  # fmt: skip
        if cross:
            diagonals = edges[:, 12:]
            np.testing.assert_allclose(diagonals[:, 0].mean(axis=1), diagonals[:, 1].mean(axis=1), atol=1e-3)
        ahead = arrow[:, 1] - arrow[:, 0]
        np.testing.assert_allclose(wrapped(np.arctan2(ahead[:, 1], ahead[:, 0]) - table[:, 6]), 0, atol=1e-3)
        np.testing.assert_allclose(ahead[:, 2], 0, atol=1e-4)
        assert (np.linalg.norm(ahead, axis=1) > table[:, 3] / 2).all()  # beyond the front


def test_switches_and_the_least_score_decide_what_is_shown_and_all_is_counted() -> None:
    found, true = boxes(["car", "person", "car"], [0.9, 0.3, 0.1]), boxes(["Pedestrian", "Car"], [1, 1])
    for switches, kinds, true_kinds in (
        (BoxSwitches(score=0.3), ("car", "person"), ("Pedestrian", "Car")),
        (BoxSwitches(score=0.95), (), ("Pedestrian", "Car")),
        (BoxSwitches(score=0.0, hidden=frozenset({"car"})), ("person",), ("Pedestrian",)),
        (BoxSwitches(found=False), None, ("Pedestrian", "Car")),
        (BoxSwitches(true=False, score=0.5), ("car",), None),
    ):
        shown = chosen(found, switches), chosen(true, switches, true=True)
        assert tuple(None if each is None else each.kinds for each in shown) == (kinds, true_kinds)
    counts = count_boxes(found, true, BoxSwitches(score=0.3, hidden=frozenset({"car"})))
    # KITTI's Pedestrian is the person of others: one row.
    assert {row: (c.shown, c.found, c.true) for row, c in counts.items()} == {"car": (1, 2, 1), "pedestrian": (1, 1, 1)}
    assert count_boxes(None, None, BoxSwitches()) == {}
    assert (first_score(found), first_score(boxes(["car"], [0.2])), first_score(None)) == (0.3, 0.0, 0.3)


def test_a_point_tells_the_boxes_around_it() -> None:
    found = boxes(["car"], [0.87])
    inside, outside = np.array([12, 3, -0.9, 0], np.float32), np.array([12, 9, -0.9, 0], np.float32)
    assert describe_boxes(found, inside, "box") == [("box", "car 0.87, 4.2 x 1.8 x 1.5 m")]
    assert describe_boxes(found, inside, "true box") == [("true box", "car, 4.2 x 1.8 x 1.5 m")]
    assert describe_boxes(found, outside, "box") == describe_boxes(None, inside, "box") == []


def drive(root: Path) -> Path:
    """A scan of a simulated drive with its table of boxes; gives the sequence."""
    sequence = root / "sequences" / "00"
    (sequence / "velodyne").mkdir(parents=True)
    (root / "boxes" / "00").mkdir(parents=True)
    street_scan(3, 16, 60)[0].tofile(sequence / "velodyne" / "000000.bin")
    table = Objects(("car",), ROW.astype(np.float32), np.array([7]), np.array([0]))
    write_objects(root / "boxes" / "00" / "000000.csv", table)
    return sequence


def test_true_boxes_of_a_simulated_drive_move_with_its_points(tmp_path: Path) -> None:
    sequence = drive(tmp_path)
    mounts = (None, "z=0.5,yaw=90", "roll=180")
    for path in (tmp_path, sequence, sequence / "velodyne", sequence / "velodyne" / "000000.bin"):
        for mount in mounts:
            place = PlaceRule.parse(None, mount)
            with open_source(path, place=place) as source:
                truth = true_boxes(source)
                frame = Frames(source, Labelling(SEMANTIC_KITTI), boxing=Boxing(true=truth))[0]
                placement = source.sensor.placement(next(iter(source)).load().record)
            assert frame.true_boxes is not None
            assert (frame.true_boxes.kinds, frame.boxes) == (("car",), None)
            expected = ROW if placement is None else moved(ROW, placement.matrix())
            np.testing.assert_allclose(frame.true_boxes.boxes, expected, atol=1e-3)


def test_true_boxes_of_kitti_hold_the_points_of_their_objects(shared: Path) -> None:
    training = shared / "data/kitti/training"
    with open_source(training / "velodyne") as source:
        frames = Frames(source, Labelling(SEMANTIC_KITTI), boxing=Boxing(true=true_boxes(source)))
        for index in range(len(frames)):
            true = frames[index].true_boxes
            assert true is not None
            assert "DontCare" not in true.kinds
            for number in range(len(true)):
                one = true.among(np.arange(len(true)) == number)
                assert any(describe_boxes(one, point, "box") for point in near(frames[index].points, one.boxes[0]))


def near(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Some points near the middle of a box."""
    away = np.linalg.norm(points[:, :3] - box[:3], axis=1)
    return points[np.argsort(away)[:50]]


@pytest.fixture(scope="module")
def joint() -> Perception:
    net = joint_network(2, street(0)[0])
    return Perception.from_net(net, joint_facts(net), device="cpu")


def test_a_network_finds_boxes_only_while_they_are_shown(joint: Perception, tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        street(number)[0].tofile(tmp_path / f"{name}.bin")
    asked: list[bool] = []

    class Watched:
        box_names = joint.box_names

        def __call__(self, points: np.ndarray, *, boxes: bool) -> object:
            asked.append(boxes)
            return joint(points, boxes=boxes)

    with open_source(tmp_path) as source:
        frames = Frames(source, Labelling(SEMANTIC_KITTI, network=Watched()))  # type: ignore[arg-type]
        assert (frames.boxed, frames.box_names) == (True, ("car", "person"))
        first = frames[0]
        assert first.boxes is not None
        expected = joint(first.points).boxes
        assert expected is not None
        assert len(expected) > 0
        np.testing.assert_allclose(first.boxes.boxes, expected.boxes)
        assert first.boxes.kinds == tuple(joint.box_names[index] for index in expected.classes)
        frames.want_boxes(False)
        assert frames[1].boxes is None
        frames.want_boxes(True)
        assert frames[1].boxes is not None
    assert asked == [True, False, True]


def test_a_detector_is_shown_without_labels(detector_weights: Path, tmp_path: Path) -> None:
    street(0)[0].tofile(tmp_path / "a.bin")
    detector = Detector.load(detector_weights, device="cpu")
    frame = frame_of(tmp_path / "a.bin", detector=(detector, detector.names))
    assert frame.boxes is not None
    assert frame.labels is None
    np.testing.assert_allclose(frame.boxes.boxes, detector(frame.points).boxes)


def of_run(out: Path, named: NamedBoxes | None = None) -> tuple[list[ViewFrame], str]:
    """What `spvnas view OUT` shows of boxes, and what it says."""
    path, labels = results_of_a_run(out, None)
    with open_source(path) as source:
        found, remark = recorded_boxes(named or NamedBoxes(), source, out)
        recording, numbers = origin_of_a_run(out)
        boxing = Boxing(recorded=found, true=true_boxes(source, numbers, recording))
        frames = Frames(source, Labelling(SEMANTIC_KITTI, folder=labels), boxing=boxing)
        return [frames[index] for index in range(len(frames))], remark


def test_the_boxes_of_a_run_are_shown_with_its_scans_and_with_its_bag(
    weights: Path, detector_weights: Path, tmp_path: Path
) -> None:
    drive(tmp_path / "set")
    bag = write_bag(tmp_path / "bags" / "00")
    (tmp_path / "boxes").mkdir()
    shutil.copytree(tmp_path / "set/boxes/00", tmp_path / "boxes/00")
    for name, source in (("scans", tmp_path / "set"), ("bag", bag)):
        out = tmp_path / f"out_{name}"
        arguments = ("-w", weights, "--boxes", detector_weights, "-o", out, "--device", "cpu", "--quiet")
        assert segmented(source, *arguments)[0] == 0
        frames, remark = of_run(out)
        assert (len(frames), remark) == (1 if name == "scans" else FRAMES, "")
        detector = Detector.load(detector_weights, device="cpu")
        for frame in frames:
            expected = detector(frame.points)
            assert frame.boxes is not None
            order = np.argsort(-expected.scores, kind="stable")
            np.testing.assert_allclose(frame.boxes.boxes[:, :6], expected.boxes[order][:, :6], atol=1e-3)
            np.testing.assert_allclose(frame.boxes.scores, expected.scores[order], atol=1e-5)
        true = [frame.true_boxes is not None and frame.true_boxes.kinds for frame in frames]
        assert true[0] == ("car",)
        if name == "bag":
            assert true[1:] == [False] * (FRAMES - 1)  # there is a table for the first cloud alone
            (again, _), other = of_run(out, NamedBoxes.parse(str(out)))[0][:2], detector(frames[0].points)
            assert again.boxes is not None
            assert len(again.boxes) == len(other)
    broken = tmp_path / "out_scans/boxes/00/000000.json"
    for text in ("[]", '{"boxes": [{"class": "car"}]}', "{", json.dumps({"boxes": [{"class": "car", "score": "x"}]})):
        broken.write_text(text)
        (frame, *_), _ = of_run(tmp_path / "out_scans")
        assert "does not hold boxes as `spvnas segment` writes them" in frame.problem
        assert frame.boxes is None
        assert len(frame.points)


def bag_with_boxes(path: Path, topics: dict[str, str]) -> Path:
    """Two clouds, the first with boxes in these frames by topic."""
    with BagWriter(path, "mcap") as bag:
        for number in range(2):
            record = np.zeros(4, [(name, "<f4") for name in "xyz"])
            record["x"] = 5 + np.arange(4)
            stamp = 10**9 + number
            bag.write("/points", encode(cloud_message(record, stamp, "lidar")), stamp)
        for topic, frame in topics.items():
            message = RecordedBoxes(10**9, frame, ("car",), ROW, np.array([0.5]))
            bag.write(topic, encode_boxes(message), 10**9, DETECTIONS_TYPE)
    return path


def shown(source: BoxSource | None, bag: Path) -> list[int | None]:
    frames = (frame_of(bag, number, recorded=source) for number in range(2))
    return [None if frame.boxes is None else len(frame.boxes) for frame in frames]


def test_boxes_in_a_bag_belong_to_the_clouds_of_their_stamps_and_frame(tmp_path: Path) -> None:
    bag = bag_with_boxes(tmp_path / "bag", {"/b": "lidar", "/c": "lidar", TRUE_BOXES_TOPIC: "lidar"})
    with open_source(bag) as source:
        found, remark = recorded_boxes(NamedBoxes(), source, bag)
        assert remark == "The boxes are those of /b; --boxes shows those of /c."
        assert shown(found, bag) == [1, None]
        truth = true_boxes(source)
        frame = frame_of(bag, recorded=found, true=truth)
        assert frame.true_boxes is not None
        np.testing.assert_allclose(frame.true_boxes.boxes, ROW)
        assert shown(recorded_boxes(NamedBoxes.parse("/c"), source, bag)[0], bag) == [1, None]
        with pytest.raises(ViewBoxesError, match=r"has no boxes on /d; found /b, /c, /truth/objects"):
            recorded_boxes(NamedBoxes.parse("/d"), source, bag)
    other = bag_with_boxes(tmp_path / "map", {"/b": "map"})
    with open_source(other) as source:
        found, remark = recorded_boxes(NamedBoxes(), source, other)
    frame = frame_of(other, recorded=found)
    assert (frame.boxes, remark) == (None, "")
    assert "are in the frame 'map' and the cloud in 'lidar'" in frame.problem
    assert frame_of(other, 1, recorded=found).problem == ""
    plain = bag_with_boxes(tmp_path / "plain", {})
    with open_source(plain) as source:
        assert recorded_boxes(NamedBoxes(), source, plain) == (None, "")
        assert true_boxes(source) is None


def test_boxes_that_are_named_and_not_there_are_told(tmp_path: Path, weights: Path) -> None:
    pytest.importorskip("viser", reason="viser is not installed: pip install 'spvnas_ros[view]'")
    drive(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    for named, said in (
        (tmp_path / "empty", "holds no boxes of `spvnas segment`"),
        ("/topic", "has no boxes on /topic; found none"),
        (tmp_path / "gone.safetensors", "there is no file"),
        (weights, "gives labels alone"),
    ):
        result = spvnas("view", tmp_path / "set", "--boxes", named, "--port", "0")
        assert result.exit_code == 1
        assert said in result.output
