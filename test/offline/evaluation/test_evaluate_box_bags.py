"""`spvnas evaluate --boxes` on bags: Detection3DArray messages against the true ones of the same stamp."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spvnas_cli import spvnas
from spvnas_ros.boxes.conversions import wrapped
from spvnas_ros.recordings.bags import BagWriter
from spvnas_ros.recordings.box_bags import RecordedBoxes, boxes_topic, encode_boxes, read_boxes
from spvnas_ros.recordings.message_types import DETECTIONS_TYPE

TRUTH, FOUND = "/truth", "/boxes"
STAMPS = tuple(10**18 + 10**8 * number for number in range(4))
SECOND = "1000000000.100000000"


def recorded(stamp: int, seed: int, frame_id: str = "lidar") -> RecordedBoxes:
    rng = np.random.default_rng(seed)
    boxes = np.c_[rng.uniform(-50, 50, (6, 3)), rng.uniform(0.5, 5, (6, 3)), rng.uniform(-3, 3, 6)]
    return RecordedBoxes(stamp, frame_id, ("car", "tram", "car", "person", "car", "car"), boxes, rng.random(6))


def write(path: Path, topics: dict[str, list[RecordedBoxes]], storage: str = "mcap") -> Path:
    with BagWriter(path, storage) as bag:
        for topic, messages in topics.items():
            for message in messages:
                bag.write(topic, encode_boxes(message), message.stamp, DETECTIONS_TYPE)
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_is_written_is_read_again(tmp_path: Path, storage: str) -> None:
    path = write(tmp_path / "bag", {TRUTH: [recorded(stamp, 1) for stamp in STAMPS]}, storage)
    again = read_boxes(path, boxes_topic(path, None, "--topic"))
    assert [message.stamp for message in again] == [*STAMPS]
    expected = recorded(STAMPS[0], 1)
    assert (again[0].names, again[0].frame_id) == (expected.names, "lidar")
    np.testing.assert_allclose(again[0].boxes[:, :6], expected.boxes[:, :6])
    np.testing.assert_allclose(wrapped(again[0].boxes[:, 6] - expected.boxes[:, 6]), 0, atol=1e-12)
    np.testing.assert_array_equal(again[0].scores, expected.scores)


def test_a_perfect_detector_has_100_and_messages_without_partner_are_told(tmp_path: Path) -> None:
    messages = [recorded(stamp, number) for number, stamp in enumerate(STAMPS)]
    bag = write(tmp_path / "bag", {TRUTH: messages[:3], FOUND: messages[1:]})
    arguments = ("evaluate", bag, "--boxes", bag, "--truth", TRUTH, "--topic", FOUND)
    found = spvnas(*arguments, "--json", "--out", tmp_path / "out")
    assert found.exit_code == 0
    report = json.loads(found.stdout)
    assert (report["frames"], report["without_results"], report["without_truth"], report["kitti"]) == (2, 1, 1, [])
    whole = [each for each in report["around"] if each["end"] is None and not each["begin"]]
    assert {each["kind"]: each["objects"] for each in whole} == {"car": 8, "person": 2, "tram": 2}
    assert all(each["ap"] == pytest.approx(100) for each in whole)
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        assert picture.width == 1600
    said = spvnas(*arguments).stdout
    assert "KITTI" not in said
    assert "person all distances: 2" in said
    assert "1 frame(s) of the truth have no results; 1 message(s) of results have no truth" in said


def test_a_shifted_detector_finds_what_is_near_enough(tmp_path: Path) -> None:
    truth = [recorded(stamp, 3) for stamp in STAMPS]
    shifted = [
        RecordedBoxes(each.stamp, "lidar", each.names, each.boxes + np.eye(7)[0] * 1.5, each.scores) for each in truth
    ]
    source, results = write(tmp_path / "truth", {TRUTH: truth}), write(tmp_path / "found", {FOUND: shifted})
    report = json.loads(spvnas("evaluate", source, "--boxes", results, "--json").stdout)
    trams = [
        each["ap"] for each in report["around"] if each["kind"] == "tram" and each["end"] is None and not each["begin"]
    ]
    assert trams == [0, 0, pytest.approx(100), pytest.approx(100)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"boxes": (3, -2.0)}, f"{FOUND}, stamp {SECOND}: box 1 of the message has the length -2, expected a size"),
        ({"boxes": (0, np.nan)}, f"{FOUND}, stamp {SECOND}: box 1 of the message has the x nan"),
        ({"scores": np.inf}, f"{FOUND}, stamp {SECOND}: object 1 has the score inf"),
        ({"frame_id": "map"}, f"at stamp {SECOND} the truth is in the frame 'lidar' and the result in 'map'"),
    ],
)
def test_a_bad_message_is_one_sentence_with_topic_and_stamp(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    messages = [recorded(stamp, number) for number, stamp in enumerate(STAMPS)]
    boxes, scores = messages[1].boxes.copy(), messages[1].scores.copy()
    if "boxes" in change:
        column, value = change["boxes"]
        boxes[1, column] = value
    scores[1] = change.get("scores", scores[1])
    wrong = RecordedBoxes(STAMPS[1], str(change.get("frame_id", "lidar")), messages[1].names, boxes, scores)
    bag = write(tmp_path / "bag", {TRUTH: messages, FOUND: [messages[0], wrong, *messages[2:]]})
    found = spvnas("evaluate", bag, "--boxes", bag, "--truth", TRUTH, "--topic", FOUND)
    assert (found.exit_code, found.stdout) == (1, "")
    assert said in found.stderr
    assert found.stderr.count("\n") == 1


def test_bags_that_do_not_fit_are_told(tmp_path: Path) -> None:
    messages = [recorded(stamp, number) for number, stamp in enumerate(STAMPS)]
    both = write(tmp_path / "both", {TRUTH: messages, FOUND: messages})
    one = write(tmp_path / "one", {FOUND: messages})
    later = write(tmp_path / "later", {FOUND: [recorded(stamp + 1, 1) for stamp in STAMPS]})
    twice = write(tmp_path / "twice", {FOUND: [messages[0], messages[0]]})
    with BagWriter(tmp_path / "none"):
        pass
    for arguments, said in (
        ((both, "--boxes", one), f"has several topics of boxes, name one with --truth: {FOUND}, {TRUTH}"),
        ((one, "--boxes", both), "name one with --topic"),
        ((one, "--boxes", one), f"{FOUND} of {one} would be compared with itself"),
        ((both, "--boxes", one, "--truth", "/other"), "has no boxes on /other"),
        ((one, "--boxes", tmp_path / "none"), "has no topic of type vision_msgs/msg/Detection3DArray; found no topics"),
        ((one, "--boxes", later), "none of the 4 message(s)"),
        ((one, "--boxes", twice), "has 2 messages of boxes with 1 stamps"),
        ((one, "--boxes", tmp_path), "is a bag and"),
        ((tmp_path, "--boxes", tmp_path, "--topic", "/a"), "is no bag, so there are no topics"),
    ):
        found = spvnas("evaluate", *arguments)
        assert (found.exit_code, found.stdout) == (1, ""), said
        assert said in found.stderr
        assert found.stderr.count("\n") == 1


def test_an_object_without_a_class_or_an_orientation_is_told(tmp_path: Path) -> None:
    raw = encode_boxes(recorded(STAMPS[0], 1))
    # The first orientation, four doubles, becomes zeros.
    yaw = recorded(STAMPS[0], 1).boxes[0, 6]
    turn = np.array([0, 0, np.sin(yaw / 2), np.cos(yaw / 2)]).tobytes()
    assert turn in raw
    with BagWriter(tmp_path / "bag", "mcap") as bag:
        bag.write(FOUND, raw.replace(turn, bytes(32)), STAMPS[0], DETECTIONS_TYPE)
    with pytest.raises(ValueError, match=r"object 0 has the orientation \[0.0, 0.0, 0.0, 0.0\] \(w, x, y, z\)"):
        read_boxes(tmp_path / "bag", FOUND)
    with BagWriter(tmp_path / "cut", "mcap") as bag:
        bag.write(FOUND, raw[:-20], STAMPS[0], DETECTIONS_TYPE)
    with pytest.raises(ValueError, match="a recorded message is damaged"):
        read_boxes(tmp_path / "cut", FOUND)
